"""The way of the data, stage by stage: model, calibration table, Q/DQ graph, evaluation."""

from quantcore.pipeline.calibrating import calibrate, calibrate_each
from quantcore.pipeline.evaluating import evaluate, neighbouring_figures, predictions
from quantcore.pipeline.graphs import (
    load_model,
    load_onnx,
    quantize,
    rewrite,
    save_model,
    save_qdq,
)
from quantcore.pipeline.settings import (
    CALIBRATION_SPLIT,
    EVALUATION_SPLIT,
    Calibrated,
    Chosen,
    Data,
    Evaluation,
)
from quantcore.pipeline.training import Trained, check_training, save_trained, train

__all__ = [
    "CALIBRATION_SPLIT",
    "EVALUATION_SPLIT",
    "Calibrated",
    "Chosen",
    "Data",
    "Evaluation",
    "Trained",
    "calibrate",
    "calibrate_each",
    "check_training",
    "evaluate",
    "load_model",
    "load_onnx",
    "neighbouring_figures",
    "predictions",
    "quantize",
    "rewrite",
    "save_model",
    "save_qdq",
    "save_trained",
    "train",
]
