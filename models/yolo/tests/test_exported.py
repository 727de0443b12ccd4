"""Checkpoints that are read as ONNX files: refused by the family's name, without its classes."""

from __future__ import annotations

import pickle
import sys
import types
import zipfile
from pathlib import Path

import pytest
from quantcore_yolo import YoloPlugin

from quantcore.contracts.model import ModelOptions
from quantcore.errors import CheckpointError


class Classes:
    """Makes instances of classes by their path, as a pickle of another project names them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch

    def __call__(self, path: str, **modules: object) -> object:
        module, _, name = path.rpartition(".")
        parts = module.split(".")
        for i in range(len(parts)):
            package = ".".join(parts[: i + 1])
            if package not in sys.modules:
                self.patch.setitem(sys.modules, package, types.ModuleType(package))
        home = sys.modules[module]
        if not hasattr(home, name):
            setattr(home, name, type(name, (), {"__module__": module, "__qualname__": name}))
        found = getattr(home, name)()
        found._modules = modules
        return found


def saved(path: Path, model: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("best/data.pkl", pickle.dumps({"epoch": -1, "model": model}, protocol=2))
    return path


BLOCK, HEAD = "ultralytics.nn.modules.block", "ultralytics.nn.modules.head"


@pytest.mark.parametrize(
    ("blocks", "head", "branches", "family"),
    [
        (["C2f", "SPPF"], "Detect", [], "YOLOv8"),
        (["RepNCSPELAN4", "ADown"], "Detect", [], "YOLOv9"),
        (["C2f", "SCDown", "C2fCIB"], "v10Detect", ["one2one_cv2"], "YOLOv10"),
        (["C3k2", "C2PSA"], "Detect", [], "YOLO11"),
        (["C3k2", "C2PSA"], "Detect", ["one2one_cv2"], "YOLO26"),
        (["C3k2", "A2C2f"], "Detect", [], "YOLO12"),
        (["C3", "SPPF"], "Detect", [], "model of Ultralytics"),
    ],
)
@pytest.mark.parametrize("yaml", [None, {"nc": 80}])
def test_the_family_and_its_export_are_named(
    blocks, head, branches, family, yaml, tmp_path, monkeypatch
):
    make = Classes(monkeypatch)
    layers = {str(i): make(f"{BLOCK}.{name}") for i, name in enumerate(blocks)}
    inner = {name: make(f"{BLOCK}.Conv") for name in ["cv2", *branches]}
    layers["22"] = make(f"{HEAD}.{head}", **inner)
    sequence = make("ultralytics.nn.tasks.Sequential", **layers)
    model = make("ultralytics.nn.tasks.DetectionModel", model=sequence)
    if yaml is not None:
        model.yaml = yaml
    path = saved(tmp_path / "best.pt", model)
    with pytest.raises(CheckpointError) as caught:
        YoloPlugin("yolov5n").load(path, ModelOptions())
    assert str(caught.value) == (
        f"{path}: holds a {family}, which is read as an ONNX file; export it with `yolo export "
        "model=best.pt format=onnx opset=17` and give that to model onnx"
    )


def test_the_repository_of_yolov9_exports_by_a_script_of_its_own(tmp_path, monkeypatch):
    make = Classes(monkeypatch)
    model = make("models.yolo.DetectionModel", model=make("models.common.RepNCSPELAN4"))
    path = saved(tmp_path / "gelan.pt", model)
    with pytest.raises(CheckpointError, match=r"holds a YOLOv9.*`python export\.py --weights gel"):
        YoloPlugin("yolov7").load(path, ModelOptions())


def test_a_model_that_holds_itself_ends(tmp_path, monkeypatch):
    make = Classes(monkeypatch)
    model = make("ultralytics.nn.tasks.DetectionModel")
    model._modules["again"] = model
    with pytest.raises(CheckpointError, match="holds a model of Ultralytics"):
        YoloPlugin("yolov5n").load(saved(tmp_path / "m.pt", model), ModelOptions())
