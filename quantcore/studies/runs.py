"""Many graphs on the same images: everything that they share is computed once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import onnx

from quantcore.contracts.engine import Engine, EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.data.coco import CocoDataset, CocoImage
from quantcore.data.images import read_image
from quantcore.data.letterbox import Placement, letterbox
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import OutputError, UsageError
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.finding import find_boxes
from quantcore.ir.decoding import LIMITS
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel, LayerInfo
from quantcore.runtime.keys import content_key, file_digests
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.store import Store
from quantcore.studies.macs import shapes_of
from quantcore.studies.prefix import Suffix, cut, fingerprint
from quantcore.studies.probe import layer_probe

#: Bytes of network inputs that are kept between graphs; the other images are read again.
INPUT_CACHE = 1 << 30

#: Bytes of constants and activations that the graphs worked on at a time may take.
GROUP_BYTES = 3 << 29

#: Images on which a layer's own error is measured; it hardly differs between images.
PROBED_IMAGES = 8

#: Of what a finding means; a change of it makes all that is on disk obsolete.
REVISION = 1

_NOT_MEASURED = float("nan")
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Variant:
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
        boxes: Detections, n x 6 as `quantcore.evaluation.nms` gives them, in original pixels.
        powers: Sums of squares in pairs, signal and noise: of the heads, of the layer's own
            output; NaN where not measured.
    """

    boxes: Array
    powers: tuple[float, float, float, float]


@dataclass(frozen=True)
class Outcome:
    """What a graph made of all images.

    Attributes:
        detections: In original pixels.
        powers: Image id -> `Finding.powers`.
    """

    detections: Detections
    powers: Mapping[int, tuple[float, float, float, float]]


@dataclass
class _Job:
    """A variant while it is worked on; `left` are the ids of images that it has not had."""

    variant: Variant
    key: str
    suffix: Suffix | None
    probe: Suffix | None
    left: set[int] = field(default_factory=set)
    engine: Engine | None = None
    probe_engine: Engine | None = None

    def feeds(self) -> tuple[str, ...]:
        """Tensors of the float graph that it needs."""
        parts = (part for part in (self.suffix, self.probe) if part)
        return tuple(dict.fromkeys(name for part in parts for name in part.feeds))


class Runs:
    """Runs graphs of one model on some images, image by image, several images in flight.

    Args:
        model: The float model.
        dataset: Ground truth and category ids.
        images: What to run on.
        store: Where findings are kept, under keys of everything that they depend on.
        workers: Images in flight; None for one on each core. One thread runs each: two sessions
            with a thread each do more in a second than one session with two.
        progress: Where to report.
    """

    def __init__(
        self,
        model: FloatModel,
        dataset: CocoDataset,
        images: Sequence[CocoImage],
        store: Store,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if model.batch_size not in (None, 1):
            raise UsageError(
                f"{model.name}: images are run one by one, but the graph takes batches of "
                f"{model.batch_size}; export it with a dynamic batch"
            )
        self.model, self.dataset, self.images = model, dataset, tuple(images)
        self.category_ids = dataset.check_classes(model.class_names)
        self.computed = 0
        self._probed = {image.id for image in self.images[:PROBED_IMAGES]}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._store, self._progress = store, progress or Silent()
        self._workers = workers or cores()
        self._plugin = load_engine(REFERENCE_ENGINE)
        self._options = EngineOptions(threads=1, shared_memory=True)
        self._shapes = shapes_of(model)
        self._inputs = _Inputs(model)
        self._digests = file_digests((image.path for image in self.images), self._progress)
        looks = (model.fingerprint, model.decoding.to_dict(), model.preprocessing)
        self._about = (REVISION, looks, LIMITS, self._plugin.versions())

    def run(
        self, variants: Sequence[Variant], what: str = "images", shared: bool = True
    ) -> list[Outcome]:
        """The outcome of each graph, from the store as far as it is there.

        Args:
            variants: The graphs.
            what: A few words for the progress.
            shared: Run the float graph once for all graphs and each graph from its first change
                on; False runs each graph whole, which is better for graphs changed throughout.
        """
        jobs = [self._job(variant, shared) for variant in variants]
        for job in jobs:
            job.left = {i.id for i in self.images if self._key(job, i) not in self._store}
        missing = [job for job in jobs if job.left]
        with _Steps(self._progress, what, sum(len(job.left) for job in missing)) as step:
            for group in _groups(missing, self._shapes):
                self._run_group(group, step)
        return [self._outcome(job) for job in jobs]

    def _job(self, variant: Variant, shared: bool) -> _Job:
        suffix = cut(self.model, variant.proto, self._shapes) if shared else None
        # What is cut off is as in the float graph.
        graph = fingerprint(suffix.proto if suffix else variant.proto)
        layer = variant.layer and variant.layer.name
        key = content_key("graph on an image", self._about, graph, shared, layer)
        if not shared:
            return _Job(variant, key, None, None)
        probe = None
        if variant.layer is not None:
            probe = layer_probe(self.model, variant.proto, variant.layer, self._shapes)
        return _Job(variant, key, suffix, probe)

    def _key(self, job: _Job, image: CocoImage) -> str:
        """Of the finding of a graph on an image, by the image's content."""
        probed = image.id in self._probed
        return content_key(job.key, self._digests[image.path], image.width, image.height, probed)

    def _run_group(self, group: Sequence[_Job], step: Callable[[], None]) -> None:
        """Every image through the graphs of a group."""
        with ExitStack() as stack:
            trunk = self._open(group, stack)
            pool = stack.enter_context(ThreadPoolExecutor(self._workers))
            work = [
                pool.submit(self._image, image, group, trunk, step)
                for image in self.images
                if any(image.id in job.left for job in group)
            ]
            try:
                for done in as_completed(work):
                    done.result()
            except BaseException:
                # What is in flight is dropped after the graph that it is in.
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _open(self, group: Sequence[_Job], stack: ExitStack) -> Engine | None:
        """Builds the group's engines; returns the float graph's, where it is needed."""

        def build(proto: onnx.ModelProto) -> Engine:
            return stack.enter_context(self._plugin.build(proto, self._options))

        for job in group:
            if job.suffix is None:
                job.engine = build(job.variant.proto)
            elif job.suffix.outputs:
                job.engine = build(job.suffix.proto)
            if job.probe is not None:
                job.probe_engine = build(job.probe.proto)
        shared = [job for job in group if job.suffix is not None]
        if not shared:
            return None
        feeds = [name for job in shared for name in job.feeds()]
        return build(exposed(self.model.proto, feeds))

    def _image(
        self,
        image: CocoImage,
        group: Sequence[_Job],
        trunk: Engine | None,
        step: Callable[[], None],
    ) -> None:
        """One image through the graphs that have not had it."""
        pixels, placement = self._inputs.get(image)
        tensors = {self.model.input_name: pixels}
        signal = _NOT_MEASURED
        if trunk is not None:
            tensors.update(trunk.infer(pixels))
            signal = sum(_square(tensors[name]) for name in self.model.output_names)
        for job in group:
            if image.id not in job.left:
                continue
            if self._stop.is_set():
                return
            heads = self._heads(job, tensors)
            own = _own(job, tensors) if image.id in self._probed else (_NOT_MEASURED,) * 2
            powers = (signal, _noise(job, heads, tensors), *own)
            finding = Finding(self._detect(heads, placement), powers)
            with self._lock:
                self._store.put(self._key(job, image), finding)
                self.computed += 1
                step()

    def _heads(self, job: _Job, tensors: Mapping[str, Array]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        if job.engine is not None:
            packed = job.suffix.pack(tensors) if job.suffix else tensors[self.model.input_name]
            found = job.engine.infer(packed)
        return {n: found[n] if n in found else tensors[n] for n in self.model.output_names}

    def _detect(self, heads: Mapping[str, Array], placement: Placement) -> Array:
        return find_boxes(heads, self.model, [placement], LIMITS)[0]

    def _outcome(self, job: _Job) -> Outcome:
        found = {image.id: self._finding(job, image) for image in self.images}
        detections = Detections({i: f.boxes for i, f in found.items()}, self.category_ids)
        return Outcome(detections, {i: f.powers for i, f in found.items()})

    def _finding(self, job: _Job, image: CocoImage) -> Finding:
        found = self._store.get(self._key(job, image), Finding)
        if found is None:
            raise OutputError(f"{self._store.path}: damaged while in use; run the command again")
        return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _noise(job: _Job, heads: Mapping[str, Array], tensors: Mapping[str, Array]) -> float:
    """Power of the error in the heads; those that the change does not reach have none."""
    if job.suffix is None:
        return _NOT_MEASURED
    return sum(_square(heads[name], tensors[name]) for name in job.suffix.outputs)


def _own(job: _Job, tensors: Mapping[str, Array]) -> tuple[float, float]:
    """Powers of the layer's own output and of its error."""
    if job.probe is None or job.probe_engine is None:
        return _NOT_MEASURED, _NOT_MEASURED
    found = job.probe_engine.infer(job.probe.pack(tensors))
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


def _groups(jobs: Iterable[_Job], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[_Job]]:
    """Splits the graphs so that the constants and activations of a group fit in memory."""
    group: list[_Job] = []
    size = 0
    for job in jobs:
        proto = job.variant.proto
        own = job.suffix.weight_bytes if job.suffix else proto.ByteSize()
        # Copies: the graph as handed over, as the engine holds it, and as it is laid out to run.
        own = 3 * own + 4 * sum(int(np.prod(shapes[name])) for name in job.feeds())
        if group and size + own > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(job)
        size += own
    if group:
        yield group


class _Steps:
    """The progress of one run, as a function that is called at each step."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._task: int | None = None

    def __enter__(self) -> Callable[[], None]:
        if not self._total:
            return lambda: None
        self._task = task = self._progress.start(self._what, self._total)
        return lambda: self._progress.advance(task)

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._progress.stop(self._task)


@dataclass
class _Inputs:
    """Network inputs, decoded once as long as they fit in memory."""

    model: FloatModel
    _kept: dict[int, tuple[Array, Placement]] = field(default_factory=dict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, image: CocoImage) -> tuple[Array, Placement]:
        """The input of an image, 1 x 3 x h x w, and where the image lies in it."""
        if image.id in self._kept:
            return self._kept[image.id]
        pixels, placement = letterbox(read_image(image), self.model.preprocessing)
        ready = (pixels[None], placement)
        with self._lock:
            if self._bytes + pixels.nbytes <= INPUT_CACHE:
                self._kept[image.id] = ready
                self._bytes += pixels.nbytes
        return ready
