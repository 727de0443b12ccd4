"""The job behind many graphs on the same images: what they share is computed once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import onnx

from quantcore.contracts.engine import Engine, EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.data.dataset import ImageFile
from quantcore.data.images import read_image
from quantcore.data.letterbox import Placement, letterbox
from quantcore.engines import REFERENCE_ENGINE
from quantcore.evaluation.finding import find_predictions
from quantcore.ir.decoding import LIMITS
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel, LayerInfo, Preprocessing
from quantcore.runtime.keys import FileStamp, file_stamp
from quantcore.runtime.progress import Progress
from quantcore.runtime.threads import cores
from quantcore.studies.macs import shapes_of
from quantcore.studies.prefix import Suffix, cut
from quantcore.studies.probe import layer_probe

#: Bytes of network inputs that are kept between graphs; the other images are read again.
INPUT_CACHE = 1 << 30

#: Bytes of constants and activations that the graphs worked on at a time may take.
GROUP_BYTES = 3 << 29

_NOT_MEASURED = float("nan")
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Candidate:
    """A graph to be run on every image.

    Attributes:
        name: For people.
        proto: The float graph, or the Q/DQ graph of some of its layers.
        layer: The one layer that is quantized, whose own error is wanted too; None otherwise.
    """

    name: str
    proto: onnx.ModelProto
    layer: LayerInfo | None = None


@dataclass(frozen=True)
class Finding:
    """What one graph made of one image.

    Attributes:
        prediction: See `Predictions.by_image`.
        powers: Sums of squares in pairs, signal and noise: of the heads, of the layer's own
            output; NaN where not measured.
    """

    prediction: Array
    powers: tuple[float, float, float, float]


@dataclass
class _Graph:
    """A graph while it is worked on; `left` has by image id what is wanted of it, and where."""

    candidate: Candidate
    suffix: Suffix | None
    probe: Suffix | None
    left: dict[int, tuple[int, ImageFile, bool]] = field(default_factory=dict)
    engine: Engine | None = None
    probe_engine: Engine | None = None

    def feeds(self) -> tuple[str, ...]:
        """Tensors of the float graph that it needs."""
        parts = (part for part in (self.suffix, self.probe) if part)
        return tuple(dict.fromkeys(name for part in parts for name in part.feeds))


#: What a piece of the job is about: number of the graph, the image, whether layers are probed.
_Wanted = tuple[int, ImageFile, bool]


def run_graphs(
    model: FloatModel,
    candidates: Sequence[Candidate],
    shared: bool,
    workers: int | None,
    what: str,
    wanted: Sequence[_Wanted],
    progress: Progress,
) -> Iterator[tuple[int, Finding]]:
    """The job: every wanted graph and image, as they are finished."""
    run = _Run(model, shared, workers or cores())
    yield from progress.track(run.each(candidates, wanted), what, len(wanted))


class _Run:
    """Graphs of one model on images, several images in flight.

    Args:
        model: The float model.
        shared: See `GraphRuns.run`.
        workers: Images in flight.
    """

    def __init__(self, model: FloatModel, shared: bool, workers: int) -> None:
        self._model, self._shared, self._workers = model, shared, workers
        self._stop = threading.Event()
        self._plugin = load_engine(REFERENCE_ENGINE)
        self._options = EngineOptions(threads=1, shared_memory=True)
        self._shapes = shapes_of(model)
        self._inputs = _inputs_of(model.preprocessing)

    def each(
        self, candidates: Sequence[Candidate], wanted: Sequence[_Wanted]
    ) -> Iterator[tuple[int, Finding]]:
        """Number and value of each wanted piece."""
        graphs = {
            number: self._graph(candidates[number])
            for number in dict.fromkeys(graph for graph, _, _ in wanted)
        }
        for place, (number, image, probed) in enumerate(wanted):
            graphs[number].left[image.id] = (place, image, probed)
        for group in _groups(graphs.values(), self._shapes):
            yield from self._run_group(group)

    def _graph(self, candidate: Candidate) -> _Graph:
        if not self._shared:
            return _Graph(candidate, None, None)
        suffix = cut(self._model, candidate.proto, self._shapes)
        probe = None
        if candidate.layer is not None:
            probe = layer_probe(self._model, candidate.proto, candidate.layer, self._shapes)
        return _Graph(candidate, suffix, probe)

    def _run_group(self, group: Sequence[_Graph]) -> Iterator[tuple[int, Finding]]:
        """Every image through the graphs of a group."""
        images = {
            image.id: (image, probed) for graph in group for _, image, probed in graph.left.values()
        }
        found: queue.SimpleQueue[tuple[int, Finding] | None] = queue.SimpleQueue()
        with ExitStack() as stack:
            trunk = self._open(group, stack)
            pool = stack.enter_context(ThreadPoolExecutor(self._workers))

            def work(image: ImageFile, probed: bool) -> None:
                try:
                    self._image(image, probed, group, trunk, found.put)
                except BaseException:
                    self._stop.set()  # the others need not go on
                    raise
                finally:
                    found.put(None)

            futures = [pool.submit(work, *each) for each in images.values()]
            try:
                for _ in futures:
                    while (piece := found.get()) is not None:
                        yield piece
                for done in futures:
                    done.result()
            except BaseException:
                # What is in flight is dropped after the graph that it is in.
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _open(self, group: Sequence[_Graph], stack: ExitStack) -> Engine | None:
        """Builds the group's engines; returns the float graph's, where it is needed."""

        def build(proto: onnx.ModelProto) -> Engine:
            return stack.enter_context(self._plugin.build(proto, self._options))

        for graph in group:
            if graph.suffix is None:
                graph.engine = build(graph.candidate.proto)
            elif graph.suffix.outputs:
                graph.engine = build(graph.suffix.proto)
            if graph.probe is not None:
                graph.probe_engine = build(graph.probe.proto)
        shared = [graph for graph in group if graph.suffix is not None]
        if not shared:
            return None
        feeds = [name for graph in shared for name in graph.feeds()]
        return build(exposed(self._model.proto, feeds))

    def _image(
        self,
        image: ImageFile,
        probed: bool,
        group: Sequence[_Graph],
        trunk: Engine | None,
        put: Callable[[tuple[int, Finding]], None],
    ) -> None:
        """One image through the graphs that have not had it."""
        pixels, placement = self._inputs.get(image)
        tensors = {self._model.input_name: pixels}
        signal = _NOT_MEASURED
        if trunk is not None:
            tensors.update(trunk.infer(pixels))
            signal = sum(_square(tensors[name]) for name in self._model.output_names)
        for graph in group:
            if image.id not in graph.left:
                continue
            if self._stop.is_set():
                return
            heads = self._heads(graph, tensors)
            own = _own(graph, tensors) if probed else (_NOT_MEASURED,) * 2
            powers = (signal, _noise(graph, heads, tensors), *own)
            put((graph.left[image.id][0], Finding(self._find(heads, placement), powers)))

    def _heads(self, graph: _Graph, tensors: Mapping[str, Array]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        if graph.engine is not None:
            packed = graph.suffix.pack(tensors) if graph.suffix else tensors[self._model.input_name]
            found = graph.engine.infer(packed)
        return {n: found[n] if n in found else tensors[n] for n in self._model.output_names}

    def _find(self, heads: Mapping[str, Array], placement: Placement) -> Array:
        return find_predictions(heads, self._model, [placement], LIMITS)[0]


def _noise(graph: _Graph, heads: Mapping[str, Array], tensors: Mapping[str, Array]) -> float:
    """Power of the error in the heads; those that the change does not reach have none."""
    if graph.suffix is None:
        return _NOT_MEASURED
    return sum(_square(heads[name], tensors[name]) for name in graph.suffix.outputs)


def _own(graph: _Graph, tensors: Mapping[str, Array]) -> tuple[float, float]:
    """Powers of the layer's own output and of its error."""
    if graph.probe is None or graph.probe_engine is None:
        return _NOT_MEASURED, _NOT_MEASURED
    found = graph.probe_engine.infer(graph.probe.pack(tensors))
    signal, noise = (float(value) for value in found.values())
    return signal, noise


def _square(values: Array, minus: Array | None = None) -> float:
    """Sum of squares of an array, or of its difference from another.

    Block by block, so that nothing leaves the processor's cache; in float32 within a block, whose
    error is far below a thousandth of a decibel.
    """
    flat = values.ravel()
    other = None if minus is None else minus.ravel()
    total = 0.0
    scratch = np.empty(min(_BLOCK, flat.size), np.float32)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        if other is not None:
            block = np.subtract(block, other[start : start + _BLOCK], out=scratch[: block.size])
        total += float(np.dot(block, block))
    return total


def _groups(
    graphs: Iterable[_Graph], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[list[_Graph]]:
    """Splits the graphs so that the constants and activations of a group fit in memory."""
    group: list[_Graph] = []
    size = 0
    for graph in graphs:
        proto = graph.candidate.proto
        own = graph.suffix.weight_bytes if graph.suffix else proto.ByteSize()
        # Copies: the graph as handed over, as the engine holds it, and as it is laid out to run.
        own = 3 * own + 4 * sum(int(np.prod(shapes[name])) for name in graph.feeds())
        if group and size + own > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(graph)
        size += own
    if group:
        yield group


@lru_cache(maxsize=1)
def _inputs_of(preprocessing: Preprocessing) -> _Inputs:
    """Shared by runs after one another, of which a search makes dozens on the same images."""
    return _Inputs(preprocessing)


@dataclass
class _Inputs:
    """Network inputs, decoded once as long as they fit in memory."""

    preprocessing: Preprocessing
    _kept: dict[FileStamp, tuple[Array, Placement]] = field(default_factory=dict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, image: ImageFile) -> tuple[Array, Placement]:
        """The input of an image, 1 x 3 x h x w, and where the image lies in it."""
        stamp = file_stamp(image.path)
        if stamp in self._kept:
            return self._kept[stamp]
        pixels, placement = letterbox(read_image(image), self.preprocessing)
        ready = (pixels[None], placement)
        with self._lock:
            if self._bytes + pixels.nbytes <= INPUT_CACHE:
                self._kept[stamp] = ready
                self._bytes += pixels.nbytes
        return ready
