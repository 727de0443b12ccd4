"""The Python API: typed, lazy, and the README's block runs as it stands, wherever it is put."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import quantcore
from quantcore.errors import CheckpointError, DataError, PluginError, UsageError

ROOT = Path(__file__).parents[1]
BACKEND = "pytorch-quantization"
BLOCK = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_every_public_name_is_there_and_typed() -> None:
    source = (ROOT / "quantcore" / "__init__.py").read_text()
    for name in quantcore.__all__:
        assert getattr(quantcore, name) is not None
        if name != "__version__":
            assert re.search(rf"import {name} as {name}\n", source), "unknown to type checkers"
    assert set(quantcore.__all__) <= set(dir(quantcore))
    with pytest.raises(AttributeError, match="calibrat'"):
        quantcore.calibrat  # noqa: B018


def test_nothing_heavy_is_imported_until_it_is_used() -> None:
    code = "import sys, quantcore; print([m for m in ('numpy', 'onnx', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_functions_of_the_api_say_what_is_wrong() -> None:
    with pytest.raises(PluginError, match="did you mean 'yolov7-tiny'"):
        quantcore.load_model("yolov7-tny", "x.pt")
    with pytest.raises(CheckpointError, match=r"nowhere\.pt"):
        quantcore.load_model("yolov7-tiny", "nowhere.pt")
    with pytest.raises(UsageError, match="no option 'preset'; it takes: image_size"):
        quantcore.load_model("yolov7-tiny", "nowhere.pt", preset="yolox")
    model = quantcore.load_model(quantcore.demo().model, quantcore.demo().weights)
    with pytest.raises(DataError, match="no such data set folder"):
        quantcore.evaluate(model, None, "nowhere")


def test_images_in_memory_calibrate_as_a_data_set_does(
    squares: SimpleNamespace, tmp_path: Path
) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    model = quantcore.load_model("onnx", squares.weights, preset="yolox")
    policy = quantcore.CalibrationPolicy(images=4, batch_size=2)
    given = {"backend": BACKEND, "policy": policy}
    whole = quantcore.calibrate(model, squares.data, **given)
    ids = [int(i) for i in whole.table.provenance.image_ids]
    assert whole.model is model
    files = sorted((squares.data / "train2017").iterdir())
    by_id = dict(enumerate(files, 1))
    chosen = [by_id[i] for i in ids]
    arrays = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in chosen]
    for source in (chosen, arrays, iter(arrays)):
        found = quantcore.calibrate(model, source, **given)
        assert found.table.tensors == whole.table.tensors
        assert found.audit == whole.audit
        assert found.table.provenance.image_ids == (0, 1, 2, 3)
    qdq = quantcore.quantize(model, whole.table)
    quantcore.save_qdq(qdq, tmp_path / "qdq.onnx")
    quantcore.save_model(model, tmp_path / "float.onnx")
    again = quantcore.load_model("onnx", tmp_path / "float.onnx")
    assert again.fingerprint == model.fingerprint
    result = quantcore.evaluate(again, quantcore.load_onnx(tmp_path / "qdq.onnx"), squares.data)
    assert result.accuracy.main is not None


def test_a_generator_cannot_be_read_twice(squares: SimpleNamespace) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    model = quantcore.load_model("onnx", squares.weights, preset="yolox")
    images = (np.zeros((9, 9, 3), np.uint8) for _ in range(2))
    with pytest.raises(DataError, match="takes two passes"):
        quantcore.calibrate(model, images, backend="pytorch-quantization", keep_histograms=True)


COMPARES = """
import quantcore
demo = quantcore.demo()
model = quantcore.load_model(demo.model, demo.weights)
what = quantcore.Comparison(
    model=model,
    backends=("pytorch-quantization",),
    data=quantcore.Data(demo.data),
    out="out",
    policy=quantcore.CalibrationPolicy(images=2),
    engines=(quantcore.Evaluation(images=4, runs=3),),
)
print(len(quantcore.compare(what, say=print).variants), "variant")
"""


def run(code: str, way: str, folder: Path) -> str:
    """What a program prints as a script or from standard input; see also the notebook's test."""
    (folder / "script.py").write_text(code)
    words = [str(folder / "script.py")] if way == "script" else ["-"]
    done = subprocess.run(
        [sys.executable, *words],
        input=code if way == "stdin" else None,
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", ["script", "stdin"])
def test_the_block_of_the_readme_runs(way: str, tmp_path: Path) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    assert BLOCK is not None
    # As it stands once; where else it is put matters to how workers start, not to how much they do.
    code = BLOCK[1] if way == "script" else BLOCK[1].replace("images=32", "images=2")
    said = run(code, way, tmp_path)
    figure = r"0\.8\d\d" if way == "script" else r"[\d.]+"
    assert re.search(rf"float: mAP {figure}, [\d.]+ ms an image\nINT8: mAP \d", said), said


def test_a_comparison_needs_no_guard(tmp_path: Path) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")

    def result() -> dict:
        found = json.loads((tmp_path / "out" / "report.json").read_text())
        return {name: value for name, value in found.items() if name != "manifest"}

    said = run(COMPARES, "stdin", tmp_path)
    assert "nothing was computed" not in said
    assert said.endswith("1 variant\n")
    report = result()
    again = run(COMPARES, "stdin", tmp_path)
    assert "nothing was computed" in again, "a second equal comparison finds everything there"
    assert result() == report
    assert (tmp_path / "out" / "report.html").is_file()


def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("quantcore_paddle")
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.read(ROOT / "examples" / "two_frameworks.ipynb", as_version=4)
    client(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = ["".join(o.get("text", "") for o in c.get("outputs", ())) for c in notebook.cells]
    assert any("against float" in text for text in texts)
