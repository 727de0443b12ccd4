"""Importing the toolkit without what it hardly ever needs; imports no framework."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
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
