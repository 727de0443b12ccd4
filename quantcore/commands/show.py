"""One Q/DQ graph as a page that can be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer

from quantcore import pipeline
from quantcore.analysis.contents import contents, differences
from quantcore.commands.options import Size, read_size
from quantcore.errors import UsageError
from quantcore.ir.model import Array
from quantcore.qdq.verify import load
from quantcore.report import terminal
from quantcore.report.pages.graph import page
from quantcore.runtime.files import write_whole

#: Pixels of a side where a graph takes any size.
_SIDE = 640


def show(
    qdq: Annotated[Path, typer.Argument(help="Q/DQ ONNX file, of any tool.")],
    against: Annotated[
        Path | None, typer.Option(help="The float graph that it was made from: shows errors.")
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--input", help="Network input (.npy, B x C x H x W) for the errors; noise by default."
        ),
    ] = None,
    size: Size = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write; beside the graph by default.")
    ] = None,
) -> None:
    """Show the layers of a Q/DQ graph as a page: precision, scales, ranges, errors."""
    graph = load(qdq)
    errors: dict[str, float | None] = {}
    measured_on = "on the given input" if batch else "on noise; --input takes a real input"
    if against is not None:
        images = _read(batch) if batch else _noise(graph, read_size(size))
        errors = differences(graph, pipeline.load_onnx(against), images)
    layers = contents(graph, errors)
    target = out or qdq.with_suffix(".html")
    found = page(qdq.name, layers, against.name if against else None, measured_on)
    write_whole(target, found.html())
    for line in found.verdict:
        terminal.say(line)
    terminal.say(f"{target}: written")


def _read(path: Path) -> Array:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: not an array that NumPy saved (.npy): {error}") from None
    if not isinstance(found, np.ndarray) or found.ndim != 4:
        raise UsageError(f"{path}: a network input is one array of B x C x H x W")
    return np.ascontiguousarray(found, np.float32)


def _noise(graph: onnx.ModelProto, size: int | tuple[int, int] | None) -> Array:
    """Uniform in 0..1, of the shape that the graph takes."""
    height, width = (size, size) if isinstance(size, int) else size or (_SIDE, _SIDE)
    inputs = {entry.name for entry in graph.graph.initializer}
    images = next(entry for entry in graph.graph.input if entry.name not in inputs)
    dims = [d.dim_value for d in images.type.tensor_type.shape.dim]
    if len(dims) != 4:
        raise UsageError(f"input {images.name!r} is no image: give one with --input")
    wanted = (1, 3, height, width)
    shape = [dim or other for dim, other in zip(dims, wanted, strict=True)]
    return np.random.default_rng(0).random(shape, np.float32)
