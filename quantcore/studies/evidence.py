"""A closer look at what a comparison made: scores as deployed, pictures, errors by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnx

from quantcore.analysis.deployed import THRESHOLDS, USUAL, Truth, count, points, shift, truths
from quantcore.data.boxes import BoxDataset
from quantcore.data.dataset import ImageFile
from quantcore.data.images import Pixels, image_size, read_image
from quantcore.data.opening import open_dataset
from quantcore.evaluation.detections import Predictions
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Data, Evaluation, predictions
from quantcore.pipeline.detecting import picture_of
from quantcore.policy.policy import CalibrationPolicy
from quantcore.report.drawing import GAINED, TRUTH, draw
from quantcore.results.audit import Int8Audit
from quantcore.results.comparison import Variant
from quantcore.results.evidence import (
    ChangedImage,
    ChangedImages,
    Deployed,
    DeployedScores,
    LayerError,
    LayerErrors,
    Pane,
)
from quantcore.results.pictures import Picture, Sight
from quantcore.runtime.files import ensure_folder
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, file_digests, graph_digest
from quantcore.runtime.progress import Progress
from quantcore.studies.keep import quantized_layers
from quantcore.studies.portability.work import layer_errors

#: Images that errors of layers are measured on, and of pictures that lose, and that gain.
_IMAGES, _PICTURES = 4, 3

#: Pixels of the longer side of a picture in a report.
_SIDE = 480

#: Of what kept errors mean; a change of it makes all that is on disk obsolete.
REVISION = 1

_USUAL = THRESHOLDS.index(USUAL)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a graph finds.

    Attributes:
        name: What the graph is called.
        quantized: Whether it is; else it is the float model's.
        found: What it finds on each image.
    """

    name: str
    quantized: bool
    found: Predictions


def look(
    model: FloatModel,
    variants: Sequence[Variant],
    graphs: Mapping[str, onnx.ModelProto],
    data: Data,
    how: Evaluation,
    runtime: Runtime,
) -> list[Looked]:
    """What variants of an engine find; it was kept when they were evaluated.

    Args:
        model: The float model.
        variants: All on the engine.
        graphs: By the name of the graph's file.
        data: What they were evaluated on.
        how: How.
        runtime: Where it is kept.
    """
    return [
        Looked(
            name=v.name,
            quantized=v.backend is not None,
            found=predictions(model, graphs[v.artifacts["onnx"]], data, how, runtime, v.name),
        )
        for v in variants
    ]


def deployed(looked: Sequence[Looked], data: Data) -> list[Deployed]:
    """Precision, recall, F1 and shifts of graphs on one engine; nothing for classifiers.

    Args:
        looked: The float model's is among them where it runs there.
        data: What was evaluated.
    """
    dataset = open_dataset(data.root, data.evaluation)
    if not looked or not isinstance(dataset, BoxDataset):
        return []
    truth = truths(dataset, looked[0].found)
    if not any(len(one.objects) for one in truth.values()):
        return []
    whole = next((entry for entry in looked if not entry.quantized), None)
    reference = count(whole.found, truth) if whole else None
    result = []
    for entry in looked:
        result.append(
            Deployed(
                variant=entry.name,
                points=points(count(entry.found, truth), reference if entry.quantized else None),
                shift=shift(whole.found, entry.found) if entry.quantized and whole else None,
            )
        )
    return result


def scores(deployments: Sequence[Deployed]) -> DeployedScores | None:
    """All of a comparison's; None where there are none."""
    return DeployedScores(tuple(deployments)) if deployments else None


def changed_images(
    model: FloatModel, whole: Looked, other: Looked, data: Data, out: Path
) -> ChangedImages | None:
    """The images that a quantized graph changes most, drawn into a folder.

    An image loses where fewer of the boxes that are drawn are right, or more are wrong.

    Args:
        model: The float model.
        whole: What it finds.
        other: What the quantized graph does.
        data: What was evaluated.
        out: Folder of the comparison; pictures go to `pictures` in it.

    Raises:
        QuantcoreError: An image cannot be read, or a picture not be written.
    """
    dataset = open_dataset(data.root, data.evaluation)
    if not isinstance(dataset, BoxDataset):
        return None
    truth = truths(dataset, whole.found)
    if not any(len(there.objects) for there in truth.values()):
        return None  # without labels nobody knows what is right
    gains = count(other.found, truth).at(_USUAL) - count(whole.found, truth).at(_USUAL)
    order = np.argsort(gains, kind="stable")
    ids = list(truth)
    picked = [n for n in order[:_PICTURES] if gains[n] < 0]
    picked += [n for n in order[::-1][:_PICTURES] if gains[n] > 0]
    by_id = {image.id: image for image in dataset.images}
    folder = ensure_folder(out / "pictures")
    images = []
    for place in picked:
        image, there = by_id[ids[place]], truth[ids[place]]
        boxes = [np.asarray(e.found.by_image[image.id]) for e in (other, whole)]
        boxes = [found[np.argsort(-found[:, 4], kind="stable")] for found in boxes]
        size = image.size or image_size(image.path)
        picture = picture_of(model, boxes[0], boxes[1], USUAL, image.path.name, size)
        images.append(_drawn(model, image, picture, there, float(gains[place]), folder))
    return ChangedImages(variant=other.name, confidence=USUAL, images=tuple(images))


def _drawn(
    model: FloatModel, image: ImageFile, picture: Picture, truth: Truth, gain: float, folder: Path
) -> ChangedImage:
    pixels = read_image(image)
    scale = min(_SIDE / max(pixels.shape[:2]), 1.0)
    way = cv2.INTER_AREA
    small: Pixels = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=way))

    def at(sights: Sequence[Sight]) -> list[Sight]:
        return [replace(s, box=tuple(v * scale for v in s.box or ())) for s in sights]

    objects = [
        Sight(
            name=model.class_names[int(row[5])],
            class_index=int(row[5]),
            score=1.0,
            box=(float(row[0]), float(row[1]), float(row[2]), float(row[3])),
        )
        for row in truth.objects
    ]
    panes = {
        "float": draw(small, at(picture.reference or ()), marked=at(picture.lost)),
        "INT8": draw(small, at(picture.found), marked=at(picture.gained), mark=GAINED),
        "truth": draw(small, at(objects), shade=TRUTH),
    }
    written = []
    for caption, canvas in panes.items():
        path = folder / f"{image.id}-{caption.lower()}.jpg"
        _, content = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 82])
        path.write_bytes(content.tobytes())
        written.append(Pane(caption, f"{folder.name}/{path.name}"))
    word = "loses" if gain < 0 else "gains"
    return ChangedImage(
        title=f"{picture.file} {word}",
        about=_told(picture),
        panes=tuple(written),
    )


def _told(picture: Picture) -> str:
    parts = []
    kinds = (("lost", picture.lost, "INT8"), ("gained", picture.gained, "float"))
    for what, sights, other in kinds:
        if sights:
            each = ", ".join(f"{s.name} {s.score:.2f} ({_there(s, other)})" for s in sights[:6])
            more = f" and {len(sights) - 6} more" if len(sights) > 6 else ""
            parts.append(f"{what}: {each}{more}")
    return "; ".join(parts) or "the same objects in boxes that fit better or worse"


def _there(sight: Sight, other: str) -> str:
    score = sight.other_score
    return f"{other}: nothing" if score is None else f"{other}: {score:.2f}"


def errors(
    model: FloatModel,
    quantized: onnx.ModelProto,
    policy: CalibrationPolicy,
    name: str,
    audit: Int8Audit | None,
    data: Data,
    runtime: Runtime,
) -> LayerErrors:
    """The error of each quantized layer, alone and with all before it, and what it runs in.

    Args:
        model: The float model that the graph was made from.
        quantized: The graph.
        policy: Says what is quantized.
        name: What the graph is called.
        audit: What an engine runs in INT8.
        data: The first images of the evaluation split serve.
        runtime: Where it is done and kept.
    """
    images = open_dataset(data.root, data.evaluation).select()[:_IMAGES]
    names = quantized_layers(model, policy)
    digests = file_digests((image.path for image in images), runtime.progress)
    about = (REVISION, model.key, graph_digest(quantized), names, list(digests.values()))
    own, reached = (
        runtime.one(
            whole(
                "errors of the layers",
                content_key("errors of layers", alone, *about),
                dict[str, float],
                _errors,
                model,
                quantized,
                names,
                images,
                alone,
                apart=False,
                reads=digests,
            )
        )
        for alone in (True, False)
    )
    ops = {layer.name: layer.op for layer in model.layers}
    run = _precisions(audit)
    layers = [
        LayerError(
            layer=name,
            op=ops[name],
            own_db=_known(own.get(name)),
            reached_db=_known(reached.get(name)),
            int8=run.get(name, (None, None))[0] == "int8",
            precision=run.get(name, (None, None))[0],
            why=run.get(name, (None, None))[1],
        )
        for name in names
    ]
    return LayerErrors(variant=name, images=len(images), layers=tuple(layers))


def _errors(
    model: FloatModel,
    quantized: onnx.ModelProto,
    names: tuple[str, ...],
    images: tuple[ImageFile, ...],
    alone: bool,
    progress: Progress,
) -> dict[str, float]:
    return layer_errors(model, quantized, names, images, progress, alone)


def _known(decibels: float | None) -> float | None:
    """999 and -999 stand for no error and no signal."""
    return None if decibels is None or abs(decibels) >= 999 else round(decibels, 2)


def _precisions(audit: Int8Audit | None) -> dict[str, tuple[str | None, str | None]]:
    return {layer.node: (layer.precision, layer.why) for layer in audit.layers} if audit else {}
