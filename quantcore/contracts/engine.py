"""The engine contract: a plugin builds an ONNX graph into something that runs."""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import onnx
from msgspec import Meta

from quantcore.contracts.options import as_given, filled, option
from quantcore.contracts.plans import BuildReport, Built, manifest_of
from quantcore.errors import EngineError
from quantcore.ir.model import Array
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.progress import Progress, Silent

API_VERSION = 2

Options = TypeVar("Options", bound="EngineOptions")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built; what an engine has beyond that, it adds in a class derived from this.

    Attributes:
        threads: CPU threads; None leaves it to the engine.
        max_batch: Largest batch that an engine with fixed shapes is built for.
        exact: Run every node as the graph says, without fusions that change the arithmetic.
        shared_memory: Let many engines, few running at a time, share memory where they can.
        counters: Measure what each layer takes, where the engine can; it is slower by that.
    """

    threads: Annotated[int, Meta(ge=1)] | None = option(
        None, "CPU threads; the engine's own choice by default."
    )
    max_batch: Annotated[int, Meta(ge=1)] = option(
        1, "Largest batch, for engines with fixed shapes."
    )
    exact: bool = False
    shared_memory: bool = False
    counters: bool = False

    @classmethod
    def of(cls: type[Options], options: EngineOptions) -> Options:
        """Options as an engine's own: what was set for any engine, and defaults for the rest."""
        if isinstance(options, cls):
            return options
        return cls(**{f.name: getattr(options, f.name) for f in fields(EngineOptions)})

    def to_dict(self) -> dict[str, Any]:
        """JSON form; a file by its name alone, for the folder is of one machine."""
        return {k: v.name if isinstance(v, Path) else v for k, v in asdict(self).items()}


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

    def layer_seconds(self, batch: Array) -> dict[str, float] | None:
        """Runs one batch for the times of its layers; the engine is built with `counters`.

        Args:
            batch: B x 3 x H x W, float32.

        Returns:
            Seconds by ONNX node with weights: its own, and those of what follows it up to the next
            such nodes (activation, quantization, a new layout in memory); what stands before the
            first ones is theirs, too. None where the engine does not tell.

        Raises:
            EngineError: The batch does not fit the graph, or the engine failed.
        """
        self._check(batch)
        return self._layer_seconds(batch)

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

    def _layer_seconds(self, batch: Array) -> dict[str, float] | None:
        """Times the layers on a batch that fits, where the engine has counters."""
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
        options: What it can be told, with a help line for each that is for people.
    """

    api_version: ClassVar[int] = API_VERSION
    builds_ahead: ClassVar[bool] = False
    options: ClassVar[type[EngineOptions]] = EngineOptions

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Version of the engine's library, by library name."""

    def make_options(self, given: Iterable[tuple[str, str]], **own: Any) -> EngineOptions:
        """The engine's options from what a person wrote.

        Args:
            given: Names and values.
            own: What quantcore itself sets.

        Raises:
            UsageError: A name that the engine does not know, or a value that does not fit.
        """
        return filled(self.options, given, f"engine {self.name!r}", **own)

    def build(self, proto: onnx.ModelProto, options: EngineOptions) -> Engine:
        """Builds a graph.

        Args:
            proto: The graph.
            options: The engine's own, or `EngineOptions` that any engine takes.

        Raises:
            EngineError: The engine refuses the graph or the options; names the node where it
                tells.
        """
        self.check(options)
        return self._build(proto, options)

    @abstractmethod
    def _build(self, proto: onnx.ModelProto, options: EngineOptions) -> Engine:
        """Builds a graph; `of` makes the checked options the engine's own."""

    def check(self, options: EngineOptions) -> None:
        """Refuses options before any work is done with them.

        Raises:
            EngineError: They are another engine's, or ask for what is not installed here.
        """
        known = {entry.name for entry in fields(self.options)}
        for name, value in as_given(options).items():
            if name not in known:
                shown = ", ".join(value) if isinstance(value, tuple) else value
                raise EngineError(
                    f"engine {self.name!r} takes no {name.replace('_', ' ')}: {shown}"
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
        built = manifest_of(path)
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

    def cannot_run(self) -> str | None:
        """Why this machine cannot run what the engine builds; None where it can."""
        return None

    def float_options(self, options: EngineOptions) -> Mapping[str, EngineOptions]:
        """The precisions that a float graph can be deployed in here, and how it is built for each.

        Args:
            options: As a person set them; those of the first entry, which is `FP32`.
        """
        return {"FP32": options}

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
            self.options.of(options),
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
