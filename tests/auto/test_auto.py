"""The climb from end to end on a small detector, and the command around it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from quantcore_onnx import OnnxOptions

import quantcore
from quantcore.data.opening import open_dataset
from quantcore.errors import DataError, UsageError
from quantcore.ir.edits import with_constants
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Data, load_model
from quantcore.runtime import executor
from quantcore.runtime.notes import Note, gathered
from quantcore.studies.auto import climb, ending, judging
from quantcore.studies.auto.attempt import Attempt
from quantcore.studies.auto.ladder import Ladder
from quantcore.studies.auto.parts import divided, to_judge
from quantcore.studies.auto.settings import AutoStudy
from quantcore.studies.auto.timing import structure
from quantcore.training import result

BACKEND = "pytorch-quantization"


@pytest.fixture(autouse=True)
def few_turns(in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short last look."""
    pytest.importorskip("quantcore_pytorch_quantization")
    monkeypatch.setattr(ending, "LAST_TURNS", 5)


@pytest.fixture
def model(squares: SimpleNamespace) -> FloatModel:
    return load_model("onnx", squares.weights, OnnxOptions(preset="yolox"))


def test_the_first_recipe_that_meets_both_is_taken(
    cli: Callable[..., SimpleNamespace],
    squares: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[str] = []

    class Watched(judging.Judge):
        def __init__(self, model, dataset, *rest) -> None:
            looked_at.append(dataset.source.stem)
            super().__init__(model, dataset, *rest)

    for module in (climb, ending):
        monkeypatch.setattr(module, "Judge", Watched)
    out = squares.root / "auto"
    asked = ["--max-drop", 0.9, "--min-speedup", 0.001, "--backend", BACKEND, "--graphs", 2]
    given = ["auto", *squares.model, "--data", squares.data, "--out", out, *asked]
    done = cli(*given, "--observer", "max", "--placement", "minimal")
    assert done.code == 0, done.out + done.err
    assert "images that nothing was chosen on" in done.out
    assert "images are few for a drop of" not in done.out
    # The evaluation split is opened for a single judge, the last one.
    assert looked_at == ["instances_train2017", "instances_val2017"]
    report = json.loads((out / "auto.json").read_text())
    assert report["met"] is True
    assert {entry["rung"] for entry in report["tried"]} == {"observers"}
    ids = report["images"]["calibrating"], report["images"]["choosing"]
    assert [len(part) for part in ids] == [3, 3]
    assert not set(ids[0]) & set(ids[1])
    table = quantcore.CalibrationTable.load(out / "table.json")
    # What is delivered is made again with the images that chose, too, and so says the verdict.
    assert list(table.provenance.image_ids) == sorted([*ids[0], *ids[1]])
    assert report["images"]["delivered"] == list(table.provenance.image_ids)
    assert any("calibrated anew on all 6 images" in line for line in report["verdict"])
    for file in report["artifacts"].values():
        assert (out / file).stat().st_size > 0
    # What is written is what was judged.
    read = load_model("onnx", out / "float.onnx", OnnxOptions())
    made = quantcore.quantize(read, table)
    assert made.proto == quantcore.load_onnx(out / "qdq.onnx")
    again = cli(*given, "--observer", "max", "--placement", "minimal")
    assert "nothing was computed" in again.out
    assert json.loads((out / "auto.json").read_text())["tried"] == report["tried"]


@pytest.fixture
def unsure(model: FloatModel) -> FloatModel:
    """The detector with scores far from 0 and 1, which coarse codes move."""
    weights = {name: model.initializers[name] for name in ("head.w", "head.bias")}
    return replace(
        model, proto=with_constants(model.proto, {n: w * 0.1 for n, w in weights.items()})
    )


def test_every_rung_is_climbed_before_the_search_gives_up(
    squares: SimpleNamespace, unsure: FloatModel
) -> None:
    lines: list[str] = []
    what = AutoStudy(
        model=unsure,
        data=Data(squares.data),
        out=squares.root / "auto",
        backends=(BACKEND,),
        max_drop=0.0,
        min_speedup=0.001,
        observers=(quantcore.TensorPolicy("max"),),
        placements=(quantcore.Profile.read("minimal"), quantcore.Profile.read("onnxruntime")),
        policy=quantcore.CalibrationPolicy.from_dict(
            {"activations": {"bits": 2}, "weights": {"bits": 2}}
        ),
        without=frozenset({"qat"}),
        graphs=2,
    )
    record = climb.auto(what, say=lines.append)
    rungs = list(dict.fromkeys(tried.rung for tried in record.tried))
    assert rungs == ["observers", "placement", "equalize", "mixed", "rounding"]
    assert record.skipped == {"qat": "left out as asked"}
    assert not record.best.accurate
    assert all(tried.fast for tried in record.tried)
    least = min(record.tried, key=lambda tried: tried.belief.drop)
    assert record.best.belief.drop == least.belief.drop
    assert record.evidence.scores is not None
    assert record.evidence.layers is not None
    found = json.loads((what.out / "auto.json").read_text())
    assert found["scores"]["variants"][0]["variant"] == "float"
    assert found["manifest"]["data_sha256"]
    assert "Scores as they are deployed" in (what.out / "auto.html").read_text()
    if not record.met:
        assert record.verdict[0].startswith("NOT met: ")
        assert any("what could help: the rung qat (left out as asked)" in v for v in record.verdict)


def test_a_recipe_is_made_again_with_all_images(
    squares: SimpleNamespace, model: FloatModel
) -> None:
    what = AutoStudy(
        model=model,
        data=Data(squares.data),
        out=squares.root / "auto",
        backends=(BACKEND,),
        observers=(quantcore.TensorPolicy("mse"),),
        steps=1,
    )
    parts = divided(what.data, what.choosing, what.seed)

    def climbed(ladder: Ladder) -> list[Attempt]:
        equalized = ladder.attempts("equalize", lambda _: {}, None, False)[0]
        start = equalized.leaving("mixed", ["head.32"])
        return ladder.attempts("rounding", lambda _: {}, start, True)

    said: list[str] = []
    with executor.kept_in(what.out) as runtime:
        some, whole = (Ladder(what, p, runtime, said.append) for p in (parts, parts.whole))
        chosen, expected = climbed(some), climbed(whole)
        made = [whole.anew(attempt) for attempt in chosen]
        (trained,) = some.attempts("qat", lambda _: {}, chosen[1], True)
        assert whole.anew(trained) is trained
    assert not any("left out" in line for line in said)
    assert [a.done[-1] for a in made] == ["bias-correction", "gptq"]
    # Held to the rounded weights, a training would keep what rounding them has lost.
    assert chosen[1].teacher is not None
    (told,) = (e.value for e in trained.model.proto.metadata_props if e.key == result.KEY)
    assert json.loads(told)["teacher"] == chosen[1].teacher.fingerprint
    assert chosen[1].teacher.fingerprint != chosen[1].model.fingerprint
    for old, new, as_if in zip(chosen, made, expected, strict=True):
        assert (new.name, new.rung) == (old.name, old.rung) == (as_if.name, as_if.rung)
        assert len(old.table.provenance.image_ids) == 3
        assert len(new.table.provenance.image_ids) == 6
        assert new.table.tensors == as_if.table.tensors
        assert new.model.fingerprint == as_if.model.fingerprint != old.model.fingerprint


def test_a_target_of_speed_that_nothing_meets(
    cli: Callable[..., SimpleNamespace], squares: SimpleNamespace
) -> None:
    out = squares.root / "auto"
    asked = [
        "--max-drop",
        0.9,
        "--min-speedup",
        1000,
        "--backend",
        BACKEND,
        "--graphs",
        1,
        "--no-refit",
    ]
    given = [*squares.model, "--data", squares.data, "--out", out, "--without", "equalize"]
    done = cli("auto", *given, *asked, "--observer", "max")
    assert done.code == 1, done.err
    assert "asked were 1000" in done.out
    assert "not in INT8: " in done.out
    report = json.loads((out / "auto.json").read_text())
    assert "makes nothing faster" in report["skipped"]["qat"]
    assert report["images"]["delivered"] == report["images"]["calibrating"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--without", "magic"], "no rung magic"),
        (["--budget", "soon"], "--budget is a time such as"),
        (["--min-speedup", 0], "--min-speedup must be above 0"),
        (["--choosing", 0.01], "cannot be divided"),
        (["--images", 3], "3 images cannot be divided"),
        (["--observer", "percentile=high"], "is no number"),
        (["--rival", "FP4"], "they do in FP32"),
        (["--backend", "onnxruntime"], "shows its activations"),
    ],
)
def test_wishes_that_make_no_sense_are_refused_in_one_line(
    cli: Callable[..., SimpleNamespace], squares: SimpleNamespace, options: list, says: str
) -> None:
    given = [*squares.model, "--data", squares.data, "--out", squares.root / "auto"]
    backend = [] if "--backend" in options else ["--backend", BACKEND]
    done = cli("auto", *given, *backend, *options)
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_the_division_is_seeded(squares: SimpleNamespace) -> None:
    first, same, other = (divided(Data(squares.data), 0.5, seed) for seed in (0, 0, 1))
    assert first == same
    assert first.choosing != other.choosing
    assert {*first.calibrating, *first.choosing} == set(first.dataset.images)
    with pytest.raises(DataError, match="cannot be divided"):
        divided(Data(squares.data), 0.9, 0)


def test_of_a_large_split_a_draw_takes_part(squares: SimpleNamespace) -> None:
    with pytest.warns(Note, match="4 of the 6 images of train2017 take part; --images"):
        parts, other = (divided(Data(squares.data), 0.5, seed, 4) for seed in (0, 1))
    assert (len(parts.calibrating), len(parts.choosing)) == (2, 2)
    drawn = {*parts.calibrating, *parts.choosing}
    assert drawn != {*other.calibrating, *other.choosing}
    # What is delivered is calibrated on these again, in the data set's order, and on no other.
    assert parts.whole.calibrating == tuple(i for i in parts.dataset.images if i in drawn)
    with gathered() as notes:
        assert divided(Data(squares.data), 0.5, 0, 7) == divided(Data(squares.data), 0.5, 0)
    assert not notes


def test_no_image_judges_what_was_chosen_on_it(squares: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is left to judge a choice by"):
        to_judge(Data(squares.data, "train2017", "train2017"))
    apart = Data(squares.data)
    whole = open_dataset(squares.data, "val2017").select()
    assert to_judge(apart)[1] == whole
    # The first images of the calibration split are judged on as well.
    lists = {"train": squares.data / "train2017", "val": tmp_path / "val.txt"}
    train = sorted(lists["train"].iterdir())
    files = [*train[:2], *(image.path for image in whole)]
    lists["val"].write_text("\n".join(map(str, files)))
    about = {name: str(path) for name, path in lists.items()}
    (tmp_path / "data.yaml").write_text(json.dumps({**about, "names": ["square"]}))
    _, own = to_judge(Data(tmp_path / "data.yaml", "train", "val"))
    assert [image.path for image in own] == [image.path for image in whole]


def test_structures_are_equal_where_only_values_differ(net: FloatModel, table) -> None:
    from quantcore.qdq.insertion import insert
    from quantcore.qdq.placement import plan

    sites = plan(net, quantcore.CalibrationPolicy(placement=quantcore.Profile.read("minimal")))
    one, other = (insert(net, sites, table(net, sites, amax={"t1": a})).proto for a in (1, 3))
    assert one != other
    assert structure(one) == structure(other)
    assert structure(one) != structure(net.proto)


def test_nothing_is_asked_that_cannot_be(model: FloatModel, squares: SimpleNamespace) -> None:
    about = {"model": model, "data": Data(squares.data), "out": squares.root, "backends": ("x",)}
    for wrong in (
        {"max_drop": 1.0},
        {"confidence": 0.2},
        {"graphs": 0},
        {"budget": 0.0},
        {"backends": ()},
    ):
        with pytest.raises(UsageError):
            AutoStudy(**{**about, **wrong})
