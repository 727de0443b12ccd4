"""Placement profiles: which layers are quantized where no policy rule decides, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from quantcore.errors import PolicyError
from quantcore.ir.model import LAYER_OPS, MATMUL
from quantcore.reading import MOST_YAML, parse_yaml, read_text
from quantcore.showing import one_line, shown

#: What a rule can do with a layer.
ACTIONS: Mapping[str, str] = {
    "quantize": "inputs and weights",
    "float": "nothing",
    "residual": "of an add the inputs that do not come out of the convolution it fuses with",
    "equal_scales": "inputs, with one range for inputs and output, if the output is quantized",
}
POSITIONS = ("first", "last")

_EXPLICIT = "TensorRT documentation, Explicit Quantization"
_PLACEMENT = f"{_EXPLICIT}, Q/DQ Layer-Placement Recommendations"
_QAT_SAMPLE = "NVIDIA yolo_deepstream, yolov7_qat"
_ORT = "ONNX Runtime documentation, Quantize ONNX models"


@dataclass(frozen=True)
class PlacementRule:
    """What happens to some layers, and why.

    Attributes:
        name: Shown where the rule decides.
        action: One of `ACTIONS`.
        ops: Neutral ops that it is about.
        because: The reason, in words.
        source: Where the reason is written down.
        fewer_channels_than: Only layers whose input or output channels, of one group, are fewer.
        position: Only `first` layers (no weighted layer before them) or `last` (none behind); a
            projection (`quantcore.ir.projections`) does not count, nor what only an index leads to.
    """

    name: str
    action: str
    ops: tuple[str, ...]
    because: str
    source: str = ""
    fewer_channels_than: int | None = None
    position: str | None = None

    def __post_init__(self) -> None:
        """Raises PolicyError for an unknown action, op or position."""
        where = f"placement rule {shown(self.name)}"
        if not all(isinstance(t, str) for t in (self.name, self.because, self.source)):
            raise PolicyError(f"{where}: name, because and source must be text")
        if self.action not in ACTIONS:
            known = ", ".join(ACTIONS)
            raise PolicyError(f"{where}: unknown action {shown(self.action)}; know {known}")
        unknown = [op for op in self.ops if op not in LAYER_OPS]
        if unknown or not self.ops:
            known = ", ".join(sorted(LAYER_OPS))
            raise PolicyError(f"{where}: unknown ops {shown(unknown)}; know {known}")
        least = self.fewer_channels_than
        if least is not None and (isinstance(least, bool) or not isinstance(least, int)):
            raise PolicyError(
                f"{where}: fewer_channels_than must be a whole number, not {shown(least)}"
            )
        if self.position is not None and self.position not in POSITIONS:
            raise PolicyError(
                f"{where}: position must be {' or '.join(POSITIONS)}, not {shown(self.position)}"
            )

    def matches(self, op: str, channels: int | None, positions: frozenset[str]) -> bool:
        """Whether the rule is about a layer.

        Args:
            op: Its neutral op.
            channels: The smaller of its input and output channels; None without a weight.
            positions: Of `POSITIONS`, where it stands.
        """
        if op not in self.ops or (self.position is not None and self.position not in positions):
            return False
        if self.fewer_channels_than is None:
            return True
        return channels is not None and channels < self.fewer_channels_than

    def to_dict(self) -> dict[str, Any]:
        """As in YAML, silent keys left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if k == "ops" else v for k, v in values.items() if v not in (None, "")}


@dataclass(frozen=True)
class Profile:
    """Placement rules; the first that matches a layer decides, a layer that none matches is float.

    Attributes:
        name: What `placement:` calls it.
        rules: In order.
        zero_points: Whether its engine takes affine activations; TensorRT does not.
    """

    name: str
    rules: tuple[PlacementRule, ...]
    zero_points: bool = False

    def rule_for(
        self, op: str, channels: int | None, positions: frozenset[str]
    ) -> PlacementRule | None:
        """The rule that decides about a layer."""
        return next((r for r in self.rules if r.matches(op, channels, positions)), None)

    def to_dict(self) -> dict[str, Any]:
        """As in YAML."""
        found: dict[str, Any] = {"name": self.name}
        if self.zero_points:
            found["zero_points"] = True
        return {**found, "rules": [rule.to_dict() for rule in self.rules]}

    @classmethod
    def read(cls, value: Any, folder: Path = Path()) -> Profile:
        """The profile that a policy's `placement:` stands for.

        Args:
            value: Name of a built-in profile, path of a YAML file, or the file's content.
            folder: Where a relative path starts.

        Raises:
            PolicyError: Unknown, unreadable or malformed.
        """
        if isinstance(value, Mapping):
            return _from_dict(value)
        if not isinstance(value, str):
            raise PolicyError(f"placement: must be a name or a file, not {shown(value)}")
        if value in BUILT_IN:
            return BUILT_IN[value]
        path = folder / value
        if not path.suffix:
            raise PolicyError(
                f"placement: unknown profile {shown(value)}; know {', '.join(BUILT_IN)}, or give a "
                "YAML file"
            )
        try:
            data = parse_yaml(read_text(path, MOST_YAML, PolicyError))
        except (ValueError, PolicyError) as error:
            where = "" if isinstance(error, PolicyError) else f"{path}: "
            raise PolicyError(f"placement: cannot read {where}{error}") from None
        try:
            return _from_dict(data)
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from None


def _from_dict(data: Any) -> Profile:
    """A user's profile: its own rules, then those of the profile that it extends."""
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise PolicyError("placement: a profile is a mapping with `name` and `rules`")
    unknown = sorted(map(str, data.keys() - {"name", "rules", "extends", "zero_points"}))
    if unknown:
        raise PolicyError(
            f"placement: unknown keys {one_line(', '.join(unknown), 200)}; know name, rules, "
            "extends, zero_points"
        )
    base = data.get("extends")
    if base is not None and (not isinstance(base, str) or base not in BUILT_IN):
        raise PolicyError(
            f"placement: extends must be one of {', '.join(BUILT_IN)}, not {shown(base)}"
        )
    rules = data.get("rules") or []
    if not isinstance(rules, list | tuple):
        raise PolicyError("placement: rules must be a list")
    own = tuple(_rule(rule, index) for index, rule in enumerate(rules))
    extended = BUILT_IN[base] if base else Profile("none", ())
    zero_points = data.get("zero_points", extended.zero_points)
    if not isinstance(zero_points, bool):
        raise PolicyError(f"placement: zero_points must be true or false, not {shown(zero_points)}")
    return Profile(data["name"], own + extended.rules, zero_points)


def _rule(data: Any, index: int) -> PlacementRule:
    where = f"placement: rules[{index}]"
    if not isinstance(data, Mapping) or not isinstance(data.get("ops"), list | tuple):
        raise PolicyError(f"{where}: a rule is a mapping with name, action, ops and because")
    try:
        return PlacementRule(**{**data, "ops": tuple(data["ops"])})
    except TypeError:
        known = ", ".join(f.name for f in fields(PlacementRule))
        raise PolicyError(f"{where}: needs name, action, ops, because; knows {known}") from None


_CONVOLUTIONS = ("conv2d", "conv_transpose2d")
_WEIGHTED = (*_CONVOLUTIONS, "linear")
_MOVES = ("concat", "max_pool", "resize")

MINIMAL = Profile(
    "minimal",
    (
        PlacementRule(
            "weighted",
            "quantize",
            _WEIGHTED,
            "layers with weights do nearly all of the arithmetic",
            _PLACEMENT,
        ),
    ),
)

TENSORRT = Profile(
    "tensorrt",
    (
        PlacementRule(
            "last",
            "float",
            _WEIGHTED,
            "the last layers write the boxes, which lose most and cost little",
            f"{_QAT_SAMPLE}/scripts/qat.py (--ignore-policy)",
            position="last",
        ),
        PlacementRule(
            "first",
            "quantize",
            ("conv2d",),
            "the convolution on the image has INT8 kernels although it is narrow",
            "NVIDIA Model Optimizer, modelopt/onnx/quantization/graph_utils.py "
            "(find_nodes_from_convs_to_exclude)",
            position="first",
        ),
        PlacementRule(
            "narrow",
            "float",
            _CONVOLUTIONS,
            "with fewer than 16 channels in a group INT8 gains nothing and loses accuracy",
            "NVIDIA Model Optimizer, modelopt/onnx/quantization/graph_utils.py "
            "(find_nodes_from_convs_to_exclude)",
            fewer_channels_than=16,
        ),
        PlacementRule(
            "weighted",
            "quantize",
            _WEIGHTED,
            "all inputs of weighted operations are quantized, their outputs are not",
            _PLACEMENT,
        ),
        PlacementRule(
            "attention",
            "float",
            (MATMUL,),
            "attention is fused into one kernel, whose query, key and value are float",
            "TensorRT documentation, Fused Attention, and operators documentation, Attention (T1)",
        ),
        PlacementRule(
            "residual",
            "residual",
            ("add",),
            "a quantized skip lets the add and its convolution fuse into one INT8 kernel",
            f"{_PLACEMENT} (residual input in skip connections)",
        ),
        PlacementRule(
            "equal-scales",
            "equal_scales",
            _MOVES,
            "equal scales on both sides need no requantization",
            f"{_QAT_SAMPLE}/quantization/rules.py (find_quantizer_pairs)",
        ),
    ),
)

ONNXRUNTIME = Profile(
    "onnxruntime",
    (
        PlacementRule("weighted", "quantize", _WEIGHTED, "quantized by its static quantizer", _ORT),
        PlacementRule(
            "attention",
            "quantize",
            (MATMUL,),
            "both inputs, so that it can become QLinearMatMul",
            _ORT,
        ),
        PlacementRule(
            "add", "quantize", ("add",), "both inputs, so that it can become QLinearAdd", _ORT
        ),
        PlacementRule(
            "equal-scales",
            "equal_scales",
            _MOVES,
            "its integer Concat, MaxPool and Resize pass codes on unchanged",
            _ORT,
        ),
    ),
    zero_points=True,
)

BUILT_IN: Mapping[str, Profile] = {p.name: p for p in (MINIMAL, TENSORRT, ONNXRUNTIME)}
