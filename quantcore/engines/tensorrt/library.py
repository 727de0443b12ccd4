"""The installed TensorRT module: `tensorrt`, else `tensorrt_rtx`; type-checked as `tensorrt`.

Import this module only where TensorRT is needed: importing it imports the library.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from quantcore.errors import EngineError

__all__ = ["MODULES", "Logger", "trt"]

#: The full library first: what it has is a superset.
MODULES = ("tensorrt", "tensorrt_rtx")


def _load() -> Any:
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # type stubs alone look like a namespace package
            continue
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(f"{name} is installed but does not load: {error}") from None
    raise EngineError(
        'TensorRT is not installed; run: pip install "tensorrt-rtx-cu13" (RTX GPUs; builds without '
        'a GPU, too) or pip install "tensorrt" (all GPUs)'
    )


if TYPE_CHECKING:
    import tensorrt as trt
else:
    trt = _load()


class Logger(trt.ILogger):
    """Keeps what TensorRT says about errors, which its calls themselves only answer with None."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        """Called by the library, from any of its threads."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(" ".join(message.split()))

    def reason(self) -> str:
        """The last error in a line; the last one is nearest to the call that failed."""
        return self.errors[-1][:400] if self.errors else "it gives no reason"
