"""Which images do what: none does two things."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from quantcore.data.dataset import Dataset, ImageFile
from quantcore.data.opening import open_dataset, split_in
from quantcore.errors import DataError
from quantcore.pipeline import Data
from quantcore.runtime.notes import note

#: Fewer images to calibrate on, or to choose by, are no basis for anything.
LEAST = 2


@dataclass(frozen=True)
class Parts:
    """The calibration split, divided.

    Attributes:
        dataset: The calibration split with its labels.
        calibrating: What is calibrated, rewritten and trained on.
        choosing: What recipes are chosen by.
    """

    dataset: Dataset
    calibrating: tuple[ImageFile, ...]
    choosing: tuple[ImageFile, ...]

    def data(self, whole: Data) -> Data:
        """The images to calibrate on, as the stages take them."""
        return replace(whole, images=frozenset(image.id for image in self.calibrating))

    @property
    def whole(self) -> Parts:
        """Both parts to calibrate on, once the choice is made."""
        both = {image.id for image in (*self.calibrating, *self.choosing)}
        images = tuple(image for image in self.dataset.images if image.id in both)
        return replace(self, calibrating=images)

    @property
    def labelled(self) -> bool:
        """Whether the images to choose by have labels."""
        return self.dataset.labelled([image.id for image in self.choosing])


def to_judge(data: Data, images: int | None = None) -> tuple[Dataset, tuple[ImageFile, ...]]:
    """The evaluation split, and its images that are not in the calibration split as well.

    Args:
        data: Which splits of which folder.
        images: How many to take of them at most; None for all.

    Raises:
        DataError: There are none: what was chosen cannot be judged by what it was chosen on.
    """
    dataset = open_dataset(data.root, data.evaluation)
    known = {image.path.resolve() for image in data.calibration_set().images}
    own = tuple(image for image in dataset.select(images) if image.path.resolve() not in known)
    if not own:
        raise DataError(
            f"{dataset.source}: all its images are in the calibration split too, so none is left "
            "to judge a choice by; give another --evaluation-split or --calibration-split"
        )
    return dataset, own


def divided(data: Data, share: float, seed: int, most: int | None = None) -> Parts:
    """Divides the calibration split at random.

    Args:
        data: Which split of which folder.
        share: Of its images that are set aside to choose by.
        seed: The same seed draws and divides alike.
        most: How many of its images take part; None for all.

    Raises:
        DataError: The data set is unusable, or too small to be divided.
    """
    dataset = data.calibration_set()
    whole = len(dataset.images)
    images = dataset.select(min(most or whole, whole), seed)
    if len(images) < whole:
        note(
            f"{len(images)} of the {whole} images of {split_in(data.root, data.calibration)} take "
            "part; --images takes more, or fewer"
        )
    wanted = round(share * len(images))
    if not LEAST <= wanted <= len(images) - LEAST:
        raise DataError(
            f"{dataset.source}: {len(images)} images cannot be divided into {len(images) - wanted} "
            f"to calibrate on and {wanted} to choose by; either needs {LEAST} or more"
        )
    picks = set(np.random.default_rng([seed, 18]).permutation(len(images))[:wanted].tolist())
    return Parts(
        dataset,
        tuple(image for n, image in enumerate(images) if n not in picks),
        tuple(image for n, image in enumerate(images) if n in picks),
    )
