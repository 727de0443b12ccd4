"""What rewrites of the float graph did."""

from __future__ import annotations

from dataclasses import dataclass

from quantcore.ir.model import FloatModel


@dataclass(frozen=True)
class Equalized:
    """A model whose convolutions read equalized tensors.

    Attributes:
        model: The model; heads, layer names, and how images go in and boxes come out are as before.
        multiplied: Tensors of the float model that a Mul node scales.
        folded: Tensors that are scaled by the weights of the convolution that makes them.
        parity: Largest difference of a head over its largest magnitude, on calibration images.
    """

    model: FloatModel
    multiplied: tuple[str, ...]
    folded: tuple[str, ...]
    parity: float
