"""What was found scored against the ground truth, with the bootstrap of the images: as one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantcore.data.dataset import Dataset, ImageFile
from quantcore.evaluation.jobs import Found
from quantcore.evaluation.tasks import Scores, Task
from quantcore.results.estimate import FigureDraws
from quantcore.results.evaluation import Accuracy
from quantcore.runtime.jobs import Job, at_hand
from quantcore.runtime.keys import content_key
from quantcore.runtime.progress import Progress

#: Of what kept scores mean; a change of it makes all that is on disk obsolete.
REVISION = 2


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Accuracy of one graph on one set of images, as it is kept.

    Attributes:
        scores: What the task's metric says.
        times: Images and milliseconds, the other fields of `Accuracy`.
        draws: The main figure under a bootstrap of the images.
    """

    scores: Scores
    times: Mapping[str, int | float]
    draws: FigureDraws

    def accuracy(self, task: Task) -> Accuracy:
        """Scores and times as the task's result."""
        return task.result(self.scores, **self.times)


def scores_job(
    what: str,
    task: Task,
    dataset: Dataset,
    images: Sequence[ImageFile],
    found: Sequence[Found],
    category_ids: tuple[int, ...],
    keys: Sequence[str],
) -> Job[Scored]:
    """Scores what was found on some images.

    Args:
        what: Names the job in errors.
        task: How it is scored.
        dataset: The ground truth.
        images: What was run.
        found: What was found on each.
        category_ids: The data set's category id of each class index.
        keys: Of what was found, which the scores depend on.
    """
    about = (task.name, list(keys), labels_key(dataset, images), category_ids)
    key = content_key("scores", REVISION, *about)
    given = (task, dataset, tuple(images), tuple(found), category_ids)
    return at_hand(what, key, Scored, _scored, *given)


def labels_key(dataset: Dataset, images: Sequence[ImageFile]) -> str:
    """A key of the ground truth of some images."""
    return content_key(*dataset.labels_of(images))


def _scored(
    task: Task,
    dataset: Dataset,
    images: Sequence[ImageFile],
    found: Sequence[Found],
    category_ids: tuple[int, ...],
    progress: Progress,
) -> Scored:
    by_image = {image.id: one.prediction for image, one in zip(images, found, strict=True)}
    predictions = task.predictions(by_image, category_ids)
    scores = task.score(dataset, predictions)
    milliseconds = (1e3 / len(found)) if found else 0.0
    times = {
        "images": len(found),
        "preprocess_ms": sum(one.preprocess_s for one in found) * milliseconds,
        "inference_ms": sum(one.inference_s for one in found) * milliseconds,
        "postprocess_ms": sum(one.postprocess_s for one in found) * milliseconds,
    }
    draws = task.draws(dataset, predictions, progress=progress)
    return Scored(scores=scores, times=times, draws=draws)
