"""What to calibrate and how: the general policy, per-layer rules, and their YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from quantcore.errors import PolicyError
from quantcore.ir.model import WEIGHTED_OPS, LayerInfo
from quantcore.policy.matcher import LAYERS, OP, Matcher
from quantcore.policy.profiles import BUILT_IN, TENSORRT, Profile
from quantcore.policy.reading import mapping, refuse_unknown, suggest
from quantcore.policy.tensor import GRANULARITIES, OBSERVERS, TensorPolicy, observer_list
from quantcore.reading import MOST_YAML, parse_yaml, read_text
from quantcore.showing import shown

__all__ = ["GRANULARITIES", "OBSERVERS", "CalibrationPolicy", "LayerRule", "TensorPolicy"]

IMPLEMENTATIONS = ("native", "portable")
ARITHMETICS = ("float32", "float64")
PRECISIONS = ("fp16", "fp32")


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
        matcher: `match`, read.
    """

    match: str
    quantize: bool | None = None
    activations: TensorPolicy | None = None
    weights: TensorPolicy | None = None
    precision: str | None = None
    matcher: Matcher = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises PolicyError for an op that there is not."""
        object.__setattr__(self, "matcher", Matcher.parse(self.match))

    def decides(self) -> bool | None:
        """Whether the rule itself has its layers quantized; None where that is left to others."""
        if self.quantize is not None:
            return self.quantize
        # Naming an op and saying how to quantize it can only mean that it should be; a name glob
        # may catch an add or a concat by accident.
        named = self.matcher.names == OP and (self.activations or self.weights) is not None
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
        arithmetic: `float32` or `float64`; None for what the implementation needs.
        images: How many images to calibrate on.
        batch_size: Images per forward pass. On a CPU one is as fast as several, with less memory.
        seed: Chooses which images, where the split has more.
        placement: Which layers are quantized where no rule decides.
        observers: Several policies for layer inputs, for one table each in one pass over the data
            (`each`); `activations` is then the first of them.
        calibrates_in: What the framework computes activations in: the arithmetic that was asked
            for, else float64 for portable observers and float32 for native ones. In float64 sums
            of two frameworks agree to about 1e-14, and so their portable tables to the bit; in
            float32 tables agree as far as two float32 networks do, at down to 0.4 of the cost.
    """

    activations: TensorPolicy = _ACTIVATIONS
    weights: TensorPolicy = _WEIGHTS
    layers: tuple[LayerRule, ...] = field(default=())
    implementation: str = "native"
    arithmetic: str | None = field(default=None, compare=False)
    images: int = 80
    batch_size: int = 1
    seed: int = 0
    placement: Profile = TENSORRT
    observers: tuple[TensorPolicy, ...] = ()
    calibrates_in: str = field(init=False)

    def __post_init__(self) -> None:
        """Raises PolicyError for an unknown word, a count below one or twin observers."""
        choices = {"implementation": IMPLEMENTATIONS, "arithmetic": (*ARITHMETICS, None)}
        for name, words in choices.items():
            if getattr(self, name) not in words:
                known = " or ".join(filter(None, words))
                raise PolicyError(f"{name} must be {known}, not {shown(getattr(self, name))}")
        usual = "float64" if self.implementation == "portable" else "float32"
        object.__setattr__(self, "calibrates_in", self.arithmetic or usual)
        if self.arithmetic == "float64" and self.implementation != "portable":
            raise PolicyError(
                "arithmetic: float64 needs `implementation: portable`; a framework's own "
                "calibrators are made for float32"
            )
        for name, least in (("images", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PolicyError(f"{name} must be a whole number from {least}, not {shown(value)}")
        if self.observers and self.implementation != "portable":
            raise PolicyError(
                "observers: several in one pass need `implementation: portable`; a framework's own "
                "calibrators watch for one at a time"
            )
        twins = [a.label for i, a in enumerate(self.observers) if a in self.observers[:i]]
        if twins:
            raise PolicyError(f"observers: {', '.join(twins)} is there twice")

    def each(self) -> tuple[CalibrationPolicy, ...]:
        """One policy for each of `observers`, in order; this one alone where there are none."""
        if not self.observers:
            return (self,)
        return tuple(replace(self, activations=one, observers=()) for one in self.observers)

    @classmethod
    def load(cls, path: Path) -> CalibrationPolicy:
        """Reads a policy from YAML.

        Raises:
            PolicyError: Naming the file, the key and what it may be.
        """
        text = read_text(path, MOST_YAML, PolicyError)
        try:
            data = parse_yaml(text)
        except ValueError as error:
            raise PolicyError(f"{path}: not YAML: {error}") from None
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
        refuse_unknown(data, {f.name for f in fields(cls) if f.init}, "policy")
        activations, observers = _activations(data)
        weights = _WEIGHTS.override(mapping(data, "weights"), "weights")
        bases = {"activations": activations, "weights": weights}
        rules = data.get("layers") or ()
        if not isinstance(rules, list | tuple):
            raise PolicyError("layers: must be a list of rules")
        plain: dict[str, Any] = {
            key: data[key]
            for key in ("implementation", "arithmetic", "images", "batch_size", "seed")
            if key in data
        }
        if "placement" in data:
            plain["placement"] = Profile.read(data["placement"], folder)
        return cls(
            observers[0] if observers else activations,
            weights,
            tuple(_rule(r, i, bases, bool(observers)) for i, r in enumerate(rules)),
            observers=observers,
            **plain,
        )

    def to_dict(self) -> dict[str, Any]:
        """As in YAML, every key spelled out; `from_dict` reads it back."""
        general: dict[str, Any] = {"activations": self.activations.to_dict()}
        if self.observers:
            general = {"observers": [one.to_dict() for one in self.observers]}
        return {
            "implementation": self.implementation,
            "arithmetic": self.calibrates_in,
            **general,
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
        rules = (rule for rule in self.layers if rule.matcher.matches_layer(layer))
        return next(rules, None)

    def rule_for_tensor(self, tensor: str) -> LayerRule | None:
        """The first `tensor:` rule that matches, or None."""
        rules = (rule for rule in self.layers if rule.matcher.matches_tensor(tensor))
        return next(rules, None)

    def check_rules(self, layers: Iterable[LayerInfo]) -> None:
        """Refuses rules that name no layer of the model.

        An `op:` rule may match nothing, so that one file serves several models.

        Raises:
            PolicyError: Naming the rule and the closest layer names.
        """
        layers = tuple(layers)
        names = [layer.name for layer in layers]
        for rule in self.layers:
            if rule.matcher.names == LAYERS and not any(map(rule.matcher.matches_layer, layers)):
                raise PolicyError(
                    f"layers: rule {shown(rule.match)} matches no layer of this model"
                    f"{suggest(rule.match, names)}; `quantcore export` writes a graph whose node "
                    "names are the layer names"
                )


def _activations(data: Mapping[str, Any]) -> tuple[TensorPolicy, tuple[TensorPolicy, ...]]:
    """The general policy of layer inputs, and those of `observers`, which have it in common."""
    changes = mapping(data, "activations")
    if data.get("observers") is None:
        return _ACTIVATIONS.override(changes, "activations"), ()
    if "observer" in changes:
        raise PolicyError("give `observers` or `activations.observer`, not both")
    common = TensorPolicy().override(changes, "activations")
    return common, observer_list(data["observers"], common)


def _rule(data: Any, index: int, bases: Mapping[str, TensorPolicy], several: bool) -> LayerRule:
    """One entry of `layers`."""
    where = f"layers[{index}]"
    if not isinstance(data, Mapping):
        raise PolicyError(f"{where}: a rule is a mapping such as {{match: 'model.24.*', ...}}")
    refuse_unknown(data, {f.name for f in fields(LayerRule) if f.init}, where)
    match = data.get("match")
    if not isinstance(match, str) or not match:
        raise PolicyError(f"{where}: needs `match`, a glob on layer names, op:NAME or tensor:GLOB")
    quantize = data.get("quantize")
    if quantize is not None and not isinstance(quantize, bool):
        raise PolicyError(f"{where}: quantize must be true or false, not {shown(quantize)}")
    precision = data.get("precision")
    if precision is not None and precision not in PRECISIONS:
        raise PolicyError(
            f"{where}: precision must be {' or '.join(PRECISIONS)}, not {shown(precision)}"
        )
    if several and "activations" in data and "observer" not in mapping(data, "activations"):
        raise PolicyError(
            f"{where}.activations: name its observer; beside `observers` there is no general one"
        )
    changed = {
        key: base.override(mapping(data, key), f"{where}.{key}")
        for key, base in bases.items()
        if key in data
    }
    try:
        return LayerRule(match, quantize, precision=precision, **changed)
    except PolicyError as error:
        raise PolicyError(f"{where}: {error}") from None


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
