"""The engine contract: a plugin builds an ONNX graph into something that runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar

import numpy as np
import onnx

from quantcore.errors import EngineError
from quantcore.ir import Array

API_VERSION = 1


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    Attributes:
        threads: CPU threads; None leaves it to the engine.
        exact: Run every node as the graph says, without fusions that change the arithmetic.
    """

    threads: int | None = None
    exact: bool = False


@dataclass(frozen=True)
class EngineLayer:
    """One layer as the engine runs it.

    Attributes:
        name: The engine's name for it, the node name where it kept that.
        op: The engine's name of the operation.
        precision: `int8`, `fp16`, `fp32`, ... as really run; None where it cannot be verified.
    """

    name: str
    op: str
    precision: str | None


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
        return dict(zip(self.output_names, self._infer(batch), strict=True))

    @abstractmethod
    def _infer(self, batch: Array) -> list[Array]:
        """Runs a batch that fits; outputs in the order of `output_names`."""

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


class EnginePlugin(ABC):
    """One entry point of group `quantcore.engines`; made with the entry point's name."""

    api_version: ClassVar[int] = API_VERSION

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
