"""Many graphs on the same images, each piece of it computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import quantcore
from quantcore.contracts.registry import ENGINES, load_engine, needed
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.data.unlabelled import UnlabelledImages
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import UsageError
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.tasks import task_of
from quantcore.ir.decoding import LIMITS
from quantcore.ir.model import FloatModel
from quantcore.runtime.jobs import Job, Piece, Runtime
from quantcore.runtime.keys import content_key, file_digests, graph_digest
from quantcore.studies.graph_job import Candidate, Finding, run_graphs

#: Images on which a layer's own error is measured; it hardly differs between images.
PROBED_IMAGES = 8

#: Of what a finding means; a change of it makes all that is on disk obsolete.
REVISION = 2


@dataclass(frozen=True)
class RunOutcome:
    """What a graph made of all images.

    Attributes:
        predictions: On all images.
        powers: Image id -> `Finding.powers`.
        key: Of the findings, by the contents of graph and images.
    """

    predictions: Predictions
    powers: Mapping[int, tuple[float, float, float, float]]
    key: str


class GraphRuns:
    """Runs graphs of one model on some images, image by image, several images in flight.

    Args:
        model: The float model.
        dataset: Ground truth and category ids.
        images: What to run on.
        runtime: Where it is done and kept.
        workers: Images in flight; None for one on each core. One thread runs each: two sessions
            with a thread each do more in a second than one session with two.
    """

    def __init__(
        self,
        model: FloatModel,
        dataset: Dataset,
        images: Sequence[ImageFile],
        runtime: Runtime,
        workers: int | None = None,
    ) -> None:
        if model.batch_size not in (None, 1):
            raise UsageError(
                f"{model.name}: images are run one by one, but the graph takes batches of "
                f"{model.batch_size}; export it with a dynamic batch"
            )
        self.model, self.dataset, self.images = model, dataset, tuple(images)
        self.task = task_of(model)
        # Without labels agreement with the float model can still be measured.
        bare = isinstance(dataset, UnlabelledImages)
        names = model.class_names
        self._category_ids = tuple(range(len(names))) if bare else self.task.check(dataset, names)
        dataset.labels_of(self.images)  # labels that are no good are refused before any work
        self._runtime, self._workers = runtime, workers
        self._digests = file_digests((image.path for image in self.images), runtime.progress)
        self._image_keys = [
            (self._digests[image.path], *(image.size or ()), number < PROBED_IMAGES)
            for number, image in enumerate(self.images)
        ]
        versions = load_engine(REFERENCE_ENGINE).versions()
        self._about = (REVISION, quantcore.__version__, model.key, LIMITS, dict(versions))

    def run(
        self, candidates: Sequence[Candidate], what: str = "images", shared: bool = True
    ) -> list[RunOutcome]:
        """The outcome of each graph; what was kept of it is not computed again.

        Args:
            candidates: The graphs.
            what: A few words for the progress.
            shared: Run the float graph once for all graphs and each graph from its first change
                on; False runs each graph whole, which is better for graphs changed throughout.
        """
        keys = [self._keys(candidate, shared) for candidate in candidates]
        pieces = tuple(
            Piece(key=key, kind=Finding, about=(graph, image, number < PROBED_IMAGES), group=number)
            for graph, own in enumerate(keys)
            for number, (key, image) in enumerate(zip(own, self.images, strict=True))
        )
        values = self._runtime.run(
            Job(
                what=what,
                function=run_graphs,
                arguments=(self.model, tuple(candidates), shared, self._workers, what),
                pieces=pieces,
                apart=False,
                needs=needed(ENGINES, REFERENCE_ENGINE),
                reads=self._digests,
            )
        )
        count = len(self.images)
        return [
            self._outcome(values[n * count : (n + 1) * count], own) for n, own in enumerate(keys)
        ]

    def _keys(self, candidate: Candidate, shared: bool) -> list[str]:
        """Of the finding of a graph on each image, by the image's content."""
        layer = candidate.layer and candidate.layer.name
        about = (self._about, graph_digest(candidate.proto), shared, layer)
        base = content_key("graph on an image", *about)
        return [content_key(base, image) for image in self._image_keys]

    def _outcome(self, found: Sequence[Finding], keys: Sequence[str]) -> RunOutcome:
        each = dict(zip((image.id for image in self.images), found, strict=True))
        by_image = {i: f.prediction for i, f in each.items()}
        predictions = self.task.predictions(by_image, self._category_ids)
        powers = {i: f.powers for i, f in each.items()}
        return RunOutcome(predictions, powers, content_key(keys))
