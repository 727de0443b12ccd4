"""Crops: of the right size and scale, the same each time, each image as often as any other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from quantcore.data.images import read_image
from quantcore.data.letterbox import letterbox
from quantcore.ir.model import Preprocessing
from quantcore.training.crops import Crops
from quantcore.training.recipe import Recipe

LOOKS = Preprocessing((64, 64))


def test_a_batch_depends_on_its_number_alone(photos) -> None:
    first, second = (Crops(photos, LOOKS, Recipe(), (32, 32)) for _ in range(2))
    second.batch(0)
    np.testing.assert_array_equal(first.batch(7), second.batch(7))
    assert not np.array_equal(first.batch(7), first.batch(8))


def test_another_seed_is_another_order(photos) -> None:
    given = (Crops(photos, LOOKS, Recipe(seed=s), (32, 32)).batch(0) for s in (0, 1))
    assert not np.array_equal(*given)


def test_they_are_network_inputs(photos) -> None:
    found = Crops(photos, LOOKS, Recipe(batch=3), (32, 48)).batch(0)
    assert found.shape == (3, 3, 32, 48)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert 0 <= found.min() < found.max() <= 1


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_channels_are_the_models(photos, channels: str) -> None:
    looks = Preprocessing((64, 64), channels=channels, scale=1.0, pad_value=255)
    found = Crops(photos[:1], looks, Recipe(zoom=1.0), (64, 64)).batch(0)
    red = found[:, 0 if channels == "rgb" else 2]
    assert red.min() == 200


def test_each_image_comes_once_before_any_comes_again(photos) -> None:
    crops = Crops(photos, LOOKS, Recipe(batch=1), (32, 32))
    seen = [crops.images(n)[0].id for n in range(15)]
    assert set(Counter(seen).values()) == {3}
    assert len({tuple(seen[i : i + 5]) for i in (0, 5, 10)}) > 1


def test_without_zoom_a_whole_crop_is_what_evaluation_sees(photos) -> None:
    looks = Preprocessing((64, 64), scale=1.0)
    found = Crops(photos[:1], looks, Recipe(zoom=1.0, flip=0.0, batch=1), (64, 64)).batch(0)
    height = round(40 * 64 / 60)
    grey = (found[0] == 114).all(axis=(0, 2))
    assert (~grey).sum() == height


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_without_zoom_images_fill_the_input_as_in_evaluation(photos, fit: str) -> None:
    looks = Preprocessing((64, 64), fit=fit, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    recipe = Recipe(zoom=1.0, flip=0.0, batch=1)
    (found,) = Crops(photos[:1], looks, recipe, (64, 64)).batch(0)
    expected, placement = letterbox(read_image(photos[0]), looks)
    if fit == "letterbox":  # at a random height
        height = round(40 * 64 / 60)
        expected = expected[:, placement.top : placement.top + height]
        shifts = range(64 - height + 1)
        assert any(np.array_equal(found[:, s : s + height], expected) for s in shifts)
    elif fit == "stretch":
        np.testing.assert_array_equal(found, expected)
    else:  # another part of the image
        assert sorted(np.unique(found)) == sorted(np.unique(expected))


def test_mirrored_where_it_is_wanted(photos) -> None:
    looks = Preprocessing((64, 64), scale=1.0, pad_value=0)
    plain, mirrored = (
        Crops(photos[:1], looks, Recipe(zoom=1.0, flip=f, batch=1), (64, 64)).batch(0)
        for f in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain[..., ::-1], mirrored)
