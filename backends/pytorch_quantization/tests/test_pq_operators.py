"""Every operator as torch computes it, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from onnx import helper

from quantcore.contracts.backend import SessionOptions
from quantcore.errors import BackendError

RNG = np.random.default_rng(7)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


@dataclass
class Case:
    """One node `op` that reads `images` and some constants; `x` stands for a computed tensor."""

    id: str
    op: str
    constants: list[Any] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (3, 12, 10)
    opset: int = 17
    outputs: int = 1
    first: bool = False  # constants come before the images


CEIL = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def resize(*factors: float) -> list[Any]:
    return [None, np.array([1, 1, *factors], np.float32)]


CASES = [
    Case("conv", "Conv", [array(4, 3, 3, 3), array(4)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("conv no bias", "Conv", [array(4, 3, 1, 1)]),
    Case("conv lopsided", "Conv", [array(4, 3, 3, 2)], {"pads": [0, 1, 2, 0]}),
    Case("conv oblong", "Conv", [array(4, 3, 3, 1)], {"strides": [2, 1], "pads": [1, 0, 1, 0]}),
    Case("conv dilated", "Conv", [array(4, 3, 3, 3)], {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    Case("conv depthwise", "Conv", [array(6, 1, 3, 3), array(6)], {"group": 3}),
    Case("conv of each channel", "Conv", [array(3, 1, 3, 3), array(3)], {"group": 3}),
    Case(
        "conv of each channel strided",
        "Conv",
        [array(3, 1, 5, 3)],
        {"group": 3, "strides": [2, 3], "pads": [2, 1, 2, 1]},
    ),
    Case(
        "conv of each channel dilated and lopsided",
        "Conv",
        [array(3, 1, 2, 3), array(3)],
        {"group": 3, "dilations": [3, 2], "pads": [0, 1, 2, 3]},
    ),
    Case("conv valid", "Conv", [array(2, 3, 3, 3)], {"auto_pad": "VALID"}),
    Case("up", "ConvTranspose", [array(3, 4, 2, 2), array(4)], {"strides": [2, 2]}),
    Case(
        "up padded",
        "ConvTranspose",
        [array(3, 4, 3, 3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    Case("up grouped", "ConvTranspose", [array(3, 2, 2, 2)], {"group": 3, "dilations": [2, 2]}),
    Case("gemm", "Gemm", [array(6, 5), array(5)], shape=(6,)),
    Case("gemm transB", "Gemm", [array(5, 6), array(5)], {"transB": 1}, (6,)),
    Case("gemm row bias", "Gemm", [array(6, 5), array(1, 5)], shape=(6,)),
    Case("gemm one bias", "Gemm", [array(6, 5), array(1)], shape=(6,)),
    Case("gemm scalar bias", "Gemm", [array(6, 5), scalar(0.5)], shape=(6,)),
    Case("gemm no bias", "Gemm", [array(6, 5)], shape=(6,)),
    Case("matmul", "MatMul", [array(6, 5)], shape=(4, 6)),
    Case("matmul rank 4", "MatMul", [array(10, 5)]),
    Case("matmul left", "MatMul", [array(3, 5, 12)], first=True),
    Case("add scalar", "Add", [scalar(0.5)]),
    Case("add channels", "Add", [array(3, 1, 1)]),
    Case("sub left", "Sub", [scalar(2)], first=True),
    Case("mul", "Mul", [array(1, 3, 1, 1)]),
    Case("div left", "Div", [scalar(3)], first=True),
    Case("div", "Div", [scalar(3)]),
    Case("pow", "Pow", [scalar(2)]),
    Case("max pool", "MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("max pool same", "MaxPool", [], {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}),
    Case("max pool lopsided", "MaxPool", [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
    Case(
        "max pool ceil", "MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    ),
    Case("max pool dilated", "MaxPool", [], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    Case("avg pool", "AveragePool", [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case(
        "avg pool counting",
        "AveragePool",
        [],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    Case(
        "avg pool ceil",
        "AveragePool",
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    ),
    Case("global pool", "GlobalAveragePool"),
    Case("resize", "Resize", resize(2, 2), NEAREST),
    Case("resize oblong", "Resize", resize(2, 3), NEAREST),
    Case("resize down", "Resize", resize(0.5, 0.5), NEAREST),
    Case("resize odd", "Resize", resize(1.3, 1.7), NEAREST),
    Case("resize odd down", "Resize", resize(0.7, 0.6), NEAREST),
    Case("reshape", "Reshape", [integers(0, -1, 5)]),
    Case("reshape keep", "Reshape", [integers(0, 0, -1)]),
    Case("transpose", "Transpose", [], {"perm": [0, 3, 1, 2]}),
    Case("slice", "Slice", [integers(1), integers(9), integers(2), integers(3)]),
    Case("slice negative", "Slice", [integers(-5, 0), integers(2**63 - 1, -2), integers(-1, 2)]),
    Case("slice from zero", "Slice", [integers(0, 1), integers(2**31, 3)]),
    Case("split", "Split", [integers(4, 8)], {"axis": 2}, outputs=2),
    Case("split even", "Split", [], {"axis": -2}, outputs=3),
    Case("split uneven", "Split", [], {"axis": 3, "num_outputs": 3}, outputs=3, opset=18),
    Case("clip", "Clip", [scalar(-0.5), scalar(0.5)]),
    Case("clip above", "Clip", [None, scalar(0.5)]),
    Case("clip below", "Clip", [scalar(0)]),
    Case("concat constant", "Concat", [array(1, 2, 12, 10)], {"axis": 1}),
    Case("concat negative", "Concat", [array(1, 3, 12, 2)], {"axis": -1}),
    Case("leaky", "LeakyRelu", [], {"alpha": 0.1}),
    Case("leaky default", "LeakyRelu"),
    Case("hard sigmoid", "HardSigmoid"),
    Case("hard sigmoid set", "HardSigmoid", [], {"alpha": 1 / 6, "beta": 0.4}),
    Case("softmax", "Softmax"),
    Case("softmax channels", "Softmax", [], {"axis": 1}),
    Case("flatten", "Flatten"),
    Case("flatten last", "Flatten", [], {"axis": 1}, (3, 1, 1)),
    Case("hard swish", "HardSwish"),
    *[Case(op.lower(), op) for op in ("Relu", "Sigmoid", "Tanh", "Exp", "Identity")],
]


def graph(case: Case, build: Any) -> Any:
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(case.constants)]
    inputs = [*names, "images"] if case.first else ["images", *names]
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, inputs, outputs, "layer.0", **case.attributes)
    constants = {n: c for n, c in zip(names, case.constants, strict=True) if n}
    return build([node], constants, outputs, case.shape, case.opset)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_operator_agrees_with_onnx_runtime(case: Case, build, backend, run) -> None:
    model = graph(case, build)
    # A constant that is concatenated has a batch of its own.
    batch = 1 if case.op == "Concat" else 2
    images = np.random.default_rng(3).standard_normal((batch, *case.shape)).astype(np.float32) * 2
    expected = run(model.proto, images)
    with backend.open(model, SessionOptions(device="cpu")) as session:
        found = session.forward(images)
    wide = SessionOptions(device="cpu", arithmetic="float64")
    with backend.open(model, wide) as session:
        double = session._forward(images)
    assert found.keys() == expected.keys()
    for (name, values), wide in zip(expected.items(), double, strict=True):
        assert found[name].shape == values.shape
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)
        assert wide.dtype == np.float64
        np.testing.assert_allclose(wide, values, rtol=1e-5, atol=1e-5)


def test_computed_operands_keep_their_order(build, backend, run) -> None:
    node = helper.make_node
    nodes = [
        node("Sigmoid", ["images"], ["a"], "a"),
        node("Sub", ["a", "images"], ["b"], "b"),
        node("MatMul", ["b", "c"], ["d"], "d"),
        node("Mul", ["d", "d"], ["e"], "e"),
        node("Concat", ["e", "b", "e"], ["y"], "y", axis=2),
    ]
    model = build(nodes, {"c": np.eye(10, dtype=np.float32)[::-1].copy()})
    images = np.random.default_rng(0).standard_normal((2, 3, 12, 10)).astype(np.float32)
    with backend.open(model, SessionOptions(device="cpu")) as session:
        np.testing.assert_allclose(
            session.forward(images)["y"], run(model.proto, images)["y"], atol=1e-5
        )


REFUSED = [
    ("Selu", [], {}, "knows no Selu"),
    ("Conv", [array(4, 3, 3, 3)], {"auto_pad": "SAME_UPPER"}, "auto_pad"),
    ("MaxPool", [], {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}, "auto_pad"),
    ("ConvTranspose", [array(3, 2, 2, 2)], {"pads": [0, 0, 1, 1]}, "equal padding"),
    ("ConvTranspose", [array(3, 2, 2, 2)], {"output_shape": [14, 12]}, "output_shape"),
    ("AveragePool", [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, "equal padding"),
    (
        "Resize",
        resize(2, 2),
        {"coordinate_transformation_mode": "tf_crop_and_resize"},
        "tf_crop_and_resize",
    ),
    ("MatMul", [array(3, 10, 5)], {}, "rank 2"),
    ("Slice", [integers(9), integers(1), integers(2), integers(-1)], {}, "negative steps"),
]


@pytest.mark.parametrize(
    ("op", "constants", "attributes", "why"), REFUSED, ids=[f"{r[0]} {r[3]}" for r in REFUSED]
)
def test_what_torch_cannot_do_alike_is_refused_by_name(
    build, backend, op, constants, attributes, why
) -> None:
    model = graph(Case("", op, constants, attributes), build)
    with pytest.raises(BackendError, match=rf"layer 'layer\.0' \({op}\).*{why}"):
        backend.open(model, SessionOptions(device="cpu"))


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_scaled_or_transposed_gemm_is_refused(build, backend, attributes) -> None:
    inputs = ["images", "w", "b"]
    node = helper.make_node("Gemm", inputs, ["y"], "fc", **attributes)
    model = build([node], {"w": array(2, 5), "b": array(5)}, shape=(6,))
    with pytest.raises(BackendError, match=r"'fc' \(Gemm\)"):
        backend.open(model, SessionOptions(device="cpu"))


def test_weights_that_are_computed_are_refused_by_name(build, backend) -> None:
    nodes = [
        helper.make_node("Relu", ["w"], ["v"], "act"),
        helper.make_node("Conv", ["images", "v"], ["y"], "conv"),
    ]
    model = build(nodes, {"w": array(2, 3, 1, 1)})
    with pytest.raises(BackendError, match=r"layer '(act|conv)'"):
        backend.open(model, SessionOptions(device="cpu"))
