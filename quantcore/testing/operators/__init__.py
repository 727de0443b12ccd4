"""Every operator that a backend declares, in random forms, against ONNX Runtime.

A form is drawn by a `Pick`: hypothesis makes one from its own data, `Dice` from a seed.
"""

from __future__ import annotations

from collections.abc import Callable

from quantcore.testing.operators import elements, layers, pixels, reductions, shapes
from quantcore.testing.operators.case import Case, Dice, Pick
from quantcore.testing.operators.holding import hold_to_reference

__all__ = ["CASES", "Case", "Dice", "Pick", "hold_to_reference"]

#: By ONNX operator: draws a node.
CASES: dict[str, Callable[[Pick], Case]] = {
    **elements.CASES,
    **layers.CASES,
    **pixels.CASES,
    **reductions.CASES,
    **shapes.CASES,
}
