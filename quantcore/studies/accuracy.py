"""What a graph loses against the float model: in mAP, in its own detections, in decibels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from quantcore.analysis.losses import agreements, shares
from quantcore.analysis.resample import Matches
from quantcore.analysis.scoring import labels_key
from quantcore.data.coco import CocoDataset
from quantcore.results.estimate import Estimate, Floats, Loss, draws
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key
from quantcore.runtime.progress import Progress
from quantcore.studies.runs import RunOutcome

#: Of what a kept loss means; a change of it makes all that is on disk obsolete.
REVISION = 1


class Scorer:
    """Holds graphs against the float model on the same images.

    Args:
        dataset: The ground truth.
        reference: What the float model finds.
        runtime: Where scores are computed and kept.
        labels: Whether to measure mAP; where there are none, it cannot be.
        count: Bootstrap draws.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        reference: RunOutcome,
        runtime: Runtime,
        labels: bool = True,
        count: int = 200,
    ) -> None:
        self._dataset, self._reference, self._runtime = dataset, reference, runtime
        wanted = reference.detections.by_image.keys()
        # In the order of the annotation file, as `Matches` has them.
        images = [image for image in dataset.images if image.id in wanted]
        self._order = tuple(image.id for image in images)
        known = {a.image_id for a in dataset.annotations}
        self.labelled = labels and not known.isdisjoint(wanted)
        self._count = count
        self._about = (REVISION, labels_key(dataset, images), reference.key, self.labelled, count)

    @property
    def float_map(self) -> Estimate:
        """MAP of the float model."""
        return Estimate.of(self._float)

    @cached_property
    def _float(self) -> Floats:
        """MAP of the float model under each draw."""
        if not self.labelled:
            return np.full(self._count + 1, np.nan)
        key = content_key("float map", *self._about)
        given = (self._dataset, self._reference, len(self._order), self._count)
        return self._runtime.one(whole("scoring", key, Floats, _map, *given, apart=False))

    def loss(self, outcome: RunOutcome) -> Loss:
        """What a graph loses."""
        key = content_key("loss", *self._about, outcome.key)
        truth = self._dataset if self.labelled else None
        given = (truth, self._reference, self._float, outcome, self._order, self._count)
        return self._runtime.one(whole("scoring", key, Loss, _loss, *given, apart=False))


def _map(
    dataset: CocoDataset, outcome: RunOutcome, images: int, count: int, progress: Progress
) -> Floats:
    return Matches(dataset, outcome.detections).score(draws(images, count))


def _loss(
    dataset: CocoDataset | None,
    reference: RunOutcome,
    float_map: Floats,
    outcome: RunOutcome,
    order: Sequence[int],
    count: int,
    progress: Progress,
) -> Loss:
    """A graph against the float model; without a data set no mAP."""
    weights = draws(len(order), count)
    nothing = np.full(len(weights), np.nan)
    found = _map(dataset, outcome, len(order), count, progress) if dataset else nothing
    agreement = shares(agreements(reference.detections, outcome.detections, order), weights)
    powers = np.asarray([outcome.powers[i] for i in order])
    return Loss(
        Estimate.of(float_map - found),
        Estimate.of(1 - agreement),
        _decibels(powers[:, 0], powers[:, 1]),
        _decibels(powers[:, 2], powers[:, 3]),
    )


def _decibels(signal: Floats, noise: Floats) -> float:
    """SQNR of the sums over the images that were measured."""
    known = np.isfinite(noise) & np.isfinite(signal)
    if not known.any():
        return float("nan")
    top, bottom = float(signal[known].sum()), float(noise[known].sum())
    if bottom == 0:
        return float("inf")
    return float(10 * np.log10(top / bottom)) if top > 0 else float("-inf")
