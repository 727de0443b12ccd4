"""One torch callable for each node of the float graph; a file for each family of operators."""

from __future__ import annotations

from quantcore_pytorch_quantization.operators import arithmetic, pixels, reductions, shapes
from quantcore_pytorch_quantization.operators.common import Builder, Call
from quantcore_pytorch_quantization.operators.layers import WEIGHTED

__all__ = ["FUNCTIONS", "WEIGHTED", "Call"]

#: By ONNX operator: what is no layer with weights.
FUNCTIONS: dict[str, Builder] = {
    **arithmetic.FUNCTIONS,
    **pixels.FUNCTIONS,
    **reductions.FUNCTIONS,
    **shapes.FUNCTIONS,
}
