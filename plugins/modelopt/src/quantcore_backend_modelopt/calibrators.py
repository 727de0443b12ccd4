"""Model Optimizer's calibrators for chosen tensors, fed one batch at a time."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from modelopt.onnx.quantization import ort_patching
from onnxruntime.quantization import CalibrationMethod, calibrate
from onnxruntime.quantization.base_quantizer import BaseQuantizer
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from quantcore.contracts.observing import SUM, SumsChecked, with_sums
from quantcore.ir.model import Array

_METHODS = {"max": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
#: What Model Optimizer changes in ONNX Runtime.
_CHANGED = (
    calibrate,
    calibrate.CalibraterBase,
    calibrate.MinMaxCalibrater,
    calibrate.HistogramCalibrater,
    calibrate.HistogramCollector,
    QDQQuantizer,
    BaseQuantizer,
)


@contextlib.contextmanager
def changed() -> Iterator[None]:
    """ONNX Runtime as Model Optimizer changes it, and afterwards as it was.

    Another user of ONNX Runtime's quantization in this process must not find it changed. Prints and
    progress bars of the calibrators are kept from the terminal meanwhile.
    """
    before = [dict(vars(place)) for place in _CHANGED]
    ort_patching.patch_ort_modules()
    try:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            yield
    finally:
        for place, kept in zip(_CHANGED, before, strict=True):
            for name, value in list(vars(place).items()):
                if name not in kept:
                    delattr(place, name)
                elif value is not kept[name]:
                    setattr(place, name, kept[name])


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]
    """A reader that ends after one batch."""

    def __init__(self, feeds: dict[str, Array]) -> None:
        self._feeds: dict[str, Array] | None = feeds

    def get_next(self) -> dict[str, Array] | None:
        """The batch, then None."""
        feeds, self._feeds = self._feeds, None
        return feeds


class Watch:
    """Some tensors, watched by one calibrator; used inside `changed`.

    Args:
        proto: The float graph.
        folder: Where it may write.
        observer: `max` or `entropy`.
        tensors: What it watches.
    """

    def __init__(
        self, proto: onnx.ModelProto, folder: Path, observer: str, tensors: Sequence[str]
    ) -> None:
        self.tensors = tuple(tensors)
        self.who = f"Model Optimizer's {observer} calibrator"
        graph = folder / "float.onnx"
        probed = with_sums(proto, self.tensors)
        graph.write_bytes(probed.SerializeToString())
        # As its own quantize_static calls it: the list holds nodes, whose tensors are watched.
        self._calibrator = calibrate.create_calibrator(
            graph,
            [tensor + SUM for tensor in self.tensors],
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=_METHODS[observer],
            extra_options={"execution_providers": ["CPUExecutionProvider"]},
        )
        self._calibrator.infer_session = SumsChecked(self._calibrator.infer_session)

    def see(self, feeds: dict[str, Array]) -> None:
        """Takes one more batch into account."""
        self._calibrator.collect_data(_OneBatch(feeds))

    def amax(self) -> dict[str, float]:
        """The larger end of each range, as Model Optimizer's symmetric codes need it."""
        found = self._calibrator.compute_data()
        ends = {tensor: np.asarray(found[tensor].range_value) for tensor in self.tensors}
        return {tensor: float(np.abs(both).max()) for tensor, both in ends.items()}
