"""How a network is trained with its quantizers in place, as a person writes it in YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from quantcore.contracts.training import ACTIVATIONS, WEIGHTS
from quantcore.errors import PolicyError
from quantcore.ir.model import FloatModel
from quantcore.ir.projections import projections
from quantcore.policy.reading import refuse_unknown, suggest
from quantcore.qdq.placement import Site


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained; what is quantized, and in how many bits, a policy says.

    Attributes:
        activations: `learned`, `frozen` or `ema`, see `TrainingSpec`.
        momentum: What a range that follows the batches keeps of itself.
        freeze_after: Share of the steps after which such ranges stand still.
        weights: `max` or `frozen`, see `TrainingSpec`; None for `frozen` where the policy clips
            weights, so that training does not undo it, else `max`.
        steps: How many.
        batch: Crops in a step.
        crop: Side of a crop in pixels; None for half of the network's input where the graph runs at
            such a size, else all of it.
        zoom: Crops are of images scaled by between 1 / zoom and zoom times what evaluation does.
        flip: Share of the crops that are mirrored.
        rate: Learning rate of weights and biases.
        scale_rate: Of the logarithms of learned scales: 0.01 moves a scale by 1 % in a step.
        warmup: Steps in which both rise to that; they fall along a cosine.
        heads: Weight of the heads in the loss.
        features: Weight of the activations inside the network.
        labels: Weight of the labels' cross-entropy in the loss, for a classifier; 0 needs none.
        every: Each so many-th quantized activation is held to the teacher's.
        layers: Globs of the names of what is trained.
        seed: Of crops and their order.
        held_out: Share of the images that are set aside for the gate.
        neighbours: Graphs beside its own that each side of the gate is judged by.
    """

    activations: str = "learned"
    momentum: float = 0.9
    freeze_after: float = 0.5
    weights: str | None = None
    steps: int = 200
    batch: int = 4
    crop: int | None = None
    zoom: float = 1.25
    flip: float = 0.5
    rate: float = 2e-5
    scale_rate: float = 0.01
    warmup: int = 20
    heads: float = 1.0
    features: float = 1.0
    labels: float = 0.0
    every: int = 4
    layers: tuple[str, ...] = ("*",)
    seed: int = 0
    held_out: float = 0.25
    neighbours: int = 5

    def __post_init__(self) -> None:
        """Raises PolicyError for a value that makes no sense; names the key."""
        for name, known in (("activations", ACTIVATIONS), ("weights", (*WEIGHTS, None))):
            value = getattr(self, name)
            if value not in known:
                words = [word for word in known if word]
                hint = suggest(str(value), words)
                raise PolicyError(f"{name}: must be one of {', '.join(words)}, not {value!r}{hint}")
        for name, (kind, low, high) in _LIMITS.items():
            _check(name, getattr(self, name), kind, low, high)
        if not self.layers or not all(isinstance(glob, str) for glob in self.layers):
            raise PolicyError("layers: must be a list of names or globs such as 'model.24.*'")
        if not (self.heads or self.features or self.labels):
            raise PolicyError(
                "heads, features, labels: one of them must be above 0, or there is no loss"
            )

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Reads a recipe from YAML; raises PolicyError naming file and key."""
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls.from_dict({} if data is None else data)
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError(f"{path}: cannot read the recipe: {error}") from None
        except (yaml.YAMLError, ValueError) as error:
            raise PolicyError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, data: Any) -> Recipe:
        """The recipe that a mapping describes."""
        if not isinstance(data, Mapping):
            raise PolicyError("a recipe is a mapping of keys to values")
        refuse_unknown(data, {f.name for f in fields(cls)}, "recipe")
        given = dict(data)
        if "layers" in given:
            layers = given["layers"]
            given["layers"] = tuple(layers) if isinstance(layers, list | tuple) else (layers,)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `from_dict` reads it back."""
        return {**asdict(self), "layers": list(self.layers)}

    def of_weights(self, sites: Iterable[Site]) -> str:
        """How ranges of weights move, `max` or `frozen`, where these tensors are quantized."""
        clipped = any(s.role == "weight" and s.policy.observer != "max" for s in sites)
        return self.weights or ("frozen" if clipped else "max")

    def trained(self, model: FloatModel) -> frozenset[str]:
        """Names of the layers with weights that are trained; raises PolicyError where none is.

        Weights that were written down, as those of DFL's mean, are not: the formula is known by
        them, and with it what in front of it stays float.
        """
        formula = projections(model.proto.graph, model.initializers)
        weighted = [x.name for x in model.layers if x.weights and x.name not in formula]
        for glob in self.layers:
            if not any(fnmatchcase(name, glob) for name in weighted):
                raise PolicyError(
                    f"layers: no layer with weights is called {glob!r}{suggest(glob, weighted)}; "
                    "`quantcore layers` shows them"
                )
        return frozenset(n for n in weighted if any(fnmatchcase(n, g) for g in self.layers))


#: Of each key that holds a number: kind, least and most; None is allowed for `crop`.
_LIMITS: dict[str, tuple[type, float, float]] = {
    "momentum": (float, 0.0, 1.0),
    "freeze_after": (float, 0.0, 1.0),
    "steps": (int, 1, 10_000_000),
    "batch": (int, 1, 4096),
    "crop": (int, 8, 8192),
    "zoom": (float, 1.0, 8.0),
    "flip": (float, 0.0, 1.0),
    "rate": (float, 0.0, 1.0),
    "scale_rate": (float, 0.0, 1.0),
    "warmup": (int, 0, 10_000_000),
    "heads": (float, 0.0, 1e9),
    "features": (float, 0.0, 1e9),
    "labels": (float, 0.0, 1e9),
    "every": (int, 1, 10_000),
    "seed": (int, 0, 2**32 - 1),
    "held_out": (float, 0.0, 0.9),
    "neighbours": (int, 0, 100),
}


def _check(name: str, value: Any, kind: type, low: float, high: float) -> None:
    if name == "crop" and value is None:
        return
    number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        hint = "; YAML wants 1.0e-5, not 1e-5" if isinstance(value, str) else ""
        raise PolicyError(f"{name}: must be {what} from {low:g} to {high:g}, not {value!r}{hint}")
