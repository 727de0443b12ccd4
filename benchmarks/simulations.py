"""How far frameworks' simulations and the shared graph lie apart, and what float64 costs.

    python benchmarks/simulations.py MODEL --weights FILE --data COCO --backend A --backend B TABLE

One table is applied in each framework, in float32 and in float64, and given the same images.
Printed are SQNRs of the raw heads, end to end and without forcing any activation, against the first
framework and against the Q/DQ graph in onnx's reference evaluator in float64; once with the model's
weights, once with weights where their codes are (docs/adr/0007).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from quantcore.analysis.agreement import sqnr_db
from quantcore.commands.options import load_model
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.registry import load_backend
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.ir.model import Array, FloatModel
from quantcore.policy.policy import ARITHMETICS, CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import Plan, plan
from quantcore.table.table import CalibrationTable
from quantcore.testing.exact import in_float64, on_codes

Heads = dict[str, Array]


def simulated(
    backend: str, model: FloatModel, sites: Plan, table: CalibrationTable, images: list[Array]
) -> dict[str, tuple[list[Heads], float]]:
    """By arithmetic: the heads of each image, and seconds for the quickest."""
    found = {}
    for arithmetic in ARITHMETICS:
        options = SessionOptions(arithmetic=arithmetic)
        with (
            load_backend(backend).open(model, options) as session,
            session.simulation(sites, table.tensors) as simulation,
        ):
            simulation.infer(images[0])
            heads, seconds = [], []
            for image in images:
                began = time.perf_counter()
                heads.append(simulation.infer(image))
                seconds.append(time.perf_counter() - began)
            found[arithmetic] = heads, min(seconds)
    return found


def show(
    model: FloatModel, sites: Plan, table: CalibrationTable, backends: list[str], batch: list[Array]
) -> None:
    proto = insert(model, sites, table).proto
    graph = [in_float64(proto, image) for image in batch]
    found = {name: simulated(name, model, sites, table, batch) for name in backends}
    for name, by_arithmetic in found.items():
        for arithmetic, (heads, seconds) in by_arithmetic.items():
            line = f"{name} in {arithmetic}: graph {least(graph, heads)}"
            if name != backends[0]:
                line += f", {backends[0]} {least(found[backends[0]][arithmetic][0], heads)}"
            ratio = seconds / by_arithmetic["float32"][1]
            print(f"  {line}; {1000 * seconds:.0f} ms an image, {ratio:.1f}x float32", flush=True)


def least(reference: list[Heads], heads: list[Heads]) -> str:
    values = [sqnr_db(one, other) for one, other in zip(reference, heads, strict=True)]
    return "equal" if np.isinf(min(values)) else f"{min(values):.1f} dB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("table", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--backend", action="append", required=True)
    given = parser.parse_args()
    model = load_model(given.model, given.weights, preset=given.preset)
    table = CalibrationTable.load(given.table)
    sites = plan(model, CalibrationPolicy.from_dict(table.provenance.policy))
    chosen = CocoDataset.open(given.data, given.split).select(given.images)
    batch = list(Batches(chosen, model.preprocessing, 1).inputs())
    print(f"{model.name}, {given.table.name}, {len(batch)} images, the worst of them:")
    show(model, sites, table, given.backend, batch)
    moved, its_table = on_codes(model, sites, table)
    print("the same, every weight where its code is:")
    show(moved, sites, its_table, given.backend, batch)


if __name__ == "__main__":
    main()
