"""ONNX Runtime's calibraters for chosen tensors, fed one batch at a time."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    EntropyCalibrater,
    MinMaxCalibrater,
    PercentileCalibrater,
)

from quantcore.contracts.observing import SumsChecked, with_sums
from quantcore.ir.model import Array
from quantcore.policy.policy import TensorPolicy


class _Chosen:
    """Makes a calibrater look at given tensors, where it would take those of whole op types.

    Attributes:
        chosen: The tensors.
    """

    chosen: tuple[str, ...] = ()

    def select_tensors_to_calibrate(
        self, model: onnx.ModelProto
    ) -> tuple[set[str], dict[str, Any]]:
        """The tensors and what is known of their shapes; replaces the calibrater's own."""
        graph = model.graph
        known = {i.name: i for i in (*graph.value_info, *graph.output, *graph.input)}
        empty = onnx.helper.make_empty_tensor_value_info
        return set(self.chosen), {name: known.get(name) or empty(name) for name in self.chosen}


class _MinMax(_Chosen, MinMaxCalibrater):  # type: ignore[misc]
    pass


class _Percentile(_Chosen, PercentileCalibrater):  # type: ignore[misc]
    pass


class _Entropy(_Chosen, EntropyCalibrater):  # type: ignore[misc]
    pass


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]
    """A reader that ends after one batch."""

    def __init__(self, feeds: dict[str, Array]) -> None:
        self._feeds: dict[str, Array] | None = feeds

    def get_next(self) -> dict[str, Array] | None:
        """The batch, then None."""
        feeds, self._feeds = self._feeds, None
        return feeds


class Watch:
    """Some tensors, watched by one calibrater.

    ONNX Runtime's histogram calibraters keep every activation until `collect_data` returns, but
    merge histograms from call to call; one call a batch holds no more than a batch. The bins are
    those of the first batch and grow with the data.

    Args:
        proto: The float graph.
        folder: Where it may write.
        policy: Which calibrater, with which parameters.
        tensors: What it watches.
    """

    def __init__(
        self, proto: onnx.ModelProto, folder: Path, policy: TensorPolicy, tensors: Sequence[str]
    ) -> None:
        self.tensors = tuple(tensors)
        self.who = f"ONNX Runtime's {policy.observer} calibrater"
        graph = folder / "float.onnx"
        graph.write_bytes(with_sums(proto, self.tensors).SerializeToString())
        self._calibrater = _calibrater(graph, folder / "augmented.onnx", policy)
        self._calibrater.chosen = self.tensors
        with _hushed():
            self._calibrater.augment_graph()
            self._calibrater.create_inference_session()
        self._calibrater.infer_session = SumsChecked(self._calibrater.infer_session)

    def see(self, feeds: dict[str, Array]) -> None:
        """Takes one more batch into account."""
        with _hushed():
            self._calibrater.collect_data(_OneBatch(feeds))

    def amax(self) -> dict[str, float]:
        """The larger end of each range, as a symmetric code needs it."""
        with _hushed():
            found = self._calibrater.compute_data()
        ends = {tensor: found[tensor].range_value for tensor in self.tensors}
        return {
            t: float(max(np.abs(low).max(), np.abs(high).max())) for t, (low, high) in ends.items()
        }


def _calibrater(graph: Path, augmented: Path, policy: TensorPolicy) -> Any:
    if policy.observer == "percentile":
        return _Percentile(
            graph,
            augmented_model_path=str(augmented),
            symmetric=True,
            num_bins=int(policy.parameter("bins", 2048)),
            percentile=policy.parameter("percentile", 99.999),
        )
    if policy.observer == "entropy":
        return _Entropy(
            graph,
            augmented_model_path=str(augmented),
            symmetric=True,
            num_bins=int(policy.parameter("bins", 128)),
        )
    return _MinMax(
        graph,
        augmented_model_path=str(augmented),
        symmetric=True,
        moving_average=policy.observer == "moving_average",
        averaging_constant=1 - policy.parameter("momentum", 0.99),
    )


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keeps the calibraters' prints from the user's terminal."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
