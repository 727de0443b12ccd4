"""What to calibrate and how: tensor policies, per-layer rules, and the YAML they are read from."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from quantcore.errors import PolicyError
from quantcore.ir import NEUTRAL_OPS, WEIGHTED_OPS, LayerInfo
from quantcore.qdq.profiles import BUILT_IN, MINIMAL, Profile

#: Every observer the policy language knows, with its parameters and their units. What an observer
#: means in a framework is the backend's business; which ones it has is in its capabilities.
OBSERVERS: Mapping[str, frozenset[str]] = {
    "max": frozenset(),
    "percentile": frozenset({"percentile", "bins"}),  # percentile: 0..100
    "entropy": frozenset({"bins", "start_bin", "stride"}),
    "mse": frozenset({"bins", "start_bin", "stride"}),
    "moving_average": frozenset({"momentum"}),  # momentum: weight of the past, 0..1
}
GRANULARITIES = ("per_tensor", "per_channel")
IMPLEMENTATIONS = ("native", "portable")
PRECISIONS = ("fp16", "fp32")


def _check_parameter(name: str, value: float) -> None:
    """Refuses a parameter that is not a number or lies outside its unit."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PolicyError(f"{name} must be a number, not {value!r}")
    if name == "percentile" and not 0 < value <= 100:
        raise PolicyError(f"percentile must lie in (0, 100], not {value!r}")
    if name == "momentum" and not 0 <= value < 1:
        raise PolicyError(f"momentum must lie in [0, 1), not {value!r}")
    if name in ("bins", "start_bin", "stride") and (value < 1 or value != int(value)):
        raise PolicyError(f"{name} must be a whole number from 1, not {value!r}")


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise PolicyError(f"{key}: must be a mapping such as {{observer: max}}, not {value!r}")
    return value


def _refuse_unknown(data: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = sorted(known)
    for key in data:
        if key not in known:
            hint = _suggest(str(key), known)
            raise PolicyError(f"{where}: unknown key {key!r}{hint}; know {', '.join(known)}")


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@dataclass(frozen=True)
class TensorPolicy:
    """How the range of one tensor is found and coded.

    Attributes:
        observer: One of `OBSERVERS`.
        parameters: The observer's parameters that were set, sorted by name.
        bits: Width of the integer code, 2..8.
        symmetric: Zero point 0 (True), or an affine code.
        granularity: `per_tensor` or `per_channel`.
    """

    observer: str = "max"
    parameters: tuple[tuple[str, float], ...] = ()
    bits: int = 8
    symmetric: bool = True
    granularity: str = "per_tensor"

    def __post_init__(self) -> None:
        """Raises PolicyError for an unknown observer or parameter, or one out of its unit."""
        if not isinstance(self.observer, str) or self.observer not in OBSERVERS:
            raise PolicyError(
                f"unknown observer {self.observer!r}{_suggest(str(self.observer), OBSERVERS)}; "
                f"know {', '.join(OBSERVERS)}"
            )
        for name, value in self.parameters:
            if name not in OBSERVERS[self.observer]:
                allowed = ", ".join(sorted(OBSERVERS[self.observer])) or "none"
                raise PolicyError(
                    f"observer {self.observer!r} has no parameter {name!r}; it takes: {allowed}"
                )
            _check_parameter(name, value)
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise PolicyError(f"bits must be a whole number from 2 to 8, not {self.bits!r}")
        if not isinstance(self.symmetric, bool):
            raise PolicyError(f"symmetric must be true or false, not {self.symmetric!r}")
        if self.granularity not in GRANULARITIES:
            raise PolicyError(
                f"granularity must be {' or '.join(GRANULARITIES)}, not {self.granularity!r}"
            )

    def parameter(self, name: str, default: float) -> float:
        """The value of an observer parameter, or the default where the policy is silent."""
        return dict(self.parameters).get(name, default)

    def override(self, changes: Mapping[str, Any], where: str) -> TensorPolicy:
        """This policy with the keys of a YAML mapping laid over it.

        Args:
            changes: Keys of a TensorPolicy and, flat beside them, of its observer's parameters.
            where: Path of the mapping in the policy, for messages.

        Raises:
            PolicyError: An unknown key, or a value that the policy cannot hold.
        """
        own = {f.name for f in fields(self)} - {"parameters"}
        parameters = frozenset().union(*OBSERVERS.values())
        _refuse_unknown(changes, own | parameters, where)
        values = {k: v for k, v in changes.items() if k in own}
        # Parameters belong to their observer: another observer starts without them.
        keep = values.get("observer", self.observer) == self.observer
        given = dict(self.parameters) if keep else {}
        given.update({k: v for k, v in changes.items() if k in parameters})
        try:
            return replace(self, **values, parameters=tuple(sorted(given.items())))
        except (PolicyError, TypeError) as error:
            raise PolicyError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """As in YAML: parameters flat beside the other keys."""
        return {
            "observer": self.observer,
            **dict(self.parameters),
            "bits": self.bits,
            "symmetric": self.symmetric,
            "granularity": self.granularity,
        }


@dataclass(frozen=True)
class LayerRule:
    """An exception for some layers, or for some tensors.

    Attributes:
        match: Glob on layer names, `op:NAME`, or `tensor:GLOB` on names of tensors.
        quantize: False keeps the layers in float, True quantizes ops that are float by default
            (add, concat, pooling, ...), None leaves that to the op.
        activations: Policy for the layers' inputs, or None for the general one.
        weights: Policy for the layers' weights, or None for the general one.
        precision: `fp16` or `fp32` for what stays unquantized in the layers, or None for the
            run's.
    """

    match: str
    quantize: bool | None = None
    activations: TensorPolicy | None = None
    weights: TensorPolicy | None = None
    precision: str | None = None

    def matches(self, layer: LayerInfo) -> bool:
        """Whether the rule is about this layer."""
        if self.match.startswith("tensor:"):
            return False
        if self.match.startswith("op:"):
            return layer.op == self.match[3:]
        return fnmatchcase(layer.name, self.match)

    def matches_tensor(self, tensor: str) -> bool:
        """Whether the rule is about this tensor."""
        return self.match.startswith("tensor:") and fnmatchcase(tensor, self.match[7:])

    def decides(self) -> bool | None:
        """Whether the rule itself has its layers quantized; None where that is left to others."""
        if self.quantize is not None:
            return self.quantize
        # Naming an op and saying how to quantize it can only mean that it should be; a name glob
        # may catch an add or a concat by accident.
        named = self.match.startswith("op:") and (self.activations or self.weights) is not None
        return True if named else None

    def quantizes(self, layer: LayerInfo) -> bool:
        """Whether a layer that the rule matches is quantized, where no profile says otherwise."""
        decided = self.decides()
        return layer.op in WEIGHTED_OPS if decided is None else decided


_ACTIVATIONS = TensorPolicy("percentile", (("percentile", 99.99),))
_WEIGHTS = TensorPolicy("max", granularity="per_channel")


@dataclass(frozen=True)
class CalibrationPolicy:
    """Everything a person decides about a calibration; the same file drives every backend.

    Attributes:
        activations: For layer inputs.
        weights: For constant weights.
        layers: Exceptions; the first rule that matches a layer wins.
        implementation: `native` (the framework's own calibrators) or `portable` (quantcore's).
        images: How many images to calibrate on.
        batch_size: Images per forward pass.
        seed: Chooses which images, where the split has more.
        placement: Which layers are quantized where no rule decides.
    """

    activations: TensorPolicy = _ACTIVATIONS
    weights: TensorPolicy = _WEIGHTS
    layers: tuple[LayerRule, ...] = field(default=())
    implementation: str = "native"
    images: int = 80
    batch_size: int = 4
    seed: int = 0
    placement: Profile = MINIMAL

    def __post_init__(self) -> None:
        """Raises PolicyError for an unknown implementation or a count below one."""
        if self.implementation not in IMPLEMENTATIONS:
            raise PolicyError(
                f"implementation must be {' or '.join(IMPLEMENTATIONS)}, "
                f"not {self.implementation!r}"
            )
        for name, least in (("images", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PolicyError(f"{name} must be a whole number from {least}, not {value!r}")

    @classmethod
    def load(cls, path: Path) -> CalibrationPolicy:
        """Reads a policy from YAML.

        Raises:
            PolicyError: Naming the file, the key and what it may be.
        """
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError(f"{path}: cannot read the policy: {error}") from None
        except (yaml.YAMLError, ValueError) as error:
            raise PolicyError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        try:
            return cls.from_dict(data if data is not None else {}, path.parent)
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, data: Any, folder: Path = Path()) -> CalibrationPolicy:
        """The policy that a mapping (of YAML or of a table's provenance) describes.

        Args:
            data: The mapping.
            folder: Where a relative path of a placement profile starts.
        """
        if not isinstance(data, Mapping):
            raise PolicyError("a policy is a mapping of keys to values")
        _refuse_unknown(data, {f.name for f in fields(cls)}, "policy")
        activations = _ACTIVATIONS.override(_mapping(data, "activations"), "activations")
        weights = _WEIGHTS.override(_mapping(data, "weights"), "weights")
        rules = data.get("layers") or ()
        if not isinstance(rules, list | tuple):
            raise PolicyError("layers: must be a list of rules")
        plain: dict[str, Any] = {
            k: data[k] for k in ("implementation", "images", "batch_size", "seed") if k in data
        }
        if "placement" in data:
            plain["placement"] = Profile.read(data["placement"], folder)
        return cls(
            activations,
            weights,
            tuple(_rule(r, i, activations, weights) for i, r in enumerate(rules)),
            **plain,
        )

    def to_dict(self) -> dict[str, Any]:
        """As in YAML, every key spelled out; `from_dict` reads it back."""
        return {
            "implementation": self.implementation,
            "activations": self.activations.to_dict(),
            "weights": self.weights.to_dict(),
            "images": self.images,
            "batch_size": self.batch_size,
            "seed": self.seed,
            # A built-in profile by name, a user's in full: a table must not need the file.
            "placement": self.placement.name
            if self.placement == BUILT_IN.get(self.placement.name)
            else self.placement.to_dict(),
            "layers": [_rule_dict(rule) for rule in self.layers],
        }

    def rule_for(self, layer: LayerInfo) -> LayerRule | None:
        """The first rule that matches, or None."""
        return next((rule for rule in self.layers if rule.matches(layer)), None)

    def rule_for_tensor(self, tensor: str) -> LayerRule | None:
        """The first `tensor:` rule that matches, or None."""
        return next((rule for rule in self.layers if rule.matches_tensor(tensor)), None)

    def check_rules(self, layers: Iterable[LayerInfo]) -> None:
        """Refuses rules that name no layer of the model.

        An `op:` rule may match nothing, so that one file serves several models.

        Raises:
            PolicyError: Naming the rule and the closest layer names.
        """
        layers = tuple(layers)
        names = [layer.name for layer in layers]
        for rule in self.layers:
            if not rule.match.startswith(("op:", "tensor:")) and not any(map(rule.matches, layers)):
                raise PolicyError(
                    f"layers: rule {rule.match!r} matches no layer of this model"
                    f"{_suggest(rule.match, names)}; `quantcore export` writes a graph whose node "
                    "names are the layer names"
                )


def _rule(data: Any, index: int, activations: TensorPolicy, weights: TensorPolicy) -> LayerRule:
    """One entry of `layers`."""
    where = f"layers[{index}]"
    if not isinstance(data, Mapping):
        raise PolicyError(f"{where}: a rule is a mapping such as {{match: 'model.24.*', ...}}")
    _refuse_unknown(data, {f.name for f in fields(LayerRule)}, where)
    match = data.get("match")
    if not isinstance(match, str) or not match:
        raise PolicyError(f"{where}: needs `match`, a glob on layer names, op:NAME or tensor:GLOB")
    if match.startswith("op:") and match[3:] not in NEUTRAL_OPS.values():
        ops = sorted(set(NEUTRAL_OPS.values()))
        raise PolicyError(f"{where}: unknown op in {match!r}; know {', '.join(ops)}")
    quantize = data.get("quantize")
    if quantize is not None and not isinstance(quantize, bool):
        raise PolicyError(f"{where}: quantize must be true or false, not {quantize!r}")
    precision = data.get("precision")
    if precision is not None and precision not in PRECISIONS:
        raise PolicyError(
            f"{where}: precision must be {' or '.join(PRECISIONS)}, not {precision!r}"
        )
    bases = {"activations": activations, "weights": weights}
    changed = {
        key: base.override(_mapping(data, key), f"{where}.{key}")
        for key, base in bases.items()
        if key in data
    }
    return LayerRule(match, quantize, precision=precision, **changed)


def _rule_dict(rule: LayerRule) -> dict[str, Any]:
    """A rule as in YAML, silent keys left out."""
    data: dict[str, Any] = {"match": rule.match}
    if rule.quantize is not None:
        data["quantize"] = rule.quantize
    for key in ("activations", "weights"):
        policy: TensorPolicy | None = getattr(rule, key)
        if policy is not None:
            data[key] = policy.to_dict()
    if rule.precision is not None:
        data["precision"] = rule.precision
    return data
