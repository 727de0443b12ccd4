"""The toolkit without what takes long and is hardly ever needed; imports no framework."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

_NAME = "scipy.stats"

#: Who imports it.
_READER = "pytorch_quantization.calib.histogram"


@contextlib.contextmanager
def light_import() -> Iterator[None]:
    """Keeps the toolkit from importing scipy.stats until it computes an entropy.

    pytorch-quantization 2.1.3 takes one function from it (calib/histogram.py:22), for one of its
    calibrators; the import takes half a second in every process. A program that has scipy.stats
    already, or imports it later, has the real one.
    """
    if _NAME in sys.modules or _READER in sys.modules:
        yield
        return
    stand_in = ModuleType(_NAME)
    stand_in.entropy = _entropy  # type: ignore[attr-defined]
    sys.modules[_NAME] = stand_in
    try:
        yield
    finally:
        del sys.modules[_NAME]


def _entropy(*given: Any, **named: Any) -> Any:
    from scipy.stats import entropy

    return entropy(*given, **named)


def know_the_caller_quickly(module: ModuleType) -> None:
    """Keeps the toolkit from reading the sources of all callers for each layer that it makes.

    pytorch-quantization 2.1.3 looks at the name of one caller with `inspect.stack()`
    (nn/modules/_utils.py:67), which takes 2 ms for each layer in a program, and 80 ms under a test
    runner or in a notebook, whose stacks are deep.

    Args:
        module: `pytorch_quantization.nn.modules._utils`.
    """
    module.inspect = SimpleNamespace(stack=_callers)  # type: ignore[attr-defined]


def _callers() -> list[SimpleNamespace]:
    """The first two entries of `inspect.stack()`, with the one fact that is asked for."""
    asking = sys._getframe(1)
    frames = (asking, asking.f_back or asking)
    return [SimpleNamespace(function=frame.f_code.co_name) for frame in frames]
