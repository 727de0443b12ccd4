"""Train the demo detector on freshly generated digit scenes, on the CPU.

The network never sees a packaged scene: training scenes come from a random stream of their own and
show only the digits set aside for training. The packaged validation set scores the result.

Usage:
    python tools/demo/train.py
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from evaluation import letterbox, score, to_input
from loss import detection_loss
from make_scenes import (
    CLASS_NAMES,
    IMAGE_SIZE,
    STREAM_TRAINING,
    ByteArray,
    FloatArray,
    encode,
    make_scene,
)
from network import BN_EPS, STRIDES, Yolo, build_table
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

DATA = Path(__file__).resolve().parents[2] / "quantcore" / "demo_data"
WEIGHTS_NAME = "yolov7-tiny-digits.safetensors"

_BATCH = 16
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.02
_WARMUP_STEPS = 200
_EMA_DECAY = 0.998
_MAX_GRADIENT = 10.0
_PLAIN_SHARE = 0.2
_ANCHORS_PER_LEVEL = 3


@dataclass(frozen=True)
class TrainingSet:
    """Letterboxed scenes that are held in memory.

    Attributes:
        images: BGR images of the input size.
        targets: Per image ``(n, 5)`` rows of class, centre, width and height in pixels.
    """

    images: list[ByteArray]
    targets: list[FloatArray]


def _training_scene(index: int, seed: int) -> tuple[ByteArray, FloatArray]:
    """Render a scene the way the packaged ones are stored, with JPEG artefacts."""
    scene = make_scene(seed, STREAM_TRAINING, index)
    packed = np.frombuffer(encode(scene.image), np.uint8)
    placed = letterbox(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8))
    size = scene.boxes[:, 2:]
    centre = scene.boxes[:, :2] + size / 2 + np.array([placed.left, placed.top], np.float32)
    labels = scene.labels[:, None].astype(np.float32)
    return placed.image, np.concatenate([labels, centre, size], axis=1)


def make_training_set(count: int, seed: int) -> TrainingSet:
    """Render the training scenes on all cores.

    Args:
        count: Number of scenes.
        seed: Seed of the scenes.

    Returns:
        The scenes in the order of their index, whatever the number of cores.
    """
    # Forking a process in which PyTorch already runs threads can lock up.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        made = list(pool.map(partial(_training_scene, seed=seed), range(count), chunksize=64))
    return TrainingSet([image for image, _ in made], [boxes for _, boxes in made])


def fit_anchors(sizes: FloatArray, rounds: int = 30) -> list[list[int]]:
    """Cluster box sizes by their overlap.

    Args:
        sizes: Widths and heights in pixels, ``(n, 2)``.
        rounds: Number of clustering rounds.

    Returns:
        Whole pixels, six numbers per level, from small to large.
    """
    count = _ANCHORS_PER_LEVEL * len(STRIDES)
    areas = sizes.prod(axis=1)
    ranks = ((np.arange(count) + 0.5) / count * len(sizes)).astype(int)
    centres = sizes[np.argsort(areas, kind="stable")[ranks]]
    for _ in range(rounds):
        overlap = np.minimum(sizes[:, None], centres[None]).prod(axis=2)
        union = areas[:, None] + centres.prod(axis=1)[None] - overlap
        nearest = (overlap / union).argmax(axis=1)
        groups = [sizes[nearest == number] for number in range(count)]
        means = [
            group.mean(axis=0) if len(group) else old
            for group, old in zip(groups, centres, strict=True)
        ]
        centres = np.stack(means)
    centres = centres[np.argsort(centres.prod(axis=1), kind="stable")]
    whole = np.rint(centres).astype(int).reshape(len(STRIDES), -1)
    return [[int(value) for value in level] for level in whole]


def recolour(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Vary the colours of a scene; digits keep their meaning under any of these changes."""
    changed = image[..., rng.permutation(3)].astype(np.float32)
    if rng.random() < 0.3:
        changed = 255 - changed
    gain, offset = rng.uniform(0.75, 1.2), rng.uniform(-25, 25)
    return np.clip(changed * gain + offset, 0, 255).astype(np.uint8)


def collate(
    scenes: TrainingSet, picked: NDArray[np.int64], rng: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    """Join scenes to a batch.

    Args:
        scenes: The training scenes.
        picked: Indices of the scenes in the batch.
        rng: Source of the colour changes, or None for unchanged scenes.

    Returns:
        Network input, and ``(n, 6)`` rows of image index, class, centre, width and height.
    """
    images = [scenes.images[index] for index in picked]
    if rng is not None:
        images = [recolour(image, rng) for image in images]
    rows = [
        np.insert(scenes.targets[index], 0, place, axis=1) for place, index in enumerate(picked)
    ]
    batch = to_input(images).contiguous(memory_format=torch.channels_last)
    return batch, torch.from_numpy(np.concatenate(rows).astype(np.float32))


def make_optimizer(net: Yolo) -> torch.optim.AdamW:
    """Create the optimizer; only convolution kernels decay towards zero."""
    kernels: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in net.named_parameters():
        is_kernel = parameter.ndim == 4 and "implicit" not in name
        (kernels if is_kernel else others).append(parameter)
    groups = [
        {"params": kernels, "weight_decay": _WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=_LEARNING_RATE)


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear start, then a cosine down to one percent."""
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    return _LEARNING_RATE * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)


@torch.no_grad()
def update_average(average: Yolo, net: Yolo, step: int) -> None:
    """Move the averaged network towards the trained one, faster in the beginning."""
    decay = _EMA_DECAY * (1 - math.exp(-(step + 1) / 300))
    current = net.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])


def _descend(
    net: Yolo, optimizer: torch.optim.Optimizer, rate: float, images: Tensor, targets: Tensor
) -> float:
    """Take one optimizer step and return the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = detection_loss(net(images), net.head.anchors, targets, STRIDES)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), _MAX_GRADIENT)
    optimizer.step()
    return float(loss.item())


def _progress(step: int, steps: int, loss: float, started: float) -> None:
    """Print a progress line."""
    spent = time.monotonic() - started
    left = spent / step * (steps - step)
    print(f"step {step}/{steps} loss {loss:.3f}, {left / 60:.1f} min left", flush=True)


def train(net: Yolo, scenes: TrainingSet, epochs: int, seed: int, data: Path) -> Yolo:
    """Train a network.

    Args:
        net: Fresh network, changed in place.
        scenes: The training scenes.
        epochs: Passes over the scenes.
        seed: Seed of the order and the colour changes.
        data: Set whose validation scenes show the progress; nothing is chosen by it.

    Returns:
        The network with averaged weights.
    """
    rng = np.random.default_rng([seed, len(scenes.images)])
    net.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(net)
    optimizer = make_optimizer(net)
    per_epoch = len(scenes.images) // _BATCH
    steps, step, started, recent = epochs * per_epoch, 0, time.monotonic(), 0.0
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(scenes.images))
        for start in range(0, per_epoch * _BATCH, _BATCH):
            # The last steps see plain scenes, so that the statistics settle on those.
            change = rng if step < (1 - _PLAIN_SHARE) * steps else None
            images, targets = collate(scenes, order[start : start + _BATCH], change)
            recent += _descend(net, optimizer, rate_at(step, steps), images, targets)
            update_average(average, net, step)
            step += 1
            if step % 50 == 0:
                _progress(step, steps, recent / 50, started)
                recent = 0.0
        if epoch % 2 == 0:
            print(f"epoch {epoch}/{epochs} mAP@0.5:0.95 {score(average, data)[0]:.4f}", flush=True)
    return average


def _sort_metadata(data: bytes) -> bytes:
    """Order the metadata of a safetensors file, which the library writes in random order."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format wants the tensors to start at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def write_weights(net: Yolo, table: dict[str, Any], path: Path) -> None:
    """Write half-precision weights, replacing an earlier file only once all data is on disk.

    Args:
        net: Trained network.
        table: Its network table.
        path: Target file.
    """
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    metadata = {
        "format": "quantcore-yolo/1",
        "yaml": json.dumps(table, separators=(",", ":")),
        "names": json.dumps(CLASS_NAMES),
        "bn_eps": str(BN_EPS),
        "image_size": str(IMAGE_SIZE),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".weights-", dir=path.parent) as scratch:
        fresh = Path(scratch) / path.name
        fresh.write_bytes(_sort_metadata(save(tensors, metadata)))
        fresh.replace(path)


def load_weights(table: dict[str, Any], path: Path) -> Yolo:
    """Create a network and give it the weights of a file, widened to single precision."""
    net = Yolo(table)
    tensors = load_file(path)
    net.load_state_dict(
        {
            name: value.float() if value.is_floating_point() else value
            for name, value in tensors.items()
        }
    )
    return net


def _options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="set with the validation scenes")
    parser.add_argument("--out", type=Path, default=DATA / WEIGHTS_NAME, help="weights file")
    parser.add_argument("--scenes", type=int, default=4096, help="number of training scenes")
    parser.add_argument("--epochs", type=int, default=16, help="passes over the scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole run")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training")
    options = parser.parse_args()
    if options.scenes < _BATCH or options.epochs < 1 or options.threads < 1 or options.seed < 0:
        parser.error(f"need at least {_BATCH} scenes, an epoch, a thread, and a seed of 0 or more")
    return options


def main() -> None:
    """Train, write the weights and score what was written."""
    options = _options()
    started = time.monotonic()
    # Sums depend on how they are split over threads, so the number of threads is an option.
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    scenes = make_training_set(options.scenes, options.seed)
    anchors = fit_anchors(np.concatenate(scenes.targets)[:, 3:])
    table = build_table(len(CLASS_NAMES), anchors)
    net = Yolo(table)
    count = sum(parameter.numel() for parameter in net.parameters())
    print(f"{options.scenes} scenes, {count} parameters, anchors {anchors}", flush=True)
    average = train(net, scenes, options.epochs, options.seed, options.data)
    write_weights(average, table, options.out)
    strict, loose = score(load_weights(table, options.out), options.data)
    print(f"wrote {options.out.name} ({options.out.stat().st_size} bytes)")
    print(f"mAP@0.5:0.95 {strict:.4f}, mAP@0.5 {loose:.4f}")
    print(f"took {(time.monotonic() - started) / 60:.1f} min")


if __name__ == "__main__":
    main()
