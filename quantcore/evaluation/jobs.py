"""What a graph or a simulation finds, image by image, and its latency: as jobs.

What is found on an image depends on the graph and the image alone, so each is a piece of its own:
an evaluation that was interrupted goes on, and studies share what they have found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

import quantcore
from quantcore.contracts import registry
from quantcore.contracts.engine import Engine, EngineLayer, EngineOptions
from quantcore.data.dataset import ImageFile
from quantcore.evaluation.evaluator import Clocks, detect
from quantcore.evaluation.latency import LatencyTest, measure
from quantcore.ir.decoding import LIMITS, Limits
from quantcore.ir.model import Array, FloatModel
from quantcore.results.latency import LatencyResult
from quantcore.runtime.jobs import Job, Piece, Runtime
from quantcore.runtime.keys import content_key, file_digest, file_digests, graph_digest
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.worker import peak_rss_mb

#: Of what a kept piece means; a change of it makes all that is on disk obsolete.
REVISION = 2


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found on one image.

    Attributes:
        prediction: See `Predictions.by_image`.
        preprocess_s: Seconds that reading and resizing took.
        inference_s: Seconds in the engine, an equal share of its batch's.
        postprocess_s: Seconds of decoding, likewise.
    """

    prediction: Array
    preprocess_s: float
    inference_s: float
    postprocess_s: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How a graph runs on an engine.

    Attributes:
        latency: Of the engine alone, at batch 1; None where it was not measured.
        layers: What the engine really runs.
        runs_on: Where, as the engine tells.
        peak_rss_mb: Of the process, evaluation included where it took place there.
    """

    latency: LatencyResult | None
    layers: tuple[EngineLayer, ...]
    runs_on: str
    peak_rss_mb: float


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a graph is run.

    Attributes:
        engine: Engine name.
        options: How it is built.
        batch_size: Images per inference.
        limits: Which boxes count as detections.
    """

    engine: str
    options: EngineOptions
    batch_size: int = 1
    limits: Limits = LIMITS


@dataclass(frozen=True, kw_only=True)
class Look:
    """Asks how the engine runs the graph, beside what it finds.

    Attributes:
        test: How its latency is measured; None where that is done elsewhere.
    """

    test: LatencyTest | None = None


def graph_job(
    what: str,
    model: FloatModel,
    graph: onnx.ModelProto | Path,
    images: Sequence[ImageFile],
    how: RunSettings,
    look: Look | None,
    runtime: Runtime,
) -> Job[Found | Measured]:
    """Runs a graph of the model on images, and looks at how it runs.

    Args:
        what: Names the job in errors.
        model: Says how images go in and what comes out.
        graph: The graph, or the file that the engine built from it.
        images: What to run.
        how: How it is run.
        look: What to find out about the engine; None for nothing.
        runtime: Where it will run.

    Returns:
        Values of the job: a `Found` for each image, in order, then `Measured` where it was asked.

    Raises:
        DataError: An image cannot be read.
    """
    run, needs = _run_of(graph, how), registry.needed(registry.ENGINES, how.engine)
    pieces = image_pieces(model, images, (run, how.batch_size, how.limits), runtime.progress)
    if look is not None:
        test = (look.test.warmup, look.test.runs) if look.test else None
        key = content_key("how it runs", REVISION, run, test, runtime.host(needs))
        pieces.append(Piece(key=key, kind=Measured, about=look, quiet=test is not None))
    return Job(
        what=what,
        function=_on_engine,
        arguments=(model, graph, how),
        pieces=tuple(pieces),
        needs=needs,
        reads=read_by(images, runtime.progress),
    )


def read_by(images: Iterable[ImageFile], progress: Progress) -> dict[Path, str]:
    """`Job.reads` of a job on some images; raises DataError where one cannot be read."""
    return file_digests((image.path for image in images), progress)


def graphs_job(
    what: str,
    model: FloatModel,
    graphs: Sequence[onnx.ModelProto],
    images: Sequence[ImageFile],
    how: RunSettings,
    progress: Progress,
) -> Job[Found]:
    """Runs several graphs of a model on the same images, in one process.

    Args:
        what: Names the job in errors.
        model: Says how images go in and what comes out.
        graphs: Its graphs.
        images: What to run.
        how: How they are run.
        progress: Where reading the images' files reports.

    Returns:
        A `Found` for each image of the first graph, in order, then of the second, and so on; the
        pieces are those of `graph_job`.

    Raises:
        DataError: An image cannot be read.
    """
    pieces = []
    for number, graph in enumerate(graphs):
        about = (_run_of(graph, how), how.batch_size, how.limits)
        own = image_pieces(model, images, about, progress)
        pieces += [replace(piece, about=(number, piece.about)) for piece in own]
    given = (what, model, tuple(graphs), how)
    return Job(
        what=what,
        function=_graphs_on_engine,
        arguments=given,
        pieces=tuple(pieces),
        needs=registry.needed(registry.ENGINES, how.engine),
        reads=read_by(images, progress),
    )


def _run_of(graph: onnx.ModelProto | Path, how: RunSettings) -> tuple[object, ...]:
    """What a graph finds depends on, besides the image, the batch size and the limits."""
    versions = dict(registry.load_engine(how.engine).versions())
    digest = file_digest(graph) if isinstance(graph, Path) else graph_digest(graph)
    return (quantcore.__version__, how.engine, versions, how.options, digest)


def image_pieces(
    model: FloatModel, images: Iterable[ImageFile], about: object, progress: Progress
) -> list[Piece]:
    """A piece for each image, by its content.

    Args:
        model: Says how images go in and what comes out.
        images: The images.
        about: What else depends on.
        progress: Where reading the files reports.
    """
    images = tuple(images)
    digests = file_digests((image.path for image in images), progress)
    base = content_key("predictions", REVISION, model.key, about)
    return [
        Piece(
            key=content_key(base, digests[image.path], *(image.size or ())),
            kind=Found,
            about=image,
        )
        for image in images
    ]


def _on_engine(
    model: FloatModel,
    graph: onnx.ModelProto | Path,
    how: RunSettings,
    wanted: Sequence[ImageFile | Look],
    progress: Progress,
) -> Iterator[tuple[int, Found | Measured]]:
    plugin = registry.load_engine(how.engine)
    opened = (
        plugin.load(graph, how.options)
        if isinstance(graph, Path)
        else plugin.build(graph, how.options)
    )
    with opened as engine:
        images = [w for w in wanted if not isinstance(w, Look)]
        yield from found_on(engine, model, images, how, progress)
        for number, look in enumerate(wanted):
            if isinstance(look, Look):
                yield number, _measured(engine, look, progress)


def _graphs_on_engine(
    what: str,
    model: FloatModel,
    graphs: Sequence[onnx.ModelProto],
    how: RunSettings,
    wanted: Sequence[tuple[int, ImageFile]],
    progress: Progress,
) -> Iterator[tuple[int, Found]]:
    plugin, silent = registry.load_engine(how.engine), Silent()
    numbers = dict.fromkeys(graph for graph, _ in wanted)
    for number in progress.track(numbers, what, len(numbers)):
        places = [place for place, (graph, _) in enumerate(wanted) if graph == number]
        images = [wanted[place][1] for place in places]
        with plugin.build(graphs[number], how.options) as engine:
            for own, found in found_on(engine, model, images, how, silent):
                yield places[own], found


def found_on(
    engine: Engine,
    model: FloatModel,
    images: Sequence[ImageFile],
    how: RunSettings,
    progress: Progress,
) -> Iterator[tuple[int, Found]]:
    """What an engine finds on each image, with the image's number, batch by batch."""
    if not images:
        return
    clocks, number = Clocks(), 0
    before = (0.0, 0.0, 0.0)
    for part in detect(engine, model, images, how.limits, how.batch_size, progress, clocks):
        now = (clocks.reading.seconds, clocks.running.seconds, clocks.finding.seconds)
        each = [(b - a) / len(part) for a, b in zip(before, now, strict=True)]
        before = now
        for prediction in part.values():
            found = Found(
                prediction=prediction,
                preprocess_s=each[0],
                inference_s=each[1],
                postprocess_s=each[2],
            )
            yield number, found
            number += 1


def _measured(engine: Engine, look: Look, progress: Progress) -> Measured:
    return Measured(
        latency=measure([engine], look.test, progress).result() if look.test else None,
        layers=tuple(engine.layers()),
        runs_on=engine.runs_on(),
        peak_rss_mb=peak_rss_mb(),
    )
