"""What people copy from the pages works: commands and options exist, Python runs, links lead on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from onnx import TensorProto, helper

import quantcore
from quantcore.commands.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDS = typer.main.get_command(app)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: Pages whose Python is whole, not a piece of a plugin or of a longer program.
WHOLE = ("data.md", "deploy.md")


def commands(text: str) -> list[str]:
    """Lines that begin with `quantcore`, in blocks and between backticks."""
    blocks = "\n".join(body.replace("\\\n", " ") for _, body in BLOCK.findall(text))
    lines = [line.strip().removeprefix("$ ") for line in blocks.splitlines()]
    spans = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", BLOCK.sub("", text))
    found = [line.replace("\n", " ") for line in (*lines, *spans)]
    return [line for line in found if re.match(r"quantcore [a-z]", line)]


def unknown(line: str) -> str | None:
    """What of a command line `quantcore` does not know."""
    words, at = shlex.split(line.partition(" #")[0])[1:], COMMANDS
    while words and hasattr(at, "commands"):
        if (name := words.pop(0)) not in at.commands:
            return name
        at = at.commands[name]
    known = {option for parameter in at.params for option in parameter.opts} | {"--help"}
    given = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
    return next((option for option in given if option not in known), None)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name != "adr"],  # they tell what was thought of, too
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_and_options_exist(page: Path) -> None:
    wrong = {line: unknown(line) for line in commands(page.read_text(encoding="utf-8"))}
    assert {line: what for line, what in wrong.items() if what} == {}


def test_the_check_finds_what_is_wrong() -> None:
    assert unknown("quantcore frobnicate a") == "frobnicate"
    assert unknown("quantcore evaluate a --nonsense 3") == "--nonsense"
    assert unknown("quantcore backends check paddle") is None
    assert commands("`quantcore list`\n```sh\n$ quantcore data \\\n  x\n```\n") == [
        "quantcore data    x",
        "quantcore list",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_command_is_on_the_page_of_commands() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    assert set(COMMANDS.commands) - {line.split()[1] for line in commands(text)} == set()


def test_every_public_name_is_in_the_reference() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    told = {line.rpartition(".")[2] for page in pages for line in page.read_text().splitlines()}
    errors = {name for name in quantcore.__all__ if name.endswith("Error")}  # on a page of all
    assert set(quantcore.__all__) - told - errors == {"__version__"}


@pytest.mark.parametrize("name", WHOLE)
def test_python_of_the_pages_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "deploy.md":
        pytest.importorskip("openvino")
    shape = [1, 3, 640, 640]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["heads"])],
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("heads", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (tmp_path / "qdq.onnx").write_bytes(proto.SerializeToString())
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / name).read_text()
    blocks = [body for language, body in BLOCK.findall(text) if language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), {})
