"""What a comparison comes to, and how its terminal tables show that."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from quantcore.report import comparison
from quantcore.results.comparison import RunRecord, Variant
from quantcore.results.estimate import Estimate
from quantcore.results.verdict import Verdict, verdict

from .made_up import FLOATS, GOOD, SLOW, WHY, latency, variant


def judged(*variants: Variant) -> Verdict:
    return verdict(FLOATS, variants)


def test_the_fast_and_accurate_graph_is_deployed_and_the_slow_one_explained() -> None:
    found = judged(SLOW, GOOD)
    assert (found.deploy, found.file) == ("paddle on ov", "paddle.onnx")
    first, why = found.lines
    assert first.startswith("deploy paddle.onnx on ov: 20.0 ms become 10.0 ms, 2.0 times as fast")
    assert "4.0 times smaller" in first
    assert "mAP changes by -0.001 (-0.002 to +0.000), no more than noise" in first
    assert why.startswith("paddle on ort (2.00 times the float model's time): 4 of 4")
    assert WHY in why


def test_of_equally_fast_graphs_the_more_accurate_one_is_deployed() -> None:
    other = variant("ov", 10.1, "torch", 0.5, 0.41, 0.0, int8=4)
    assert judged(GOOD, other).deploy == "torch on ov"
    slower = variant("ov", 11.5, "torch", 0.5, 0.46, 0.0, int8=4)
    assert judged(GOOD, slower).deploy == "paddle on ov"


def test_the_float_model_is_deployed_where_nothing_is_faster() -> None:
    found = judged(SLOW)
    assert found.deploy == "float on ort"
    assert "no INT8 graph is faster" in found.lines[0]
    assert "paddle.onnx is 4.0 times smaller" in found.lines[0]


def test_int8_must_beat_the_float_model_on_its_best_engine() -> None:
    found = judged(variant("ov", 22.0, "paddle", 0.5, 0.88, 0.0, int8=4))
    assert found.deploy == "float on ort"
    assert "the float model gains more on ort" in found.lines[0]


def test_what_loses_too_much_is_not_deployed_and_the_way_out_is_told() -> None:
    found = judged(variant("ov", 10.0, "paddle", 0.45, 0.4, -0.05, int8=4))
    assert found.deploy == "float on ort"
    assert "loses more than 1%" in found.lines[0]
    assert "paddle on ov (10.0%)" in found.lines[-1]
    assert "--mixed" in found.lines[-1]


def test_an_uncertain_loss_is_called_uncertain() -> None:
    wide = replace(GOOD, difference=Estimate(-0.001, -0.02, 0.018))
    assert "100 images it is not certain" in judged(wide).lines[0]
    assert "not certain" not in judged(GOOD).lines[0]


def test_without_labels_and_without_latency_the_float_model_stays() -> None:
    blind = variant("ov", 10.0, "paddle", None, 0.4, None, int8=4)
    assert "without labels" in judged(blind).lines[0]
    untimed = replace(GOOD, latency_ratio=None)
    assert judged(untimed).deploy == "float on ort"


def test_int8_without_a_gain_tells_what_is_known_of_the_machine() -> None:
    found = judged(variant("ov", 25.0, "paddle", 0.5, 1.0, 0.0, int8=4, caveat="no VNNI"))
    assert "all 4 quantized layers run in INT8, which gains nothing" in found.lines[1]
    assert "no VNNI" in found.lines[1]


@pytest.fixture
def shown() -> str:
    names = ("pytorch-quantization", "paddle", "nncf")
    variants = [
        replace(good, backend=name, artifacts={"onnx": f"{name}.onnx"})
        for good in (SLOW, GOOD)
        for name in names
    ]
    variants[-1] = replace(
        variants[-1],
        evaluated=replace(variants[-1].evaluated, latency=latency(10.0, others=0.6)),
    )
    record = RunRecord(model="m", weights="w", data="d", floats=FLOATS, variants=tuple(variants))
    console = Console(width=100, record=True, file=io.StringIO())
    for table in comparison.tables(record):
        console.print(table)
    console.print(*comparison.notes(record))
    return console.export_text()


def test_six_variants_fit_a_terminal_of_a_hundred_columns(shown: str) -> None:
    assert "…" not in shown
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100
    rows = [line for line in lines if "to +" in line]
    assert len(rows) == 6, "a row each"
    assert rows[0].split()[:2] == ["pytorch-quantization", "0.499"]
    assert rows[5].split()[-3:] == ["4", "of", "4"]


def test_other_work_on_the_machine_is_told(shown: str) -> None:
    assert "other programs used up to 60% of this machine's cores" in " ".join(shown.split())
