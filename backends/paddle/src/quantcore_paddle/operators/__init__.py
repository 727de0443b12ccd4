"""One Paddle layer or function for each node of the float graph; a file for each family."""

from __future__ import annotations

from quantcore_paddle.operators import arithmetic, pixels, reductions, shapes
from quantcore_paddle.operators.common import Builder, Call
from quantcore_paddle.operators.layers import LAYERS, builder_of

__all__ = ["FUNCTIONS", "LAYERS", "Call", "builder_of"]

#: By ONNX operator: what is no layer of Paddle's.
FUNCTIONS: dict[str, Builder] = {
    **arithmetic.FUNCTIONS,
    **pixels.FUNCTIONS,
    **reductions.FUNCTIONS,
    **shapes.FUNCTIONS,
}
