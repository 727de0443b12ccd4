"""What backends share that observe tensors: finite values, ranges from amax, errors with names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.errors import BackendError, QuantcoreError, RangeError
from quantcore.ir.edits import copied
from quantcore.ir.model import Array
from quantcore.qdq.placement import Site
from quantcore.table.table import TensorRange

#: What `with_sums` calls the sum over a tensor, after the tensor's name.
SUM = "!sum"


def place(site: Site) -> str:
    """A site in words, for messages."""
    return f"{site.role} {site.tensor!r} of layer {', '.join(site.consumers)}"


def finite(site: Site, values: Array) -> Array:
    """The values; NaN passes unseen through most ways of taking a maximum, and into histograms.

    Raises:
        RangeError: NaN or infinite; names tensor and layers.
    """
    if not np.isfinite(values).all():
        raise RangeError(f"{place(site)}: NaN or infinite; check the weights and the images")
    return values


def largest(weight: npt.NDArray[np.generic], axis: int | None) -> npt.NDArray[Any]:
    """Largest magnitude of a weight, or of each channel along an axis."""
    rest = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    found: npt.NDArray[Any] = np.asarray(np.abs(weight).max(axis=rest))
    return found


def symmetric_range(site: Site, amax: object) -> TensorRange:
    """The range [-amax, amax] of a site, for backends whose framework yields amax.

    Args:
        site: What was observed.
        amax: A number, or any array with one number for each channel of the site's axis.

    Raises:
        RangeError: NaN, infinite or negative; names tensor and layers.
    """
    values = np.asarray(amax, dtype=np.float64).reshape(-1)
    try:
        if site.axis is not None:
            return TensorRange.symmetric(site.role, values, site.axis)
        return TensorRange.symmetric(site.role, values.item())
    except RangeError as error:
        raise RangeError(f"{place(site)}: {error}; check the weights and the images") from None


@contextlib.contextmanager
def blamed(who: str, tensors: Sequence[str]) -> Iterator[None]:
    """Turns whatever a framework's calibrator raises into an error that names what it watched.

    Args:
        who: The calibrator: `ONNX Runtime's max calibrater`.
        tensors: What it watched.

    Raises:
        BackendError: In place of the framework's own error.
    """
    try:
        yield
    except QuantcoreError:
        raise
    except Exception as error:  # the framework's, NumPy's, asserts
        reason = " ".join(str(error).split())[:300]
        raise BackendError(
            f"{who} failed on {', '.join(map(repr, tensors))}: {type(error).__name__}: {reason}; "
            "give the layers observer max"
        ) from error


def with_sums(proto: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The graph with the sum over each tensor as an output, which shows NaN and infinity.

    Calibrators that work on ONNX graphs step over NaN, or take it for the largest number.
    """
    copy = copied(proto)
    for tensor in tensors:
        sums = tensor + SUM
        copy.graph.node.append(
            onnx.helper.make_node("ReduceSum", [tensor], [sums], name=sums, keepdims=0)
        )
        scalar = onnx.helper.make_tensor_value_info(sums, onnx.TensorProto.FLOAT, [])
        copy.graph.output.append(scalar)
    return copy


class SumsChecked:
    """An inference session on a graph `with_sums` that refuses tensors with NaN or infinity.

    Args:
        session: With ONNX Runtime's `run` and `get_outputs`; everything else is passed on to it.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: Any, feeds: Mapping[str, Array], **options: Any) -> list[Array]:
        """The session's own `run`; raises RangeError with the tensor's name."""
        values: list[Array] = self._session.run(names, feeds, **options)
        for output, value in zip(self._session.get_outputs(), values, strict=True):
            if output.name.endswith(SUM) and not np.isfinite(value):
                tensor = output.name.removesuffix(SUM)
                raise RangeError(f"activation {tensor!r}: NaN or infinite; check the weights")
        return values


def swaps(
    forced: Mapping[str, Array],
    computed: dict[str, Array],
    read: Callable[[Any], Array],
    made: Callable[[Array], Any],
) -> dict[str, Callable[[Any], Any]]:
    """For each forced tensor, what takes in the framework's own value and gives the forced one.

    Args:
        forced: See `Simulation.infer`.
        computed: Where the framework's own values go.
        read: From the framework's tensor.
        made: To the framework's tensor.
    """

    def swap(name: str) -> Callable[[Any], Any]:
        def replace(x: Any) -> Any:
            computed[name] = read(x)
            return made(forced[name])

        return replace

    return {name: swap(name) for name in forced}


def looks(
    show: Mapping[str, Callable[[Array], None]], read: Callable[[Any], Array]
) -> dict[str, Callable[[Any], Any]]:
    """For each watched tensor, what shows the framework's value and passes it on.

    Args:
        show: See `BackendSession.watch`.
        read: From the framework's tensor.
    """

    def look(name: str) -> Callable[[Any], Any]:
        def pass_on(x: Any) -> Any:
            show[name](read(x))
            return x

        return pass_on

    return {name: look(name) for name in show}
