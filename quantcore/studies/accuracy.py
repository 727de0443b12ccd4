"""What a graph loses against the float model: in mAP, in its own detections, in decibels."""

from __future__ import annotations

import numpy as np

from quantcore.analysis.losses import agreements, shares
from quantcore.analysis.resample import Matches
from quantcore.data.coco import CocoDataset
from quantcore.results.estimate import Estimate, Floats, Loss, draws
from quantcore.studies.runs import Outcome


class Judge:
    """Holds graphs against the float model on the same images.

    Args:
        dataset: The ground truth.
        reference: What the float model finds.
        labels: Whether to measure mAP; where there are none, it cannot be.
        count: Bootstrap draws.
    """

    def __init__(
        self, dataset: CocoDataset, reference: Outcome, labels: bool = True, count: int = 200
    ) -> None:
        self._dataset, self._reference = dataset, reference
        wanted = reference.detections.by_image.keys()
        # In the order of the annotation file, as `Matches` has them.
        self._order = [image.id for image in dataset.images if image.id in wanted]
        known = {a.image_id for a in dataset.annotations}
        self.labelled = labels and not known.isdisjoint(wanted)
        self._weights = draws(len(self._order), count)
        self._float = self._map(reference)

    @property
    def float_map(self) -> Estimate:
        """MAP of the float model."""
        return Estimate.of(self._float)

    def loss(self, outcome: Outcome) -> Loss:
        """What a graph loses."""
        powers = np.asarray([outcome.powers[i] for i in self._order])
        return Loss(
            Estimate.of(self._float - self._map(outcome)),
            Estimate.of(1 - self._agreement(outcome)),
            _decibels(powers[:, 0], powers[:, 1]),
            _decibels(powers[:, 2], powers[:, 3]),
        )

    def _map(self, outcome: Outcome) -> Floats:
        if not self.labelled:
            return np.full(len(self._weights), np.nan)
        return Matches(self._dataset, outcome.detections).score(self._weights)

    def _agreement(self, outcome: Outcome) -> Floats:
        found = agreements(self._reference.detections, outcome.detections, self._order)
        return shares(found, self._weights)


def _decibels(signal: Floats, noise: Floats) -> float:
    """SQNR of the sums over the images that were measured."""
    known = np.isfinite(noise) & np.isfinite(signal)
    if not known.any():
        return float("nan")
    top, bottom = float(signal[known].sum()), float(noise[known].sum())
    if bottom == 0:
        return float("inf")
    return float(10 * np.log10(top / bottom)) if top > 0 else float("-inf")
