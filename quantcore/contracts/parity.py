"""Whether two runs of one float network agree, and whether there is anything to agree on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantcore.errors import ModelError
from quantcore.ir.model import Array, FloatModel

#: Largest difference over the largest magnitude of a head that still counts as the same network.
PARITY_LIMIT = 1e-4


def disagreement(reference: Mapping[str, Array], other: Mapping[str, Array]) -> tuple[float, str]:
    """Largest difference over the largest magnitude of a head, of the worst head, and its name.

    NaN where the other holds NaN.

    Args:
        reference: Heads by name.
        other: The same heads.
    """
    errors = {
        name: float(np.abs(other[name] - head).max() / max(np.abs(head).max(), 1e-12))
        for name, head in reference.items()
    }
    worst = max(errors, key=lambda name: (np.isnan(errors[name]), errors[name]))
    return errors[worst], worst


def check_finite(model: FloatModel, heads: Mapping[str, Array]) -> None:
    """Raises ModelError where the float graph itself yields NaN or infinity."""
    if all(np.isfinite(head).all() for head in heads.values()):
        return
    bad = [
        name
        for name, values in model.initializers.items()
        if values.dtype.kind == "f" and not np.isfinite(values).all()
    ]
    cause = f"the weights {', '.join(bad)} are not finite" if bad else "an activation overflows"
    raise ModelError(f"{model.name}: the float graph yields NaN or infinity: {cause}")
