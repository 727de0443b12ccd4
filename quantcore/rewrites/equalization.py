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
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.contracts.options import option
from quantcore.contracts.rewrite import Rewrite
from quantcore.data.batches import Batches
from quantcore.errors import RangeError, UsageError
from quantcore.ir.edits import add_constant, copied, opset_of
from quantcore.ir.model import Array, FloatModel
from quantcore.results.rewrites import Rewritten
from quantcore.rewrites.channels import Channels, Source
from quantcore.rewrites.scaling import Factors, scale
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable

#: SmoothQuant's own exponent; docs/rewrites.md has what others lose.
ALPHA = 0.5
#: Channels of a smaller share of the tensor's range count as if they had this share: dead ones
#: have no range, and what they show on other images must not be blown up.
FLOOR = 1e-3
#: From this opset on ReduceMax and ReduceL1 take their axes as an input, not as an attribute.
_AXES_INPUT = 18


@dataclass(frozen=True, kw_only=True)
class EqualizationOptions:
    """How much alike channels get.

    Attributes:
        alpha: 0..1; 1 makes all channels of a tensor alike, 0 would leave them as they are. What
            only depthwise convolutions read has 1.
    """

    alpha: float = option(ALPHA, "1 makes all channels of a tensor alike, 0.1 hardly more so.")

    def __post_init__(self) -> None:
        """Raises UsageError where alpha is out of range."""
        if not 0 < self.alpha <= 1:
            raise UsageError(f"alpha must be above 0 and at most 1, not {self.alpha}")


class Equalization(Rewrite):
    """Scales the channels of all that convolutions read, the network input excepted."""

    preserves_float = True
    ensures = "channels of what convolutions read have like ranges"
    makes = "equalized"
    options = EqualizationOptions

    def _apply(
        self,
        model: FloatModel,
        table: CalibrationTable | None,
        batches: Batches,
        engine: EnginePlugin,
        options: EqualizationOptions,
        progress: Progress,
    ) -> Rewritten:
        """Raises RangeError where an activation is NaN or infinite; names tensor and image."""
        inputs = batches.inputs()
        with inputs.naming_images():
            found = progress.track(inputs, "ranges of channels")
            ranges = channel_ranges(model, found, engine)
        sources = Channels(model).sources()
        exponents = {name: 1.0 if s.depthwise else options.alpha for name, s in sources.items()}
        scaled = scale(model, {name: factors(r, exponents[name]) for name, r in ranges.items()})
        muls, folded = len(scaled.multiplied), len(scaled.folded)
        summary = (
            f"{muls + folded} tensors equalized by channel: {muls} by a Mul node, {folded} in the "
            "weights before them"
        )
        details = {"multiplied": list(scaled.multiplied), "folded": list(scaled.folded)}
        return Rewritten(replace(model, proto=scaled.proto), None, summary, details)


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
    proto = copied(model.proto)
    graph = proto.graph
    del graph.output[:]
    for tensor, source in watched.items():
        axes = list(range(2, source.rank))
        ends = [f"{tensor}.channels.{what}" for what in ("abs", "max", "sum")]
        graph.node.append(helper.make_node("Abs", [tensor], ends[:1], ends[0]))
        for op, read, end in (("ReduceMax", ends[0], ends[1]), ("ReduceL1", tensor, ends[2])):
            node = helper.make_node(op, [read], [end], end, keepdims=0)
            if opset_of(proto) >= _AXES_INPUT:
                node.input.append(add_constant(graph, f"{end}.axes", np.asarray(axes, np.int64)))
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
