"""A real architecture: YOLOv7-tiny from the official checkpoint format."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from quantcore.analysis.agreement import audit, check_parity
from quantcore.calibration.driver import calibrate
from quantcore.contracts.model import ModelOptions
from quantcore.contracts.registry import load_engine, load_model
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.insertion import count_pairs, insert
from quantcore.qdq.placement import plan
from quantcore.table.table import CalibrationTable, Provenance


@pytest.mark.shared
def test_yolov7_tiny_from_checkpoint_to_audited_graph(shared, backend, run) -> None:
    pytest.importorskip("quantcore_yolo")
    weights = shared / "reference" / "yolov7-tiny.pt"
    model = load_model("yolov7-tiny").load(weights, ModelOptions(image_size=160))
    sites = plan(model, CalibrationPolicy(placement=MINIMAL))
    dataset = CocoDataset.open(shared / "data" / "coco-mini", "train2017")
    batches = Batches(dataset.select(4), model.preprocessing, 2).inputs()
    engine = load_engine("onnxruntime")
    with backend.open(model) as session:
        assert check_parity(session, engine) < 1e-4
        ranges = calibrate(session, sites, batches)
        table = CalibrationTable(ranges, Provenance(model.name, model.fingerprint, session.name))
        qdq = insert(model, sites, table)
        batch = next(iter(batches))
        found = audit(session.simulation(sites, ranges), qdq, sites, batch, engine)
    onnx.checker.check_model(qdq.proto, full_check=True)
    assert found.worst_db >= 50
    assert found.heads_db >= 50
    pairs = count_pairs(qdq.proto)
    assert pairs["weights"] == sum(bool(layer.weights) for layer in model.layers) == 58
    # Branches share their input, so there are fewer activations than convolutions.
    assert 0 < pairs["activations"] < pairs["weights"]
    decoded = run(qdq.proto, batch)
    assert all(np.isfinite(values).all() for values in decoded.values())
