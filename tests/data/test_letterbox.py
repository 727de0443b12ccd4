"""Letterbox: pixels where they belong, and boxes back where they came from."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcore.data.letterbox import letterbox, place
from quantcore.errors import ModelError
from quantcore.ir.model import INTERPOLATIONS, Preprocessing

SIDES = st.integers(1, 2000)


def test_centre_pads_both_sides():
    image = np.full((30, 40, 3), (10, 20, 30), np.uint8)
    pixels, placement = letterbox(image, Preprocessing((64, 64)))
    assert (placement.left, placement.top, placement.scale) == (0, 8, (1.6, 1.6))
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels[:, 8, 0], np.float32([30, 20, 10]) * np.float32(1 / 255))
    for row in (0, 7, 56, 63):
        np.testing.assert_array_equal(pixels[:, row], np.float32(114) * np.float32(1 / 255))


def test_odd_pad_goes_right_and_down():
    _, placement = letterbox(np.zeros((31, 64, 3), np.uint8), Preprocessing((64, 64)))
    assert placement.top == 16  # 33 rows: 16 above, 17 below


def test_yolox_preset():
    image = np.full((30, 40, 3), (10, 20, 30), np.uint8)
    preprocessing = Preprocessing((64, 64), channels="bgr", scale=1.0, placement="top_left")
    pixels, placement = letterbox(image, preprocessing)
    assert (placement.left, placement.top) == (0, 0)
    assert pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert pixels[:, 47, 63].tolist() == [10, 20, 30]
    assert (pixels[:, 48:] == 114).all()


def test_same_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    before = image.copy()
    pixels, _ = letterbox(image, Preprocessing((32, 32), channels="bgr", scale=1.0))
    np.testing.assert_array_equal(pixels, image.transpose(2, 0, 1))
    np.testing.assert_array_equal(image, before)


def test_resizes_bilinearly():
    image = np.random.default_rng(0).integers(0, 255, (50, 100, 3)).astype(np.uint8)
    pixels, _ = letterbox(image, Preprocessing((32, 64), channels="bgr", scale=1.0))
    wanted = cv2.resize(image, (64, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(pixels, wanted.transpose(2, 0, 1))


def test_stretched_images_fill_the_input_and_boxes_have_two_scales():
    image = np.random.default_rng(0).integers(0, 255, (50, 40, 3)).astype(np.uint8)
    looks = Preprocessing((32, 64), "bgr", 1.0, fit="stretch", interpolation="cubic")
    pixels, where = letterbox(image, looks)
    wanted = cv2.resize(image, (64, 32), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(pixels, wanted.transpose(2, 0, 1))
    assert (where.scale, where.left, where.top) == ((1.6, 0.64), 0, 0)
    whole = where.to_original(np.array([[0, 0, 64, 32], [16, 8, 32, 16]], np.float32))
    np.testing.assert_allclose(whole, [[0, 0, 40, 50], [10, 12.5, 20, 25]], rtol=1e-6)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_interpolation_is_opencvs_own(interpolation):
    image = np.random.default_rng(0).integers(0, 255, (50, 100, 3)).astype(np.uint8)
    looks = Preprocessing((64, 64), "bgr", 1.0, "top_left", interpolation=interpolation)
    name = {"lanczos": "LANCZOS4"}.get(interpolation, interpolation.upper())
    wanted = cv2.resize(image, (64, 32), interpolation=getattr(cv2, f"INTER_{name}"))
    np.testing.assert_array_equal(letterbox(image, looks)[0][:, :32], wanted.transpose(2, 0, 1))


def test_mean_and_deviation_of_each_channel():
    image = np.full((8, 8, 3), (10, 20, 30), np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 2.0, 0.25)
    pixels, _ = letterbox(image, Preprocessing((8, 8), "rgb", 0.01, mean=mean, std=std))
    np.testing.assert_allclose(pixels[:, 0, 0], [0.2 / 0.5, 0, -0.2 / 0.25], rtol=1e-6, atol=1e-7)
    border, _ = letterbox(image[:4], Preprocessing((8, 8), "rgb", 0.01, mean=mean, std=std))
    np.testing.assert_allclose(border[0, 0], np.full(8, (1.14 - 0.1) / 0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"fit": "crop"}, "fit must be letterbox or stretch"),
        ({"interpolation": "magic"}, "interpolation must be linear or cubic"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"mean": (1.0, float("nan"), 1.0)}, "three numbers each"),
        ({"mean": (1.0,)}, "three numbers each"),
    ],
)
def test_what_cannot_be_is_refused(values, why):
    with pytest.raises(ModelError, match=why):
        Preprocessing((8, 8), **values)


def test_a_line_keeps_a_pixel():
    pixels, _ = letterbox(np.full((1, 2000, 3), 255, np.uint8), Preprocessing((64, 64)))
    assert (pixels == 1).any()


@settings(max_examples=200, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    net=st.tuples(st.integers(8, 700), st.integers(8, 700)),
    placement=st.sampled_from(["center", "top_left"]),
    fit=st.sampled_from(["letterbox", "stretch"]),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_come_back(height, width, net, placement, fit, corners):
    where = place((height, width), Preprocessing(net, placement=placement, fit=fit))
    x1, x2 = sorted(c * width for c in corners[:2])
    y1, y2 = sorted(c * height for c in corners[2:])
    box = np.array([[x1, y1, x2, y2]])
    there = box * (where.scale * 2) + [where.left, where.top] * 2
    assert (there >= 0).all()
    assert (there <= [net[1] + 1, net[0] + 1] * 2).all()
    back = where.to_original(there.astype(np.float32))
    np.testing.assert_allclose(back, box, atol=2e-4 * max(1 / min(where.scale), 1), rtol=1e-5)


@pytest.mark.parametrize("far", [1e4, np.inf])
def test_boxes_are_clipped(far):
    where = place((30, 40), Preprocessing((64, 64)))
    clipped = where.to_original(np.array([[-far, -far, far, far]], np.float32))
    assert clipped.tolist() == [[0, 0, 40, 30]]
    assert clipped.dtype == np.float32


def test_no_boxes():
    where = place((30, 40), Preprocessing((64, 64)))
    assert where.to_original(np.empty((0, 4), np.float32)).shape == (0, 4)
