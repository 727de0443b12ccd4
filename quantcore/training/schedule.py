"""How far each step of a training goes."""

from __future__ import annotations

import math

from quantcore.contracts.training import Rates
from quantcore.training.recipe import Recipe


def rates(recipe: Recipe, step: int) -> Rates:
    """The rates of a step, counted from 0: rising over the warm-up, then along a half cosine."""
    rise = min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    follows = recipe.activations == "ema" and step < recipe.freeze_after * recipe.steps
    return Rates(
        weights=recipe.rate * rise * fall,
        scales=recipe.scale_rate * rise * fall,
        momentum=recipe.momentum if follows else None,
    )
