"""Letterbox: pixels where they belong, and boxes back where they came from."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcore.data.letterbox import letterbox, place
from quantcore.ir.model import Preprocessing

SIDES = st.integers(1, 2000)


def test_centre_pads_both_sides():
    image = np.full((30, 40, 3), (10, 20, 30), np.uint8)
    pixels, placement = letterbox(image, Preprocessing((64, 64)))
    assert (placement.left, placement.top, placement.scale) == (0, 8, 1.6)
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


def test_a_line_keeps_a_pixel():
    pixels, _ = letterbox(np.full((1, 2000, 3), 255, np.uint8), Preprocessing((64, 64)))
    assert (pixels == 1).any()


@settings(max_examples=200, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    net=st.tuples(st.integers(8, 700), st.integers(8, 700)),
    placement=st.sampled_from(["center", "top_left"]),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_come_back(height, width, net, placement, corners):
    where = place((height, width), Preprocessing(net, placement=placement))
    x1, x2 = sorted(c * width for c in corners[:2])
    y1, y2 = sorted(c * height for c in corners[2:])
    box = np.array([[x1, y1, x2, y2]])
    there = box * where.scale + [where.left, where.top] * 2
    assert (there >= 0).all()
    assert (there <= [net[1] + 1, net[0] + 1] * 2).all()
    back = where.to_original(there.astype(np.float32))
    np.testing.assert_allclose(back, box, atol=2e-4 * max(1 / where.scale, 1), rtol=1e-5)


@pytest.mark.parametrize("far", [1e4, np.inf])
def test_boxes_are_clipped(far):
    where = place((30, 40), Preprocessing((64, 64)))
    clipped = where.to_original(np.array([[-far, -far, far, far]], np.float32))
    assert clipped.tolist() == [[0, 0, 40, 30]]
    assert clipped.dtype == np.float32


def test_no_boxes():
    where = place((30, 40), Preprocessing((64, 64)))
    assert where.to_original(np.empty((0, 4), np.float32)).shape == (0, 4)
