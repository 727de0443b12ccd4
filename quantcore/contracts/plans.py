"""Plans: graphs that an engine built into a file, and the manifest beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantcore.errors import EngineError
from quantcore.reading import parse_json, read_text

if TYPE_CHECKING:
    from quantcore.contracts.engine import EngineLayer, EngineOptions

#: Bytes of a manifest; that of YOLOv7 takes 30 kB.
_MOST_BYTES = 1 << 25


@dataclass(frozen=True)
class Built:
    """A graph built ahead of time, as an engine hands it over.

    Attributes:
        content: The plan file.
        hardware: What it runs on.
        layers: What it runs, as far as the engine tells without running it.
    """

    content: bytes
    hardware: str
    layers: tuple[EngineLayer, ...] = ()


@dataclass(frozen=True)
class BuildReport:
    """A plan on disk; its JSON form lies beside it.

    Attributes:
        path: The plan file.
        engine: Engine name.
        versions: Of its library.
        hardware: What the plan runs on.
        seconds: Wall time of the build.
        plan_bytes: Its size.
        onnx_sha256: Of the graph that it was built from.
        options: It was built with.
        layers: What it runs; empty where the engine cannot tell here.
    """

    path: Path
    engine: str
    versions: Mapping[str, str]
    hardware: str
    seconds: float
    plan_bytes: int
    onnx_sha256: str
    options: EngineOptions
    layers: tuple[EngineLayer, ...]

    @property
    def verified(self) -> bool:
        """Whether the engine told of every layer in which precision it runs.

        A build that succeeds proves nothing about that.
        """
        return bool(self.layers) and all(layer.precision for layer in self.layers)

    @property
    def manifest(self) -> Path:
        """The JSON file beside the plan."""
        return manifest_beside(self.path)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "plan": self.path.name,
            "engine": self.engine,
            "versions": dict(self.versions),
            "hardware": self.hardware,
            "seconds": round(self.seconds, 3),
            "plan_bytes": self.plan_bytes,
            "onnx_sha256": self.onnx_sha256,
            "options": self.options.to_dict(),
            "precision_verified": self.verified,
            "layers": [layer.to_dict() for layer in self.layers],
        }


def manifest_beside(plan: Path) -> Path:
    """Where the manifest of a plan lies."""
    return plan.with_name(plan.name + ".manifest.json")


def manifest_of(plan: Path) -> dict[str, Any]:
    """What is written beside a plan; empty where nothing is.

    Raises:
        EngineError: It is no manifest.
    """
    path = manifest_beside(plan)
    if not path.exists():
        return {}
    try:
        found: Any = parse_json(read_text(path, _MOST_BYTES, EngineError))
    except ValueError as error:
        raise EngineError(f"{path}: not a readable manifest: {error}") from None
    known = isinstance(found, dict) and {"engine", "versions", "hardware"} <= found.keys()
    if not known or not isinstance(found["engine"], str) or not isinstance(found["versions"], dict):
        raise EngineError(f"{path}: not the manifest of a plan; build the graph again")
    return dict(found)
