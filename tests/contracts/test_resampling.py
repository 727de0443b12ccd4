"""Which samples Resize and Pad read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from quantcore.contracts.nodes import nodes
from quantcore.contracts.resampling import check_resize, factors, padded, resized
from quantcore.errors import BackendError

PLAIN = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def resize(build, scales: Any, opset: int = 18, **told: Any) -> Any:
    item = helper.make_node("Resize", ["images", "", "s"], ["y"], "R", **told)
    return nodes(build([item], {"s": np.array(scales, np.float32)}, opset=opset))[0]


def test_a_plain_resize_tells_its_factors(build) -> None:
    assert factors(resize(build, [1, 1, 2, 3], mode="nearest", **PLAIN)) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("told", "scales"),
    [
        ({"mode": "linear"}, [1, 1, 2, 2]),
        ({"coordinate_transformation_mode": "half_pixel"}, [1, 1, 2, 2]),
        ({"nearest_mode": "ceil"}, [1, 1, 2, 2]),
        ({}, [1, 2, 2, 2]),
        ({"axes": [2, 3]}, [2, 2]),
    ],
    ids=str,
)
def test_any_other_is_made_of_samples(build, told, scales) -> None:
    found = resize(build, scales, **{**PLAIN, **told})
    assert factors(found) is None
    check_resize(found)
    assert len(resized(found, (1, 3, 16, 16))) == sum(scale != 1 for scale in scales)


def test_linear_samples_weigh_two_neighbours(build) -> None:
    rows, _ = resized(resize(build, [1, 1, 2, 2], mode="linear"), (1, 3, 2, 2))
    assert rows.axis == 2
    assert [index.tolist() for index in rows.indices] == [[0, 0, 0, 1], [1, 1, 1, 1]]
    np.testing.assert_allclose(rows.weights, [[1, 0.75, 0.25, 1], [0, 0.25, 0.75, 0]])


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"mode": "linear", "antialias": 1}, "antialias"),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop_and_resize"),
        ({"mode": "cubic", "exclude_outside": 1}, "exclude_outside"),
        ({"keep_aspect_ratio_policy": "not_larger"}, "stretch"),
    ],
    ids=str,
)
def test_what_has_no_samples_is_refused_by_name(build, told, why) -> None:
    with pytest.raises(BackendError, match=rf"layer 'R' \(Resize\).*{why}"):
        check_resize(resize(build, [1, 1, 2, 2], **told))


def test_a_padding_that_repeats_reads_again(build) -> None:
    pads = np.array([0, 0, 2, 0, 0, 0, 1, 0])
    item = helper.make_node("Pad", ["images", "p"], ["y"], "P", mode="reflect")
    (rows,) = padded(nodes(build([item], {"p": pads}))[0], (1, 3, 4, 4))
    assert (rows.axis, rows.weights) == (2, None)
    assert rows.indices[0].tolist() == [2, 1, 0, 1, 2, 3, 2]
