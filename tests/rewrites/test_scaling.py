"""Channel factors in random graphs, whose right answer the builder knows, and in small ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from quantcore.ir.edits import exposed
from quantcore.rewrites.channels import Channels
from quantcore.rewrites.scaling import scale

node = helper.make_node
UP = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
KINDS = (
    *("conv", "conv", "conv", "depthwise", "up"),
    *("leaky", "relu", "prelu", "silu", "sigmoid"),
    *("max", "stride", "avg", "global", "resize", "linear", "slice"),
    *("concat", "concat", "add"),
)


@dataclass
class Tensor:
    """A tensor of a random graph, with the factors that its channels should have."""

    name: str
    size: int
    factors: np.ndarray

    @property
    def channels(self) -> int:
        return len(self.factors)


@dataclass
class Random:
    """Grows a graph by one operation a call; its own idea of where channels come from."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, np.ndarray] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=lambda: [Tensor("images", 8, np.ones(3))])

    def constant(self, values: object, kind: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values, kind)
        return name

    def add(
        self,
        op: str,
        inputs: list[str],
        size: int,
        channels: int = 0,
        inherited: np.ndarray | None = None,
        **attributes: object,
    ) -> None:
        """A node; its output is a source of channels unless it inherits those of its inputs."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(node(op, inputs, [name], f"n{len(self.nodes)}", **attributes))
        if inherited is None:
            self.sources[name] = 10 ** self.rng.uniform(-2, 2, channels)
        self.tensors.append(Tensor(name, size, self.sources.get(name, inherited)))

    def conv(self, x: Tensor, groups: int, kernel: int, bias: bool, up: bool) -> None:
        groups = groups if x.channels % groups == 0 else x.channels
        out = groups * int(self.rng.integers(1, 4))
        shape = (x.channels, out // groups) if up else (out, x.channels // groups)
        k = 2 if up else kernel
        weight = self.rng.standard_normal((*shape, k, k)) / k / np.sqrt(x.channels / groups)
        inputs = [x.name, self.constant(weight)]
        inputs += [self.constant(self.rng.standard_normal(out))] if bias else []
        if up:
            self.add("ConvTranspose", inputs, 2 * x.size, out, group=groups, strides=[2, 2])
        else:
            pads = [kernel // 2] * 4
            self.add("Conv", inputs, x.size, out, group=groups, pads=pads)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Random, list[str]]:
    made = Random(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    for _ in range(draw(st.integers(2, 14))):
        x = draw(st.sampled_from(made.tensors[-4:]))
        kind = draw(st.sampled_from(KINDS))
        same = [t for t in made.tensors if t.size == x.size]
        if kind in ("conv", "depthwise", "up"):
            if kind == "up" and x.size > 16:
                continue
            groups = x.channels if kind == "depthwise" else draw(st.sampled_from([1, 1, 2, 3]))
            made.conv(x, groups, draw(st.sampled_from([1, 3])), draw(st.booleans()), kind == "up")
        elif kind == "leaky":
            made.add("LeakyRelu", [x.name], x.size, x.channels, alpha=0.1)
        elif kind == "relu":
            made.add("Relu", [x.name], x.size, x.channels)
        elif kind == "prelu":
            slope = made.constant(made.rng.uniform(-1, 1, (x.channels, 1, 1)))
            made.add("PRelu", [x.name, slope], x.size, x.channels)
        elif kind in ("silu", "sigmoid"):
            made.add("Sigmoid", [x.name], x.size, x.channels)
            if kind == "silu":
                made.add("Mul", [x.name, made.tensors[-1].name], x.size, x.channels)
        elif kind == "max":
            window = {"kernel_shape": [3, 3], "pads": [1] * 4}
            made.add("MaxPool", [x.name], x.size, inherited=x.factors, **window)
        elif kind in ("stride", "avg") and x.size > 1:
            op = "MaxPool" if kind == "stride" else "AveragePool"
            window = {"kernel_shape": [2, 2], "strides": [2, 2]}
            made.add(op, [x.name], x.size // 2, inherited=x.factors, **window)
        elif kind == "global":
            op = draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"]))
            made.add(op, [x.name], 1, inherited=x.factors)
        elif kind in ("resize", "linear") and x.size <= 8:
            how = UP if kind == "resize" else {"mode": "linear"}
            inputs = [x.name, "", made.constant([1, 1, 2, 2])]
            made.add("Resize", inputs, 2 * x.size, inherited=x.factors, **how)
        elif kind == "slice" and x.size > 1:
            bounds = [[1, 0], [10**6] * 2, [-2, 3], [2, 2]]  # every second row and column
            inputs = [x.name, *(made.constant(b, np.int64) for b in bounds)]
            made.add("Slice", inputs, x.size // 2, inherited=x.factors)
        elif kind == "concat":
            parts = [x, *draw(st.lists(st.sampled_from(same), min_size=1, max_size=2))]
            joined = np.concatenate([p.factors for p in parts])
            axis = draw(st.sampled_from([1, -3]))
            made.add("Concat", [p.name for p in parts], x.size, inherited=joined, axis=axis)
        elif kind == "add":
            other = draw(st.sampled_from([t for t in same if t.channels == x.channels]))
            made.add("Add", [x.name, other.name], x.size, x.channels)
    if len(made.tensors) == 1:
        made.add("Relu", ["images"], 8, 3)
    last = made.tensors[-1].name
    more = draw(st.lists(st.sampled_from([t.name for t in made.tensors[1:]]), max_size=2))
    return made, list(dict.fromkeys([last, *more]))


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * max(np.abs(wanted).max(), 1e-3)


@settings(max_examples=80)
@given(graphs())
def test_random_graphs_compute_the_same(build, run, drawn: tuple[Random, list[str]]) -> None:
    made, outputs = drawn
    model = build(made.nodes, made.constants, outputs, size=8)
    layers = {x.name: x for x in model.layers if x.op in ("conv2d", "conv_transpose2d")}
    images = made.rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = {t.name: t for t in made.tensors}
    wanted = Channels(model).sources()
    assert wanted.keys() <= made.sources.keys()
    before = model.proto.SerializeToString(deterministic=True)
    found = scale(model, {name: made.sources[name] for name in wanted})
    assert model.proto.SerializeToString(deterministic=True) == before
    new = type(model)("new", found.proto, model.preprocessing, model.decoding, ())

    more = {x.name for x in new.layers} - {x.name for x in model.layers}
    assert all(name.endswith(".equalized") for name in more)
    assert {(x.name, x.op) for x in model.layers} <= {(x.name, x.op) for x in new.layers}
    assert sorted([*found.multiplied, *found.folded]) == sorted(wanted)
    ops, old = (Counter(n.op_type for n in m.proto.graph.node) for m in (new, model))
    assert ops["Mul"] - old["Mul"] == len(found.multiplied)
    onnx.checker.check_model(found.proto, full_check=True)

    now = {x.name: x.inputs[0] for x in new.layers if x.name in layers}
    reads = [x.inputs[0] for x in layers.values() if x.inputs[0] != "images"]
    left = run(exposed(model.proto, reads), images) | {"images": images}
    seen = [name for name in now.values() if name != "images"]
    right = run(exposed(found.proto, seen), images) | {"images": images}
    for name in outputs:
        close(right[name], left[name])
    for name, layer in layers.items():
        tensor = layer.inputs[0]
        factors = expected[tensor].factors.reshape(1, -1, 1, 1)
        close(right[now[name]], left[tensor] / factors)


RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def rewritten(build, run):
    """Scales a small graph by random factors; holds its heads, and gives the result."""

    def make(nodes, constants, outputs=("y",), opset=17):
        model = build(nodes, constants, outputs, opset=opset)
        images = RNG.standard_normal((2, 3, 16, 16)).astype(np.float32)
        sources = Channels(model).sources()
        values = run(exposed(model.proto, list(sources)), images)
        factors = {t: 10 ** RNG.uniform(-2, 2, values[t].shape[1]) for t in sources}
        found = scale(model, factors)
        heads = run(found.proto, images)
        assert list(heads) == list(outputs)
        for name, head in heads.items():
            close(head, values[name] if name in values else run(model.proto, images)[name])
        return found

    return make


def chain(*more: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [
        node("Conv", ["images", "w0", "b0"], ["a"], "a"),
        node("LeakyRelu", ["a"], ["b"], "b"),
        node("Conv", ["b", "w1", "b1"], ["y"], "y"),
        *more,
    ]


def constants(**more: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "w0": weight(6, 3, 1, 1),
        "b0": weight(6),
        "w1": weight(6, 6, 1, 1),
        "b1": weight(6),
        **more,
    }


def test_a_convolution_with_a_relu_takes_the_factors_in(rewritten) -> None:
    found = rewritten(chain(), constants())
    assert (found.multiplied, found.folded) == ((), ("b",))
    assert [n.op_type for n in found.proto.graph.node] == ["Conv", "LeakyRelu", "Conv"]
    assert found.proto.graph.node[2].input[0] == "b"


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Elu", "HardSwish", "Clip"])
def test_other_functions_do_not_let_factors_through(rewritten, op: str) -> None:
    nodes = chain()
    clip = ["a", "", "six"] if op == "Clip" else ["a"]
    nodes[1] = node(op, clip, ["b"], "b")
    found = rewritten(nodes, constants(six=np.float32(1)))
    assert (found.multiplied, found.folded) == (("b",), ())


@pytest.mark.parametrize(
    ("more", "outputs"),
    [
        ([node("Add", ["b", "y"], ["z"], "z")], ("z",)),  # b is read unscaled
        ([node("Sigmoid", ["a"], ["z"], "z")], ("y", "z")),  # so is what lies before it
        ([], ("y", "b")),
        ([], ("y", "a")),
    ],
)
def test_what_is_read_unscaled_too_costs_a_mul(rewritten, more, outputs) -> None:
    found = rewritten(chain(*more), constants(), outputs)
    assert (found.multiplied, found.folded) == (("b",), ())
    assert [n.op_type for n in found.proto.graph.node[2:4]] == ["Mul", "Conv"]


def test_a_bias_that_others_need_is_copied(rewritten) -> None:
    nodes = chain()
    nodes[2].input[2] = "b0"
    found = rewritten(nodes, {k: v for k, v in constants().items() if k != "b1"})
    assert found.folded == ("b",)
    first, last = found.proto.graph.node[0], found.proto.graph.node[-1]
    assert last.input[2] != first.input[2]
    assert "b0" in (first.input[2], last.input[2])


def test_a_weight_of_two_convolutions_is_copied(rewritten) -> None:
    nodes = chain(node("Tanh", ["y"], ["c"], "c"), node("Conv", ["c", "w1", "b1"], ["z"], "z"))
    found = rewritten(nodes, constants(), ("z",))
    names = [n.input[1] for n in found.proto.graph.node if n.name in ("y", "z")]
    assert len(set(names)) == 2
    assert {i.name for i in found.proto.graph.initializer} >= set(names)


def test_one_mul_serves_all_convolutions(rewritten) -> None:
    nodes = [
        node("Conv", ["images", "w0"], ["a"], "a"),
        node("Tanh", ["a"], ["b"], "b"),
        *(node("Conv", ["b", "w1"], [f"y{i}"], f"y{i}") for i in range(3)),
    ]
    found = rewritten(nodes, constants(), ("y0", "y1", "y2"))
    assert found.multiplied == ("b",)
    assert len({n.input[0] for n in found.proto.graph.node[-3:]}) == 1


def joined(*more: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [
        node("Conv", ["images", "w0"], ["a"], "a"),
        node("Tanh", ["a"], ["b"], "b"),
        node("MaxPool", ["b"], ["p"], "p", kernel_shape=[3, 3], pads=[1] * 4),
        node("Concat", ["p", "b"], ["c"], "c", axis=1),
        node("Conv", ["c", "w2"], ["y"], "y"),
        *more,
    ]


def test_twins_take_over_the_names_of_what_nobody_reads(rewritten) -> None:
    found = rewritten(joined(), constants(w2=weight(4, 12, 1, 1)))
    assert [n.name for n in found.proto.graph.node] == ["a", "b", "b.equalize", "p", "c", "y"]
    assert list(found.proto.graph.node[-1].input)[:1] == ["c"]
    assert found.multiplied == ("b",)


def test_a_node_stays_beside_its_twin_for_those_who_read_it(rewritten) -> None:
    nodes = joined(node("Sigmoid", ["p"], ["z"], "z"))
    found = rewritten(nodes, constants(w2=weight(4, 12, 1, 1)), ("y", "z"))
    names = [n.name for n in found.proto.graph.node]
    assert names == ["a", "b", "b.equalize", "p", "p.equalized", "c", "y", "z"]
    shapes = {i.name for i in found.proto.graph.value_info}
    made = {name for n in found.proto.graph.node for name in n.output}
    assert made - shapes == {"y", "z"}


def test_the_image_is_left_alone(rewritten) -> None:
    ends = {"starts": [0], "ends": [99], "axes": [2], "steps": [2]}
    nodes = [
        node("Slice", ["images", *ends], ["s"], "s"),
        node("Concat", ["s", "s"], ["c"], "c", axis=1),
        node("Conv", ["c", "w"], ["y"], "y"),
    ]
    integers = {k: np.array(v, np.int64) for k, v in ends.items()}
    found = rewritten(nodes, {"w": weight(4, 6, 1, 1), **integers})
    assert (found.multiplied, found.folded) == ((), ())
    assert [n.name for n in found.proto.graph.node] == ["s", "c", "y"]


@pytest.mark.parametrize(
    ("mixing", "more", "channels"),
    [
        (node("Concat", ["b", "b"], ["c"], "c", axis=2), {}, 6),
        (node("Concat", ["b", "k"], ["c"], "c", axis=1), {"k": weight(2, 1, 16, 16)}, 7),
        (node("Resize", ["b", "", "k"], ["c"], "c", **UP), {"k": np.float32([1, 2, 1, 1])}, 12),
        (
            node(
                "Resize",
                ["b", "roi", "k"],
                ["c"],
                "c",
                mode="linear",
                coordinate_transformation_mode="tf_crop_and_resize",
                extrapolation_value=9.0,
            ),
            {"k": np.float32([1, 1, 2, 2]), "roi": np.float32([0, 0, 0, 0, 1, 1, 2, 2])},
            6,
        ),
        (
            node("Slice", ["b", "one", "k", "one"], ["c"], "c"),
            {"one": np.int64([1]), "k": np.int64([4])},
            3,
        ),
        (node("Transpose", ["b"], ["c"], "c", perm=[0, 2, 1, 3]), {}, 16),
        (node("MaxPool", ["b"], ["c", "where"], "c", kernel_shape=[1, 1]), {}, 6),
    ],
)
def test_what_mixes_channels_has_channels_of_its_own(rewritten, mixing, more, channels) -> None:
    nodes = [
        node("Conv", ["images", "w0"], ["a"], "a"),
        node("Tanh", ["a"], ["b"], "b"),
        mixing,
        node("Conv", ["c", "w2"], ["y"], "y"),
    ]
    found = rewritten(nodes, constants(w2=weight(4, channels, 1, 1), **more))
    assert found.multiplied == ("c",)


def test_a_resize_may_count_its_axes_otherwise(rewritten) -> None:
    nodes = joined()
    nodes[2] = node("Resize", ["b", "", "k"], ["p"], "p", axes=[0, 2, 1, 3], **UP)
    factors = np.float32([1, 1, 2, 1])  # of channels, in this order
    found = rewritten(nodes, constants(w2=weight(4, 18, 1, 1), k=factors), opset=18)
    assert set(found.multiplied) == {"b", "p"}


def test_names_that_are_taken_are_avoided(rewritten) -> None:
    nodes = joined()
    nodes[1] = node("Tanh", ["a"], ["b"], "b.equalize")
    nodes.insert(2, node("Add", ["b", "b"], ["b.equalized"], "b"))
    nodes += [node("Conv", ["b.equalized", "w1"], ["z"], "z")]
    found = rewritten(nodes, constants(w2=weight(4, 12, 1, 1)), ("y", "z"))
    assert set(found.multiplied) == {"b", "b.equalized"}
