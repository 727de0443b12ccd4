"""Channel equalization: the channels of what convolutions read get more alike, before calibration.

An activation is coded with one scale, so that channels of small range get few of the codes. A
channel c that is divided by s_c in front of a convolution, whose weights for it are multiplied by
s_c, comes to the same in float. s_c = r_c ** alpha, with r_c the largest magnitude of the channel:
SmoothQuant (Xiao et al. 2022, equation 4) without what it takes from the weights. The idea goes
back to cross-layer equalization (Nagel et al. 2019).

A depthwise convolution has a scale for the weights of each input channel, which swallows the
factor: its weights are coded as well as before, whatever s_c is. What only such convolutions read
is therefore equalized fully, with an exponent of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantcore.analysis.agreement import PARITY_LIMIT, check_finite, disagreement
from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.data.batches import Batches
from quantcore.errors import RangeError, RewriteError, UsageError
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.fp16 import opset_of
from quantcore.results.rewrites import Equalized
from quantcore.rewrites.channels import Channels, Source
from quantcore.rewrites.scaling import Factors, scale
from quantcore.runtime.progress import Progress, Silent

#: SmoothQuant's own exponent; docs/rewrites.md has what others lose.
ALPHA = 0.5
#: Channels of a smaller share of the tensor's range count as if they had this share: dead ones
#: have no range, and what they show on other images must not be blown up.
FLOOR = 1e-3
CHECKED_IMAGES = 2
#: From this opset on ReduceMax and ReduceL1 take their axes as an input, not as an attribute.
_AXES_INPUT = 18


def equalize(
    model: FloatModel,
    batches: Batches,
    engine: EnginePlugin,
    alpha: float = ALPHA,
    progress: Progress | None = None,
) -> Equalized:
    """Scales the channels of all that convolutions read, the network input excepted.

    Args:
        model: The float model.
        batches: Calibration images for this model.
        engine: Runs the float graph; the numerical reference.
        alpha: 0..1; 1 makes all channels of a tensor alike, 0 would leave them as they are. What
            only depthwise convolutions read has 1.
        progress: Where to report.

    Raises:
        UsageError: `alpha` is out of range.
        RangeError: An activation is NaN or infinite; names tensor and image.
        ModelError: The float graph itself yields NaN or infinity.
        RewriteError: The new graph computes something else.
        DataError: As `Batches`.
    """
    if not 0 < alpha <= 1:
        raise UsageError(f"alpha must be above 0 and at most 1, not {alpha}")
    inputs = batches.inputs()
    with inputs.naming_images():
        found = (progress or Silent()).track(inputs, "ranges of channels")
        ranges = channel_ranges(model, found, engine)
    sources = Channels(model).sources()
    exponents = {name: 1.0 if s.depthwise else alpha for name, s in sources.items()}
    scaled = scale(model, {name: factors(r, exponents[name]) for name, r in ranges.items()})
    new = replace(model, proto=scaled.proto)
    few = Batches(batches.images[:CHECKED_IMAGES], model.preprocessing, batches.batch_size)
    parity = check(model, new, few.inputs(), engine)
    return Equalized(new, scaled.multiplied, scaled.folded, parity)


def factors(ranges: Factors, alpha: float) -> Factors:
    """s_c = max(r_c, FLOOR * max r) ** alpha; 1 for a tensor of zeros.

    It depends on the channel alone, not on the tensor's other channels, as long as none is dead.

    Args:
        ranges: r_c, the largest magnitude of each channel.
        alpha: 0..1.
    """
    largest = ranges.max(initial=0.0)
    if largest == 0:
        return np.ones_like(ranges)
    # Below the smallest normal float32 a factor could not be inverted.
    lowest = max(FLOOR * largest, float(np.finfo(np.float32).tiny) * 4)
    found: Factors = np.maximum(ranges, lowest) ** alpha
    return found


def channel_ranges(
    model: FloatModel, batches: Iterable[Array], engine: EnginePlugin
) -> dict[str, Factors]:
    """The largest magnitude of each channel of `Channels.sources`.

    Args:
        model: The float model.
        batches: Network inputs, B x 3 x H x W.
        engine: Runs the float graph.

    Raises:
        RangeError: A value is NaN or infinite; names tensor and image.
    """
    watched = Channels(model).sources()
    if not watched:
        return {}
    found: dict[str, Factors] = {}
    images = 0
    with engine.build(_measuring(model, watched), EngineOptions()) as built:
        for batch in batches:
            results = list(built.infer(batch).values())
            for name, largest, total in zip(watched, results[::2], results[1::2], strict=True):
                _check_finite(name, total, images)
                top = largest.max(axis=0).astype(np.float64)
                found[name] = np.maximum(found.get(name, top), top)
            images += len(batch)
    return found


def _measuring(model: FloatModel, watched: Mapping[str, Source]) -> onnx.ModelProto:
    """The float graph with two outputs B x C for each watched tensor instead of the heads.

    Max |x|, and the sum of |x| for what is not finite: ONNX Runtime's ReduceMax passes over NaN.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    del graph.output[:]
    for tensor, source in watched.items():
        axes = list(range(2, source.rank))
        ends = [f"{tensor}.channels.{what}" for what in ("abs", "max", "sum")]
        graph.node.append(helper.make_node("Abs", [tensor], ends[:1], ends[0]))
        for op, read, end in (("ReduceMax", ends[0], ends[1]), ("ReduceL1", tensor, ends[2])):
            node = helper.make_node(op, [read], [end], end, keepdims=0)
            if opset_of(proto) >= _AXES_INPUT:
                node.input.append(f"{end}.axes")
                constant = numpy_helper.from_array(np.asarray(axes, np.int64), f"{end}.axes")
                graph.initializer.append(constant)
            else:
                node.attribute.append(helper.make_attribute("axes", axes))
            graph.node.append(node)
            graph.output.append(helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None))
    return proto


def _check_finite(tensor: str, sums: Array, images: int) -> None:
    """Raises RangeError where a sum, image x channel, is not finite."""
    bad = ~np.isfinite(sums).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        nan = bool(np.isnan(sums[first]).any())
        raise RangeError.not_finite(f"tensor {tensor!r}", nan, images + first)


def check(
    model: FloatModel, rewritten: FloatModel, batches: Iterable[Array], engine: EnginePlugin
) -> float:
    """Holds the heads of a rewritten model against those of the float model.

    Returns:
        Largest difference over the largest magnitude of a head, the worst of all heads and batches.

    Raises:
        ModelError: The float graph itself yields NaN or infinity.
        RewriteError: The figure exceeds 1e-4; names the head.
    """
    worst = 0.0
    with (
        engine.build(model.proto, EngineOptions()) as before,
        engine.build(rewritten.proto, EngineOptions()) as after,
    ):
        for batch in batches:
            expected = before.infer(batch)
            check_finite(model, expected)
            error, head = disagreement(expected, after.infer(batch))
            if not error <= PARITY_LIMIT:
                raise RewriteError(
                    f"{model.name}: the rewritten graph differs from the float graph by "
                    f"{error:.1e} relative at output {head!r} (limit {PARITY_LIMIT:.0e})"
                )
            worst = max(worst, error)
    return worst
