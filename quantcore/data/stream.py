"""Images of one's own as network inputs: arrays, files, or batches that are ready already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from quantcore.data.images import decode_image
from quantcore.data.letterbox import letterbox
from quantcore.errors import DataError, RangeError
from quantcore.ir.model import Array, Preprocessing

#: An image (H x W x 3, uint8, RGB), an image file, or a batch (B x 3 x h x w, float, ready).
Source = Iterable[npt.NDArray[Any] | Path | str]


class ImageStream:
    """An iterable of images or of ready batches, as network inputs B x 3 x h x w.

    It is read once for each time that this is iterated over; a generator can therefore be used for
    one pass alone.

    Attributes:
        seen: Images handed out in the last pass.
    """

    def __init__(
        self, source: Source, preprocessing: Preprocessing, batch_size: int = 1, limit: int = 80
    ) -> None:
        """Reads nothing yet.

        Args:
            source: The images. Arrays of three dimensions are images in RGB, as PIL and matplotlib
                have them; of four, batches that are handed on as they are.
            preprocessing: The model's.
            batch_size: Images in a batch, where they are not in batches already.
            limit: At most so many images are read.
        """
        self._source, self._preprocessing = source, preprocessing
        self._batch_size, self._limit = batch_size, limit
        self._once = iter(source) is source
        self._started = False
        self.seen = 0

    @property
    def once(self) -> bool:
        """Whether it can be read for one pass alone."""
        return self._once

    def __iter__(self) -> Iterator[Array]:
        """Yields every batch.

        Raises:
            DataError: No images, one that is none, or a second pass over a generator.
        """
        if self._once and self._started:
            raise DataError(
                "the images come from a generator, which can be read once; give a list, or another "
                "iterable that starts anew"
            )
        self._started, self.seen = True, 0
        items = iter(self._source)
        try:
            first = next(items)
        except StopIteration:
            raise DataError("no images to calibrate on; the iterable is empty") from None
        ready = isinstance(first, np.ndarray) and first.ndim == 4
        given = chain([first], items)
        yield from self._whole(given) if ready else self._stacked(given)

    def _whole(self, batches: Iterator[Any]) -> Iterator[Array]:
        """Batches that are ready."""
        for number, batch in enumerate(batches):
            wanted = (3, *self._preprocessing.size)
            if not isinstance(batch, np.ndarray) or batch.ndim != 4 or batch.shape[1:] != wanted:
                size = " x ".join(map(str, wanted))
                raise DataError(f"batch {number}: needs B x {size} floats, got {_told(batch)}")
            if batch.dtype.kind != "f":
                raise DataError(
                    f"batch {number}: needs floats, scaled as the network takes them, got "
                    f"{batch.dtype}; give single images (H x W x 3, uint8) to have them prepared"
                )
            batch = batch[: self._limit - self.seen]
            self.seen += len(batch)
            yield np.ascontiguousarray(batch, np.float32)
            if self.seen >= self._limit:
                return

    def _stacked(self, images: Iterator[Any]) -> Iterator[Array]:
        """Single images, prepared and put together."""
        prepared = (self._prepared(n, i) for n, i in enumerate(islice(images, self._limit)))
        while batch := list(islice(prepared, self._batch_size)):
            self.seen += len(batch)
            yield np.stack(batch)

    def _prepared(self, number: int, image: Any) -> Array:
        if isinstance(image, str | Path):
            pixels = decode_image(Path(image))
        elif (
            isinstance(image, np.ndarray)
            and image.dtype == np.uint8
            and image.ndim == 3
            and image.shape[2] == 3
            and image.size
        ):
            pixels = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
        else:
            raise DataError(
                f"image {number}: needs an array H x W x 3 of uint8 in RGB, or the path of an "
                f"image file, got {_told(image)}"
            )
        return letterbox(pixels, self._preprocessing)[0]

    @contextmanager
    def naming_images(self) -> Iterator[None]:
        """Adds to a RangeError which images had been read, until all have been."""
        try:
            yield
        except RangeError as error:
            raise RangeError(f"{error}; {self.seen} images had been read") from None


def _told(value: object) -> str:
    """What something is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{' x '.join(map(str, value.shape)) or 'a single number'} of {value.dtype}"
    return type(value).__name__
