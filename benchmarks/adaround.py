"""GPTQ against rounding that is learned by gradients, on the same inputs of layers.

    python benchmarks/adaround.py MODEL --weights FILE --data ROOT --table TABLE --split val2017

Both minimise, layer by layer, the squared error of the outputs, (W - W') H (W - W') with H the
moments of the layer's inputs on calibration images, about their means, which biases take up.
`adaround` (Nagel et al. 2020, arXiv:2004.10568) learns for each weight whether it is rounded up or
down, by Adam through a rectified sigmoid that is pushed to 0 or 1; here on the same moments, so
that both know the same.
`gptq then adaround` starts from GPTQ's codes. Printed are the error of all layers together, in
percent of that of rounding to nearest; what each graph loses of the float model's detections (or
classes), with the change against GPTQ paired by image; and the seconds of the rounding.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from quantcore.commands.options import load_model
from quantcore.contracts.registry import load_engine
from quantcore.data.batches import Batches
from quantcore.data.opening import open_dataset
from quantcore.engines import REFERENCE_ENGINE
from quantcore.qdq.insertion import insert
from quantcore.qdq.scales import codes_of, symmetric_scale
from quantcore.report.terminal import estimate
from quantcore.results.estimate import Estimate
from quantcore.rewrites.biases import corrected, graph_of, matrix, with_values
from quantcore.rewrites.patches import moments, rounded_layers
from quantcore.rewrites.rounding import gptq, plan_of
from quantcore.runtime.progress import for_console
from quantcore.table.table import CalibrationTable
from quantcore.training.gate import Gate, Scores

Values = np.ndarray
WAYS = ("nearest", "gptq", "adaround", "gptq then adaround")
#: The rectified sigmoid's ends, and how hard it is pushed (section 4 of the paper).
_LOW, _HIGH, _PUSH = -0.1, 1.1, 0.01


def adaround(
    rows: Values, second: Values, scales: Values, ends: tuple[int, int], start: Values, steps: int
) -> Values:
    """Rows of weights on codes, each the one below or above."""
    weight, moment = torch.from_numpy(rows).float(), torch.from_numpy(second).float()
    moment = moment / moment.diagonal().mean().clamp_min(1e-12)
    spread = torch.from_numpy(scales).float()[:, None]
    below = torch.floor(weight / spread)
    share = weight / spread - below
    chosen = torch.from_numpy(start).float() / spread - below  # 0 or 1 where it is a neighbour
    first = torch.where((chosen < 0.5), share.clamp(max=0.45), share.clamp(min=0.55))
    inner = ((first - _LOW) / (_HIGH - _LOW)).clamp(1e-4, 1 - 1e-4)
    value = torch.log(inner / (1 - inner)).requires_grad_()
    adam = torch.optim.Adam([value], 0.05)
    for step in range(steps):
        up = (torch.sigmoid(value) * (_HIGH - _LOW) + _LOW).clamp(0, 1)
        error = (below + up).clamp(*ends) * spread - weight
        loss = ((error @ moment) * error).sum() / (spread**2).mean()
        if step > 0.2 * steps:
            power = 20 - 18 * (step - 0.2 * steps) / (0.8 * steps)
            loss = loss + _PUSH * (1 - (2 * up - 1).abs().pow(power)).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    up = (value.detach() > 0).float()
    return np.asarray(((below + up).clamp(*ends) * spread).double())


def rounded(
    name: str,
    own: Values,
    moment: Values,
    scales: Values,
    ends: tuple[int, int],
    steps: int,
    found: dict[str, Values],
    part: slice,
) -> Values:
    """Rows of weights on codes, one of the ways."""
    if name == "nearest":
        return np.clip(np.rint(own / scales[:, None]), *ends) * scales[:, None]
    if name == "gptq":
        return gptq(own, moment, scales, ends, 0.01)
    start = found["nearest" if name == "adaround" else "gptq"][part]
    return adaround(own, moment, scales, ends, start, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibration", default="train2017")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--every", type=int, default=1, help="judge on each so many-th image")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--preset")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--about-zero", action="store_true", help="moments not about the mean")
    given = parser.parse_args()
    model = load_model(given.model, given.weights, preset=given.preset)
    table, engine = CalibrationTable.load(given.table), load_engine(REFERENCE_ENGINE)
    chosen = open_dataset(given.data, given.calibration).select(given.images)
    layers = rounded_layers(model, plan_of(model, table))
    batches = Batches(chosen, model.preprocessing, 1)
    seen = moments(model, [layer for layer, _ in layers], batches.inputs(), engine, 512)
    names = given.ways
    weights: dict[str, dict[str, Values]] = {name: {} for name in names}
    errors, seconds = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for layer, site in for_console().track(layers, "rounding"):
        rows, back = matrix(graph_of(model, layer), np.asarray(model.initializers[site.tensor]))
        scale = symmetric_scale(table.tensors[site.tensor], site.policy.code).astype(np.float64)
        scales, ends = np.broadcast_to(scale, (len(rows),)).copy(), codes_of(site.policy)
        found = {name: np.empty_like(rows) for name in names}
        own_moments = seen[layer.name]
        second = own_moments.second if given.about_zero else own_moments.centred
        each = len(rows) // len(second)
        for group, moment in enumerate(second):
            part = slice(group * each, (group + 1) * each)
            own, s = rows[part], scales[part]
            for name in names:
                began = time.perf_counter()
                found[name][part] = rounded(name, own, moment, s, ends, given.steps, found, part)
                seconds[name] += time.perf_counter() - began
            powers = {}
            for name in names:
                error = found[name][part] - own
                powers[name] = float(((error @ moment) * error).sum())
            for name, power in powers.items():
                share = power / max(powers["nearest"], 1e-30)
                errors[name] += share / len(second) / len(layers)
        for name in names:
            weights[name][site.tensor] = back(found[name])
    dataset = open_dataset(given.data, given.split)
    images = dataset.select()[:: given.every]
    gate = Gate(model, dataset, images, engine, for_console())
    scores: dict[str, Scores] = {}
    for name in names:
        shifts = {
            layer.name: corrected(model, layer, weights[name][site.tensor], seen[layer.name])
            for layer, site in layers
        }
        new = with_values(model, weights[name], shifts)
        own = replace(table, provenance=replace(table.provenance, fingerprint=new.fingerprint))
        scores[name] = gate.score(insert(new, plan_of(new, own), own).proto)
        lost, figure = scores[name].lost, scores[name].figure
        against = scores["gptq" if name != "nearest" else name]
        change = estimate(Estimate.of(lost - against.lost), 4, "+")
        moved = estimate(Estimate.of(figure - against.figure), 4, "+")
        print(
            f"{name}: error of the layers {100 * errors[name]:.1f} % of nearest, lost "
            f"{estimate(Estimate.of(lost), 4)} ({change} against gptq), figure "
            f"{figure[0]:.4f} ({moved}), {seconds[name]:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
