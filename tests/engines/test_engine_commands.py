"""`build` and `inspect`, and how engines that are missing are listed."""

from __future__ import annotations

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from quantcore.commands import engines
from quantcore.commands.options import engine_options
from quantcore.contracts import registry
from quantcore.engines.onnxruntime import OnnxRuntimeOptions
from quantcore.engines.openvino import OpenVinoOptions
from quantcore.errors import EngineError, UsageError

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def call():
    app = typer.Typer()
    app.command("build")(engines.build)
    app.command("inspect")(engines.inspect)

    def run(*arguments: object):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.fixture
def graph(qdq, joined, tmp_path):
    path = tmp_path / "qdq.onnx"
    path.write_bytes(qdq(joined).SerializeToString())
    return path


def test_inspect_shows_every_quantized_layer(call, graph) -> None:
    out = call("inspect", graph, "--engine", "onnxruntime")
    assert "left" in out
    assert "fp32" in out
    assert out.rstrip().endswith("0 of 3 quantized layers run in INT8")


def test_inspect_as_json(call, graph) -> None:
    found = json.loads(call("inspect", graph, "--engine", "onnxruntime", "--json"))
    assert found["engine"] == "onnxruntime"
    assert [layer["node"] for layer in found["layers"]] == ["left", "right", "last"]
    assert found["verified"]


def test_inspect_refuses_unknown_providers(call, graph) -> None:
    with pytest.raises(EngineError, match="Nonsense"):
        call("inspect", graph, "--engine", "onnxruntime", "--provider", "Nonsense")


def test_build_writes_file_and_manifest(call, graph, tmp_path) -> None:
    out = tmp_path / "plan.onnx"
    said = call("build", graph, "--engine", "onnxruntime", "--out", out)
    assert "0 of 3 quantized layers run in INT8" in said
    manifest = json.loads((tmp_path / "plan.onnx.manifest.json").read_text())
    assert manifest["engine"] == "onnxruntime"
    assert manifest["plan"] == "plan.onnx"
    assert len(manifest["onnx_sha256"]) == 64


@pytest.mark.parametrize(
    ("engine", "requirement"), [("openvino", "openvino"), ("tensorrt", "tensorrt-rtx-cu13")]
)
def test_engines_that_are_missing_tell_how_to_install(engine, requirement) -> None:
    info = next(i for i in registry.installed(registry.ENGINES) if i.name == engine)
    if info.unavailable is None:
        registry.load_engine(engine)
    else:
        assert "pip install" in info.unavailable
        assert requirement in info.unavailable


@pytest.fixture
def evaluate(cli, squares):
    """Evaluates the squares on all images with further arguments."""

    def run(*arguments: object):
        return cli("evaluate", *squares.model, "--data", squares.data, *arguments)

    return run


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_plan_is_evaluated_as_its_graph_is(cli, evaluate, squares, engine) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    plan, found = squares.root / "squares.plan", {}
    assert cli("build", squares.weights, "--engine", engine, "--out", plan).code == 0
    for how in (["--plan", plan], ["--onnx", squares.weights]):
        out = squares.root / "result.json"
        done = evaluate(*how, "--engine", engine, "--out", out)
        assert done.code == 0, done.err
        found[how[0]] = json.loads(out.read_text())
    assert found["--plan"]["map"] == found["--onnx"]["map"] > 0.95
    assert found["--plan"]["plan"] == str(plan)
    assert found["--plan"]["onnx"] is None
    assert found["--plan"]["runs_on"] == found["--onnx"]["runs_on"] != ""
    assert found["--plan"]["latency_device_p50_ms"] is None


def test_a_plan_for_another_engine_is_refused(cli, evaluate, squares) -> None:
    plan = squares.root / "squares.plan"
    cli("build", squares.weights, "--engine", "onnxruntime", "--out", plan)
    pytest.importorskip("openvino")
    done = evaluate("--plan", plan, "--engine", "openvino")
    assert done.code == 2
    assert "was built by engine 'onnxruntime'; use --engine onnxruntime" in done.err
    done = evaluate("--plan", plan, "--onnx", squares.weights)
    assert done.code == 2
    assert "not both" in done.err


def test_the_provider_that_ran_is_told(evaluate) -> None:
    done = evaluate("--provider", "CPUExecutionProvider", "--images", 2)
    assert done.code == 0, done.err
    assert re.search(r"runs on\W+CPUExecutionProvider", done.out)


def test_a_provider_that_is_not_there_is_refused(cli, evaluate, squares) -> None:
    plan = squares.root / "squares.plan"
    build = ("build", squares.weights, "--engine", "onnxruntime", "--out", plan)
    for done in (evaluate("--provider", "Nonsense"), cli(*build, "--provider", "Nonsense")):
        assert done.code == 2
        assert "no execution provider 'Nonsense' here; available: " in done.err
        assert "CPUExecutionProvider" in done.err
    assert not plan.exists()


def test_compare_gives_providers_to_the_engines_that_have_them(cli, squares) -> None:
    if "onnxruntime" not in {info.name for info in registry.installed(registry.BACKENDS)}:
        pytest.skip("needs plugins/onnxruntime")
    pytest.importorskip("openvino")
    out = squares.root / "compared"
    words = ("compare", *squares.model, "--data", squares.data, "--backend", "onnxruntime")
    words = (*words, "--out", out, "--images", 2, "--eval-images", 2, "--engine", "openvino")
    done = cli(*words, "--provider", "CPUExecutionProvider")
    assert done.code == 2
    assert "--provider: openvino has no option 'providers'" in done.err
    done = cli(*words, "--engine", "onnxruntime", "--provider", "Nonsense")
    assert done.code == 2
    assert "no execution provider 'Nonsense'" in done.err
    assert list(out.iterdir()) == []
    done = cli(*words, "--engine", "onnxruntime", "--provider", "CPUExecutionProvider")
    assert done.code == 0, done.err
    report = json.loads((out / "report.json").read_text())
    assert [v["runs_on"] for v in report["floats"]] == ["CPU", "CPUExecutionProvider"]
    assert "CPUExecutionProvider" in (out / "report.html").read_text()


def test_short_forms_and_options_by_name_are_the_same(cli, graph, tmp_path) -> None:
    short = ["--threads", 1, "--provider", "CPUExecutionProvider", "--max-batch", 2]
    named = ["threads=1", "providers=CPUExecutionProvider", "onnxruntime.max-batch=2"]
    long = [word for option in named for word in ("--engine-option", option)]
    manifests = []
    for number, words in enumerate((short, long)):
        out = tmp_path / f"{number}.plan"
        done = cli("build", graph, "--engine", "onnxruntime", "--out", out, *words)
        assert done.code == 0, done.err
        manifests.append(json.loads(out.with_name(f"{out.name}.manifest.json").read_text()))
    assert manifests[0]["options"] == manifests[1]["options"]
    assert manifests[0]["options"] == {
        "threads": 1,
        "max_batch": 2,
        "exact": False,
        "shared_memory": False,
        "counters": False,
        "providers": ["CPUExecutionProvider"],
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine-option", "thread=2"], "(did you mean 'threads'?); onnxruntime takes: threads"),
        (["--engine-option", "openvino.threads=2"], "'openvino' is none of the chosen engines"),
        (["--engine-option", "threads"], "is written NAME=VALUE, not 'threads'"),
        (["--engine-option", "threads=0"], "engine 'onnxruntime': option threads: expected `int`"),
        (["--threads", 1, "--engine-option", "threads=2"], "'threads' is given twice"),
        (["--engine-option", "exact=true"], "no option 'exact'"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(cli, graph, words, said) -> None:
    done = cli("inspect", graph, "--engine", "onnxruntime", *words)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_an_option_goes_to_the_engines_that_have_it() -> None:
    pytest.importorskip("openvino")
    found = engine_options(
        ["onnxruntime", "openvino"],
        ["openvino.threads=2", "providers=CPUExecutionProvider"],
        max_batch=4,
    )
    assert found["onnxruntime"] == OnnxRuntimeOptions(
        max_batch=4, providers=("CPUExecutionProvider",)
    )
    assert found["openvino"] == OpenVinoOptions(max_batch=4, threads=2)
    with pytest.raises(UsageError, match="--target: onnxruntime, openvino has no option 'target'"):
        engine_options(["onnxruntime", "openvino"], target="SM86")


def test_options_of_an_engine_are_listed(cli) -> None:
    done = cli("list", "--options", "onnxruntime", "--json")
    assert done.code == 0, done.err
    infos = json.loads(done.out)["engines"]
    assert [info["name"] for info in infos] == ["threads", "max_batch", "providers"]
    assert [info["repeats"] for info in infos] == [False, False, True]
    assert all(info["help"] for info in infos)
    shown = cli("list", "--options", "onnxruntime")
    assert "engines: onnxruntime" in shown.out
    assert "providers" in shown.out
    done = cli("list", "--options", "nothing")
    assert done.code == 2
    assert "no engine, rewrite or executor is called 'nothing'; installed: " in done.err
