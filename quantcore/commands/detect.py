"""Pictures: what a graph finds in images, folders and videos, drawn and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from quantcore import pipeline
from quantcore.commands.options import (
    Engine,
    EngineOption,
    Model,
    ModelOption,
    Preset,
    Providers,
    Size,
    Threads,
    Weights,
    engine_options,
    load_model,
)
from quantcore.contracts import registry
from quantcore.data.frames import Frame, files_in, frame_rate, frames_of, is_video
from quantcore.data.images import Pixels
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import DataError, OutputError, UsageError
from quantcore.pipeline.detecting import Detector
from quantcore.report import drawing, terminal
from quantcore.results.pictures import FORMAT, Picture
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.plain import json_text
from quantcore.runtime.progress import for_console


def detect(
    model: Model,
    images: Annotated[
        list[Path], typer.Argument(help="Images, folders of them, or videos.", metavar="IMAGES...")
    ],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and pictures.json.")],
    graph: Annotated[
        Path | None, typer.Option("--onnx", help="Graph to run; the float model by default.")
    ] = None,
    against: Annotated[
        bool,
        typer.Option("--against", help="Draw the float model's beside it, and list what was lost."),
    ] = False,
    conf: Annotated[
        float, typer.Option(help="Boxes must score higher, 0..1.", min=0.0, max=1.0)
    ] = 0.25,
    engine: Engine = REFERENCE_ENGINE,
    provider: Providers = None,
    engine_option: EngineOption = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    threads: Threads = None,
) -> None:
    """Draw what a graph finds in images, folders and videos; a classifier gets its label.

    A file that cannot be read is told of and passed over; the command then ends with exit code 2.
    """
    if against and graph is None:
        raise UsageError("--against holds a graph against the float model: give it with --onnx")
    paths = files_in(images)
    loaded = load_model(model, weights, size, preset, model_option)
    options = engine_options([engine], engine_option, threads=threads, providers=provider)[engine]
    plugin = registry.load_engine(engine)
    ensure_folder(out)
    with ExitStack() as stack:
        proto = pipeline.load_onnx(graph) if graph else loaded.proto
        first = stack.enter_context(plugin.build(proto, options))
        second = stack.enter_context(plugin.build(loaded.proto, options)) if against else None
        titles = ("float", graph.stem if graph else "")
        looking = _Looking(Detector(loaded, first, second, conf), out, titles)
        try:
            for path in for_console().track(paths, "detect"):
                looking.at(path)
        finally:
            looking.write(engine)
    looking.tell()
    if looking.failed:
        raise DataError("; ".join(looking.failed))


@dataclass
class _Looking:
    """A run of `detect`: what was found so far."""

    detector: Detector
    out: Path
    titles: tuple[str, str]
    pictures: list[Picture] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def at(self, path: Path) -> None:
        """Looks at a file and writes its picture, or its video."""
        target = self._target(path)
        try:
            if is_video(path):
                self._video(path, target)
            else:
                (frame,) = frames_of(path)
                _, content = cv2.imencode(".jpg", self._drawn(path, frame))
                target.write_bytes(content.tobytes())
        except DataError as error:
            self.failed.append(str(error))
            terminal.say(f"passed over: {error}")
        except OSError as error:
            raise OutputError(f"{target}: cannot write: {error.strerror or error}") from None

    def _target(self, path: Path) -> Path:
        """A file of its own for each, also where folders hold files of the same name."""
        ending = ".mp4" if is_video(path) else ".jpg"
        name, number = f"{path.stem}{ending}", 1
        while name in self.names:
            number += 1
            name = f"{path.stem}-{number}{ending}"
        self.names.add(name)
        return self.out / name

    def _video(self, path: Path, target: Path) -> None:
        writer = None
        try:
            for canvas in self._canvases(path):
                if writer is None:
                    size = (canvas.shape[1], canvas.shape[0])
                    code = cv2.VideoWriter.fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(target), code, frame_rate(path), size)
                writer.write(canvas)
        finally:
            if writer is not None:
                writer.release()

    def _canvases(self, path: Path) -> Iterator[Pixels]:
        for frame in frames_of(path):
            yield self._drawn(path, frame)

    def _drawn(self, path: Path, frame: Frame) -> Pixels:
        found = self.detector.look(frame.pixels, str(path), frame.number)
        self.pictures.append(found)
        if found.reference is None:
            return drawing.draw(frame.pixels, found.found)
        return np.ascontiguousarray(drawing.side_by_side(frame.pixels, found, self.titles))

    def write(self, engine: str) -> None:
        """Writes what was found, also of a run that was stopped."""
        about: dict[str, object] = {
            "format": FORMAT,
            "model": self.detector.model.name,
            "engine": engine,
            "confidence": self.detector.conf,
            "pictures": self.pictures,
        }
        write_whole(self.out / "pictures.json", json_text(about))

    def tell(self) -> None:
        """Says in a line what was found, and in a line each what was lost and gained."""
        found = Counter(sight.name for picture in self.pictures for sight in picture.found)
        kinds = ", ".join(f"{count} {name}" for name, count in found.most_common(12))
        more = f" and {len(found) - 12} more kinds" if len(found) > 12 else ""
        terminal.say(f"{len(self.pictures)} pictures: {kinds or 'nothing found'}{more}")
        if self.detector.against is not None:
            self._compare()
        terminal.say(f"{self.out}: pictures and pictures.json written")

    def _compare(self) -> None:
        for picture in self.pictures:
            for what, sights in (("lost", picture.lost), ("gained", picture.gained)):
                for sight in sights:
                    frame = "" if picture.frame is None else f", frame {picture.frame}"
                    other = sight.other_score
                    below = "none there" if other is None else f"{other:.2f} there"
                    terminal.say(
                        f"{what}: {sight.name} {sight.score:.2f} in {picture.file}{frame} "
                        f"({'INT8' if what == 'lost' else 'float'} has {below})"
                    )
        counts = [
            sum(len(sights) for sights in each)
            for each in (
                (p.reference or () for p in self.pictures),
                (p.lost for p in self.pictures),
                (p.gained for p in self.pictures),
            )
        ]
        terminal.say(
            f"of {counts[0]} that the float model finds at {self.detector.conf:g}, {counts[1]} are "
            f"lost and {counts[2]} gained"
        )
