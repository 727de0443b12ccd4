"""What a training step looks at: crops of images, scaled and mirrored, the same on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from quantcore.data.dataset import ImageFile
from quantcore.data.images import Pixels, read_image
from quantcore.data.letterbox import fitted, network_input, resized
from quantcore.ir.model import Array, Preprocessing
from quantcore.training.recipe import Recipe

#: Images that are kept decoded: 400 MB of 640 x 480.
_KEPT = 400


class Crops:
    """Batches by number: what a step sees depends on the recipe and the step alone.

    Args:
        images: What is trained on.
        preprocessing: The model's; crops are as large as its input, or smaller.
        recipe: Says how many, how large, and how they vary.
        size: (height, width) of a crop in pixels.
    """

    def __init__(
        self,
        images: Sequence[ImageFile],
        preprocessing: Preprocessing,
        recipe: Recipe,
        size: tuple[int, int],
    ) -> None:
        self._images = tuple(images)
        self._preprocessing = preprocessing
        self._recipe = recipe
        self._size = size
        self._read = lru_cache(maxsize=_KEPT)(read_image)

    def images(self, step: int) -> list[ImageFile]:
        """What the crops of a step are of."""
        first = step * self._recipe.batch
        return [self._image(n) for n in range(first, first + self._recipe.batch)]

    def batch(self, step: int) -> Array:
        """The crops of a step, B x 3 x h x w."""
        jobs = enumerate(self.images(step), step * self._recipe.batch)
        with ThreadPoolExecutor(2, thread_name_prefix="quantcore-reader") as pool:
            return np.stack(list(pool.map(lambda job: self._crop(*job), jobs)))

    def _image(self, number: int) -> ImageFile:
        """The image of the n-th crop: all images in a random order, then in another."""
        count = len(self._images)
        order = np.random.default_rng([self._recipe.seed, 1, number // count]).permutation(count)
        return self._images[int(order[number % count])]

    def _crop(self, number: int, image: ImageFile) -> Array:
        random = np.random.default_rng([self._recipe.seed, 2, number])
        looks, recipe = self._preprocessing, self._recipe
        pixels = self._read(image)
        zoom = recipe.zoom ** float(random.uniform(-1, 1))
        height, width = fitted((pixels.shape[0], pixels.shape[1]), looks)
        sides = max(1, round(height * zoom)), max(1, round(width * zoom))
        crop = _window(resized(pixels, sides, looks), self._size, looks.pad_value, random)
        if random.random() < recipe.flip:
            crop = np.ascontiguousarray(crop[:, ::-1])
        return network_input(crop, looks)


def _window(
    pixels: Pixels, size: tuple[int, int], grey: int, random: np.random.Generator
) -> Pixels:
    """A part of an image at a random place; the image at a random place where it is smaller."""
    canvas = np.full((*size, 3), grey, np.uint8)
    theirs, mine = [], []
    for have, want in zip(pixels.shape[:2], size, strict=True):
        start = int(random.integers(0, abs(have - want) + 1))
        part = slice(start, start + min(have, want))
        whole = slice(0, min(have, want))
        theirs.append(part if have > want else whole)
        mine.append(whole if have > want else part)
    canvas[mine[0], mine[1]] = pixels[theirs[0], theirs[1]]
    return canvas
