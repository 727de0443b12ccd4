"""Network inputs in batches, read ahead in the background."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np

from quantcore.data.dataset import ImageFile
from quantcore.data.images import read_image
from quantcore.data.letterbox import Placement, letterbox
from quantcore.errors import DataError, RangeError
from quantcore.ir.model import Array, Preprocessing

_Ready = tuple[Array, Placement, float]


@dataclass(frozen=True)
class Batch:
    """Some images, ready for the network.

    Attributes:
        images: B x 3 x h x w.
        placements: For each image where it lies in its input.
        image_ids: In the same order.
        seconds: CPU time that reading and letterboxing these images took, in the readers.
    """

    images: Array
    placements: tuple[Placement, ...]
    image_ids: tuple[int, ...]
    seconds: float


class Batches:
    """The images in order, as network inputs; can be iterated again, knows its length.

    A few threads read ahead while the consumer works, two batches at most, so that memory does
    not grow with the number of images. They end when the consumer stops, early or not.
    """

    def __init__(
        self,
        images: Sequence[ImageFile],
        preprocessing: Preprocessing,
        batch_size: int = 1,
        workers: int = 2,
    ) -> None:
        """Reads nothing yet.

        Args:
            images: What to read, in this order.
            preprocessing: The model's.
            batch_size: Images in a batch; the last batch holds what is left.
            workers: Reader threads.

        Raises:
            DataError: No images, or a batch size or number of workers below 1.
        """
        if not images:
            raise DataError("no images to read; select at least one")
        if batch_size < 1 or workers < 1:
            raise DataError(
                f"batch size {batch_size} and {workers} readers: both must be 1 or more"
            )
        self.images = tuple(images)
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.workers = workers

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields every batch.

        Raises:
            DataError: An image is missing, corrupt, or not the annotated one.
        """
        images = iter(self.images)
        pending: deque[Future[_Ready]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="quantcore-reader")
        try:
            for start in range(0, len(self.images), self.batch_size):
                ids = tuple(i.id for i in self.images[start : start + self.batch_size])
                room = 2 * self.batch_size + self.workers - len(pending)
                pending.extend(pool.submit(self._read, image) for image in islice(images, room))
                yield _assemble([pending.popleft().result() for _ in ids], ids)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def inputs(self) -> Inputs:
        """The same batches as bare arrays, as calibration wants them."""
        return Inputs(self)

    def _read(self, image: ImageFile) -> _Ready:
        began = time.thread_time()
        pixels, placement = letterbox(read_image(image), self.preprocessing)
        return pixels, placement, time.thread_time() - began


class Inputs:
    """The arrays of some batches, B x 3 x h x w; can be iterated again, knows its length."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._handed_out: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Array]:
        for batch in self._batches:
            self._handed_out = batch.image_ids
            yield batch.images
        self._handed_out = ()

    @contextmanager
    def naming_images(self) -> Iterator[None]:
        """Adds the files of the batch handed out last to a RangeError, until all have been."""
        try:
            yield
        except RangeError as error:
            ids = frozenset(self._handed_out)
            names = ", ".join(i.path.name for i in self._batches.images if i.id in ids)
            raise RangeError(f"{error}; seen in one of {names}" if names else str(error)) from None


def _assemble(ready: Sequence[_Ready], ids: tuple[int, ...]) -> Batch:
    arrays, placements, seconds = zip(*ready, strict=True)
    return Batch(np.stack(arrays), placements, ids, sum(seconds))
