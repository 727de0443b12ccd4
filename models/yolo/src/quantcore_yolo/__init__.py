"""Model plugins for YOLOv5 and YOLOv7: from a checkpoint to a float ONNX graph, without torch."""

from quantcore_yolo.checkpoint import Checkpoint, read_checkpoint
from quantcore_yolo.plugin import YoloPlugin

__all__ = ["Checkpoint", "YoloPlugin", "read_checkpoint"]
