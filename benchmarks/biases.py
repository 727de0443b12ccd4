r"""Four ways to correct biases for what rounding does, on images that nothing saw.

    python benchmarks/biases.py MODEL --weights FILE --data COCO --table TABLE --judge COCO:SPLIT

Printed are detections lost and mAP of the graph as it is calibrated, and after each way, one graph
each, paired by image:

- own: what `quantcore correct bias-correction` does. Each layer makes up for the rounding of its
  own weights, by the means of its inputs in the float network.
- quantized inputs: the same, by the means of its inputs in the quantized network.
- outputs, at once: each layer is given the difference of its output's mean between the float and
  the quantized network, all of them measured before any is changed. What an early layer does is
  counted again by every layer behind it.
- outputs, in order: the same, but each is measured after those before it were corrected.

With `--places` it prints instead how far quantization moves the heads' objectness, as the mean of
all places and as that of those where the float network sees something (anchor heads only).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from training import pooled

from quantcore.commands.options import load_model
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine, load_rewrite
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.engines import REFERENCE_ENGINE
from quantcore.ir.edits import exposed, nodes_by_name
from quantcore.ir.model import Array, FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.qdq.scales import codes_of, symmetric_scale
from quantcore.report.terminal import estimate
from quantcore.results.estimate import Estimate
from quantcore.rewrites.biases import with_values
from quantcore.rewrites.patches import rounded_layers
from quantcore.runtime.progress import for_console
from quantcore.table.table import CalibrationTable
from quantcore.training.gate import Gate

Means = dict[str, npt.NDArray[np.float64]]


def graph(model: FloatModel, table: CalibrationTable) -> onnx.ModelProto:
    policy = CalibrationPolicy.from_dict(table.provenance.policy)
    return insert(model, plan(model, policy), table).proto


def means(proto: onnx.ModelProto, tensors: Sequence[str], batches: Sequence[Array]) -> Means:
    """The mean of each channel of some tensors."""
    found: Means = {}
    with load_engine(REFERENCE_ENGINE).build(exposed(proto, tensors), EngineOptions()) as built:
        for batch in batches:
            values = built.infer(batch)
            for name in tensors:
                part = values[name].astype(np.float64).mean(axis=(0, 2, 3)) / len(batches)
                found[name] = found[name] + part if name in found else part
    return found


def shifted(
    model: FloatModel, table: CalibrationTable, batches: Sequence[Array], in_order: bool
) -> FloatModel:
    """Biases moved by the difference of each output's mean."""
    policy = CalibrationPolicy.from_dict(table.provenance.policy)
    layers = [layer for layer, _ in rounded_layers(model, plan(model, policy))]
    nodes = nodes_by_name(model.proto.graph)
    outputs = {layer.name: nodes[layer.name].output[0] for layer in layers}
    wanted = means(model.proto, list(outputs.values()), batches)
    groups = [[name] for name in outputs] if in_order else [list(outputs)]
    now = model
    for names in groups:
        own = replace(table, provenance=replace(table.provenance, fingerprint=now.fingerprint))
        found = means(graph(now, own), [outputs[name] for name in names], batches)
        moves = {name: wanted[outputs[name]] - found[outputs[name]] for name in names}
        now = with_values(now, {}, moves)
    return now


def places(model: FloatModel, quantized: onnx.ModelProto, batches: Sequence[Array]) -> None:
    """Prints the mean shift of each head's objectness, anchor by anchor."""
    engine, options = load_engine(REFERENCE_ENGINE), EngineOptions()
    found = {name: [np.zeros(3), 0, np.zeros(3), 0] for name in model.output_names}
    with engine.build(model.proto, options) as before, engine.build(quantized, options) as after:
        for batch in batches:
            expected, changed = before.infer(batch), after.infer(batch)
            for name, sums in found.items():
                head, moved = (
                    v[name][0].reshape(3, -1, *v[name].shape[2:])[:, 4] for v in (expected, changed)
                )
                seen = (1 / (1 + np.exp(-head))).max(axis=0) > 0.2
                sums[0] += (moved - head).sum(axis=(1, 2))
                sums[1] += seen.size
                sums[2] += (moved - head)[:, seen].sum(axis=1)
                sums[3] += int(seen.sum())
    for name, (everywhere, count, there, few) in found.items():
        print(
            f"{name}: objectness moves by {(everywhere / count).round(2)} over {count} places, by "
            f"{(there / max(few, 1)).round(2)} over the {few} where something is seen"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--judge", action="append", default=[], metavar="COCO:SPLIT")
    parser.add_argument("--places", action="store_true", help="print where means move instead")
    parser.add_argument("--images", type=int, default=24, help="that the means are taken from")
    parser.add_argument("--every", type=int, default=1, help="judge on each so many-th image")
    given = parser.parse_args()
    model = load_model(given.model, given.weights)
    table = CalibrationTable.load(given.table)
    engine = load_engine(REFERENCE_ENGINE)
    chosen = CocoDataset.open(given.data, "train2017").select(given.images)
    source = Batches(chosen, model.preprocessing, 1)
    batches = list(source.inputs())
    if given.places:
        places(model, graph(model, table), batches)
        return
    correction = load_rewrite("bias-correction")
    dataset = pooled(given.judge)
    images = dataset.select()[:: given.every]
    gate = Gate(model, dataset, images, engine, for_console())
    before = gate.score(graph(model, table))
    print(
        f"{len(images)} images; calibrated: lost {estimate(Estimate.of(before.lost), 4)}, "
        f"mAP {estimate(Estimate.of(before.figure), 4)}",
        flush=True,
    )
    ways = {
        "own": lambda: correction.apply(model, table, source, engine).model,
        "quantized inputs": lambda: by_quantized_inputs(model, table, batches),
        "outputs, at once": lambda: shifted(model, table, batches, in_order=False),
        "outputs, in order": lambda: shifted(model, table, batches[:8], in_order=True),
    }
    for name, way in ways.items():
        new = way()
        own = replace(table, provenance=replace(table.provenance, fingerprint=new.fingerprint))
        found = gate.score(graph(new, own))
        print(
            f"{name}: lost {found.lost[0]:.4f}, "
            f"{estimate(Estimate.of(found.lost - before.lost), 4, '+')}; mAP "
            f"{estimate(Estimate.of(found.figure - before.figure), 4, '+')}",
            flush=True,
        )


def by_quantized_inputs(
    model: FloatModel, table: CalibrationTable, batches: Sequence[Array]
) -> FloatModel:
    """As `bias-correction`, the inputs' means from the quantized network."""
    policy = CalibrationPolicy.from_dict(table.provenance.policy)
    layers = rounded_layers(model, plan(model, policy))
    proto = graph(model, table)
    nodes = nodes_by_name(proto.graph)
    inputs = {layer.name: nodes[layer.name].input[0] for layer, _ in layers}
    seen = means(proto, list(dict.fromkeys(inputs.values())), batches)
    moves: Means = {}
    for layer, site in layers:
        weight = np.asarray(model.initializers[site.tensor], np.float64)
        scale = symmetric_scale(table.tensors[site.tensor], site.policy.code).astype(np.float64)
        shape = [-1 if axis == site.axis else 1 for axis in range(weight.ndim)]
        spread = scale.reshape(shape)
        error = weight - np.clip(np.rint(weight / spread), *codes_of(site.policy)) * spread
        mean = seen[inputs[layer.name]]
        groups = len(mean) // weight.shape[1]
        rows = error.sum(axis=(2, 3)).reshape(groups, -1, weight.shape[1])
        moves[layer.name] = np.einsum("gok,gk->go", rows, mean.reshape(groups, -1)).reshape(-1)
    return with_values(model, {}, moves)


if __name__ == "__main__":
    main()
