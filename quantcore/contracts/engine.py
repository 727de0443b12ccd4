"""The engine contract: a plugin builds an ONNX graph into something that runs."""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import onnx

from quantcore.errors import EngineError
from quantcore.ir.model import Array
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.progress import Progress, Silent

API_VERSION = 2


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    Attributes:
        threads: CPU threads; None leaves it to the engine.
        exact: Run every node as the graph says, without fusions that change the arithmetic.
        providers: Execution providers, most wanted first; none leaves the choice to the engine.
        max_batch: Largest batch that an engine with fixed shapes is built for.
        target: Hardware to build for by the engine's own name (`SM86`); None for this machine's.
        timing_cache: File in which an engine that times kernels keeps what it learnt.
        shared_memory: Let many engines, few running at a time, share memory where they can.
    """

    threads: int | None = None
    exact: bool = False
    providers: tuple[str, ...] = ()
    max_batch: int = 1
    target: str | None = None
    timing_cache: Path | None = None
    shared_memory: bool = False


@dataclass(frozen=True)
class EngineLayer:
    """One layer as the engine runs it.

    Attributes:
        name: The engine's name for it, the node name where it kept that.
        op: The engine's name of the operation.
        precision: `int8`, `fp16`, `fp32`, ... as really run; None where it cannot be verified.
        nodes: The ONNX nodes whose work it does, where the engine tells.
    """

    name: str
    op: str
    precision: str | None
    nodes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "nodes": list(self.nodes)}


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
        return _manifest_beside(self.path)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        options = asdict(self.options)
        cache = self.options.timing_cache
        return {
            "plan": self.path.name,
            "engine": self.engine,
            "versions": dict(self.versions),
            "hardware": self.hardware,
            "seconds": round(self.seconds, 3),
            "plan_bytes": self.plan_bytes,
            "onnx_sha256": self.onnx_sha256,
            "options": {**options, "timing_cache": cache.name if cache else None},
            "precision_verified": self.verified,
            "layers": [layer.to_dict() for layer in self.layers],
        }


def _manifest_beside(plan: Path) -> Path:
    return plan.with_name(plan.name + ".manifest.json")


def _manifest_of(plan: Path) -> dict[str, Any]:
    """What is written beside a plan; empty where nothing is.

    Raises:
        EngineError: It is no manifest.
    """
    path = _manifest_beside(plan)
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: not a readable manifest: {error}") from None
    if not isinstance(found, dict) or not {"engine", "versions", "hardware"} <= found.keys():
        raise EngineError(f"{path}: not the manifest of a plan; build the graph again")
    return found


class Engine(ABC):
    """A built graph; a context manager.

    Attributes:
        input_name: The image tensor.
        input_shape: Its dimensions, None where dynamic.
        output_names: In graph order.
    """

    input_name: str
    input_shape: tuple[int | None, ...]
    output_names: tuple[str, ...]

    def infer(self, batch: Array) -> dict[str, Array]:
        """Runs one batch.

        Args:
            batch: B x 3 x H x W, float32.

        Returns:
            Every output of the graph by name.

        Raises:
            EngineError: The batch does not fit the graph, or the engine failed.
        """
        self._check(batch)
        return dict(zip(self.output_names, self._infer(batch), strict=True))

    def device_seconds(self, batch: Array) -> float | None:
        """Runs one batch for its time alone.

        Args:
            batch: B x 3 x H x W, float32.

        Returns:
            Seconds of the network by the clock of the device that it runs on, without the copies
            to and from it; None where the engine has no such clock.

        Raises:
            EngineError: The batch does not fit the graph, or the engine failed.
        """
        self._check(batch)
        return self._device_seconds(batch)

    def _check(self, batch: Array) -> None:
        """Raises EngineError for a batch that does not fit the graph."""
        if batch.dtype != np.float32:
            raise EngineError(f"input {self.input_name!r}: needs float32, got {batch.dtype}")
        fits = len(batch.shape) == len(self.input_shape) and all(
            want is None or want == have
            for want, have in zip(self.input_shape, batch.shape, strict=True)
        )
        if not fits:
            want = " x ".join("any" if d is None else str(d) for d in self.input_shape)
            have = " x ".join(map(str, batch.shape))
            raise EngineError(f"input {self.input_name!r}: the graph takes {want}, got {have}")

    @abstractmethod
    def _infer(self, batch: Array) -> list[Array]:
        """Runs a batch that fits; outputs in the order of `output_names`."""

    def _device_seconds(self, batch: Array) -> float | None:
        """Times a batch that fits, where the device has a clock."""
        return None

    def runs_on(self) -> str:
        """Where the graph really runs, by the engine's own names; empty where it does not tell."""
        return ""

    @abstractmethod
    def layers(self) -> list[EngineLayer]:
        """What really runs, in the order it runs."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; safe to call twice."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Surroundings:
    """A node whose data and weight come from DequantizeLinear, with its neighbours.

    Attributes:
        node: Name.
        op: ONNX operator.
        bias: `float`, `integer` (through a DequantizeLinear), or None without one.
        followers: Operators that read its output.
        quantized_output: Whether its output goes into QuantizeLinear and nowhere else.
        behind: Operator that made the data right before, where no QuantizeLinear did.
        channels_in: Channels of the data that one weight reads, times the groups.
        channels_out: Channels that it makes.
        groups: Of a convolution.
    """

    node: str
    op: str
    bias: str | None
    followers: tuple[str, ...]
    quantized_output: bool
    behind: str | None
    channels_in: int
    channels_out: int
    groups: int


class EnginePlugin(ABC):
    """One entry point of group `quantcore.engines`; made with the entry point's name.

    Attributes:
        builds_ahead: Whether graphs can be built into a file, on a machine that may lack the
            hardware to run it.
        takes: Which of the options `providers`, `target` and `timing_cache` mean something to it.
    """

    api_version: ClassVar[int] = API_VERSION
    builds_ahead: ClassVar[bool] = False
    takes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Version of the engine's library, by library name."""

    @abstractmethod
    def build(self, proto: onnx.ModelProto, options: EngineOptions) -> Engine:
        """Builds a graph.

        Raises:
            EngineError: The engine refuses the graph; names the node where it tells.
        """

    def check(self, options: EngineOptions) -> None:
        """Refuses options before any work is done with them.

        Raises:
            EngineError: One means nothing to this engine, or asks for what is not installed here.
        """
        for what in ("providers", "target", "timing_cache"):
            given = getattr(options, what)
            if given and what not in self.takes:
                shown = ", ".join(given) if isinstance(given, tuple) else given
                raise EngineError(
                    f"engine {self.name!r} takes no {what.replace('_', ' ')}: {shown}"
                )

    def load(self, path: Path, options: EngineOptions) -> Engine:
        """Opens a file that `build_ahead` wrote.

        Args:
            path: The plan file; the manifest beside it tells which engine built it with what.
            options: How it is run; what was settled when it was built is left as it is.

        Raises:
            EngineError: The engine keeps no built files, or this is none of its own, or none for
                this library or hardware.
        """
        self._check_builds()
        self.check(options)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EngineError(f"{path}: cannot read the plan: {error.strerror or error}") from None
        built = _manifest_of(path)
        if built.get("engine", self.name) != self.name:
            raise EngineError(
                f"{path}: was built by engine {built['engine']!r}; use --engine {built['engine']}"
            )
        try:
            return self._load(content, options)
        except EngineError as error:
            libraries = built.get("versions", {}).items()
            made = " ".join(f"{name} {version}" for name, version in libraries)
            made = f" (it was built with {made} for {built['hardware']})" if made else ""
            raise EngineError(f"{path}: {error}{made}") from None

    def _load(self, content: bytes, options: EngineOptions) -> Engine:
        """Opens a plan; called where `builds_ahead` is set."""
        raise EngineError(f"engine {self.name!r} cannot open what it built; evaluate the graph")

    def _check_builds(self) -> None:
        if not self.builds_ahead:
            raise EngineError(
                f"engine {self.name!r} keeps no built file: it builds from ONNX whenever it runs"
            )

    def inspect(self, proto: onnx.ModelProto, options: EngineOptions) -> list[EngineLayer]:
        """What would really run; empty where this machine cannot tell.

        Raises:
            EngineError: The engine refuses the graph.
        """
        with self.build(proto, options) as engine:
            return engine.layers()

    def caveat(self) -> str | None:
        """What to know on this machine before trusting INT8 numbers; None where nothing."""
        return None

    def explain(self, where: Surroundings) -> str:
        """Why a layer that is meant to run in INT8 does not: the engine's nearest rule."""
        return "the engine does not tell"

    def build_ahead(
        self,
        proto: onnx.ModelProto,
        options: EngineOptions,
        out: Path,
        progress: Progress | None = None,
    ) -> BuildReport:
        """Builds a graph into a file, with a manifest beside it; both whole or not at all.

        Args:
            proto: The graph.
            options: How it is built.
            out: The plan file.
            progress: Where to report.

        Raises:
            EngineError: The engine has no such file, or refuses the graph or the options.
            OutputError: The files cannot be written.
        """
        self._check_builds()
        self.check(options)
        ensure_folder(out.parent)
        began = time.perf_counter()
        built = self._build_ahead(proto, options, progress or Silent())
        report = BuildReport(
            out,
            self.name,
            self.versions(),
            built.hardware,
            time.perf_counter() - began,
            len(built.content),
            hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest(),
            options,
            built.layers,
        )
        write_whole(out, built.content)
        write_whole(report.manifest, json.dumps(report.to_dict(), indent=1) + "\n")
        return report

    def _build_ahead(
        self, proto: onnx.ModelProto, options: EngineOptions, progress: Progress
    ) -> Built:
        """Builds a graph; called where `builds_ahead` is set."""
        raise EngineError(f"engine {self.name!r} declares builds_ahead without a _build_ahead")
