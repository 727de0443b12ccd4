"""`compare --mixed`: one more variant of every backend, searched on the calibration images."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from quantcore_onnx import OnnxOptions

from quantcore.pipeline import load_model
from quantcore.policy.policy import CalibrationPolicy
from quantcore.studies.keep import quantized_layers

pytestmark = pytest.mark.usefixtures("in_process")

BACKEND = "pytorch-quantization"


def test_a_comparison_has_the_mixed_variant_too(
    cli: Callable[..., SimpleNamespace], squares: SimpleNamespace
) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    out = squares.root / "comparison"
    (squares.root / "minimal.yaml").write_text("{placement: minimal, images: 4}\n")
    minimal = ["--policy", squares.root / "minimal.yaml"]
    given = ["--data", squares.data, "--backend", BACKEND, "--out", out, *minimal]
    search = ["--mixed", "--top", 2, "--max-drop", 0.9]
    done = cli("compare", *squares.model, *given, *search, "--graphs", 3)
    assert done.code == 0, done.err
    assert "mean of similar graphs" in done.out
    assert "layers left in float" in done.out
    plain, mixed = json.loads((out / "report.json").read_text())["variants"]
    assert (plain["backend"], mixed["backend"]) == (BACKEND, BACKEND)
    assert plain["mixed"] is None
    assert (mixed["mixed"]["split"], mixed["mixed"]["images"]) == ("train2017", 4)
    assert mixed["mixed"]["max_drop"] == 0.9
    assert len(mixed["mixed"]["layers"]) == 2
    assert mixed["int8_share_of_macs"] < plain["int8_share_of_macs"]
    assert mixed["latency_ms"]["p50"] > 0
    assert mixed["map_difference"] is not None
    for variant in (plain, mixed):
        for file in variant["artifacts"].values():
            assert (out / file).stat().st_size > 0
        similar = variant["neighbours"]
        assert similar["differences"][0] == variant["map_difference"]["value"]
        assert len(similar["differences"]) == 3
        assert similar["mean"] == pytest.approx(sum(similar["differences"]) / 3)
    model = load_model("onnx", squares.weights, OnnxOptions(preset="yolox"))
    policy = CalibrationPolicy.load(out / mixed["artifacts"]["policy"])
    assert policy.to_dict() == mixed["policy"]
    everything = quantized_layers(model, CalibrationPolicy.from_dict(plain["policy"]))
    assert set(everything) - set(quantized_layers(model, policy)) == set(mixed["mixed"]["layers"])
    page = (out / "report.html").read_text()
    assert f"{BACKEND}, mixed on onnxruntime" in page
    assert "to lose at most 0.9 on 4 images of train2017: met" in page
    assert "Mean of similar graphs" in page


def test_images_without_labels_are_refused_before_any_work(
    cli: Callable[..., SimpleNamespace], squares: SimpleNamespace
) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    labels = squares.data / "annotations" / "instances_train2017.json"
    labels.write_text(json.dumps({**json.loads(labels.read_text()), "annotations": []}))
    out = squares.root / "comparison"
    given = ["--data", squares.data, "--backend", BACKEND, "--images", 4, "--out", out, "--mixed"]
    done = cli("compare", *squares.model, *given)
    assert done.code == 2
    assert "no labels" in done.err
    assert not (out / "float.onnx").exists()


@pytest.mark.parametrize("option", [("--top", 2), ("--max-drop", 0.01)])
def test_the_search_has_to_be_asked_for(
    cli: Callable[..., SimpleNamespace], squares: SimpleNamespace, option: tuple[str, float]
) -> None:
    given = ["--data", squares.data, "--backend", BACKEND, "--out", squares.root / "comparison"]
    done = cli("compare", *squares.model, *given, *option)
    assert done.code == 2
    assert "need --mixed" in done.err
