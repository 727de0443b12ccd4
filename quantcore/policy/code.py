"""The codes that a tensor can be written in: what numbers there are, and how they are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantcore.errors import PolicyError
from quantcore.policy.reading import suggest
from quantcore.showing import shown

#: How the values of a code lie. Integers lie evenly; codes that do not (a float of eight bits, a
#: table of sixteen values) would be other kinds.
KINDS = ("int",)
#: Narrowest and widest integer code.
LEAST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True)
class Code:
    """What a tensor is coded in.

    A symmetric tensor has signed codes and zero point 0, an affine one unsigned codes: an
    activation of code `int8` is INT8 in the graph where it is symmetric, UINT8 where it is affine.

    Attributes:
        kind: One of `KINDS`.
        bits: Width of one code.
    """

    kind: str = "int"
    bits: int = 8

    def __post_init__(self) -> None:
        """Raises PolicyError for an unknown kind, or a width that it has not."""
        if self.kind not in KINDS:
            raise PolicyError(f"unknown kind of code {shown(self.kind)}; know {', '.join(KINDS)}")
        bits = self.bits
        whole = isinstance(bits, int) and not isinstance(bits, bool)
        if not whole or not LEAST_BITS <= bits <= MOST_BITS:
            raise PolicyError(
                f"bits must be a whole number from {LEAST_BITS} to {MOST_BITS}, not {shown(bits)}"
            )

    @classmethod
    def named(cls, name: Any) -> Code:
        """The code that a policy calls by name, such as `int8`; raises PolicyError."""
        if not isinstance(name, str) or name not in KNOWN:
            raise PolicyError(
                f"unknown code {shown(name)}{suggest(str(name), KNOWN)}; know {', '.join(KNOWN)}"
            )
        return KNOWN[name]

    @property
    def name(self) -> str:
        """As a policy writes it."""
        return f"{self.kind}{self.bits}"

    def lowest(self, symmetric: bool) -> int:
        """The smallest code: -128 of `int8` where it is symmetric, else 0."""
        return -(1 << (self.bits - 1)) if symmetric else 0

    def highest(self, symmetric: bool) -> int:
        """The largest code, and so the number of steps that a range has.

        127 of `int8` where it is symmetric (steps from 0 to the largest magnitude), else 255 (from
        the lower end to the upper).
        """
        return self.lowest(symmetric) + (1 << self.bits) - 1

    @property
    def levels(self) -> int:
        """How many codes the magnitudes of a symmetric tensor have: 128 of `int8`, 0 included."""
        return 1 << (self.bits - 1)


#: Every code by its name.
KNOWN = {f"int{bits}": Code("int", bits) for bits in range(LEAST_BITS, MOST_BITS + 1)}
INT8 = KNOWN["int8"]
