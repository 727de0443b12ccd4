"""Help, former names of options, completion: what a person meets before anything is run."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import typer

from quantcore.commands.cli import app

Cli = Callable[..., SimpleNamespace]


def commands() -> list[tuple[str, typer.core.TyperCommand]]:
    group = typer.main.get_command(app)
    return [(name, command) for name, command in group.commands.items() if name != "backends"]


def test_flags_show_no_type_and_options_are_grouped(cli: Cli) -> None:
    told = cli("compare", "--help").out
    assert "<bool>" not in told
    places = [told.index(f"─ {panel} ─") for panel in ("Model", "Data", "Engine", "Output")]
    assert places == sorted(places)
    assert "<bool>" not in cli("--help").out
    assert "─ Stage by stage ─" in cli("--help").out


def test_an_option_has_one_name_in_every_command() -> None:
    for name, command in commands():
        options = {option for param in command.params for option in param.opts}
        if name != "data":  # it shows any split
            assert "--split" not in options, name
        if "--images" in options and name != "data":
            (images,) = (p for p in command.params if "--images" in p.opts)
            assert "valuate" not in (images.help or ""), name


@pytest.mark.parametrize("former", [["--split", "val2017"], ["--split=val2017"], ["--images", "3"]])
def test_former_names_still_work(
    cli: Cli, shared_squares: SimpleNamespace, former: list[str]
) -> None:
    done = cli("evaluate", *shared_squares.model, "--data", shared_squares.data, *former)
    assert done.code == 0, done.err
    assert ("3 images" if "--images" in former else "8 images") in done.out
    bad = cli("evaluate", *shared_squares.model, "--data", shared_squares.data, "--split", "nope")
    assert bad.code == 2
    assert "nope" in bad.err


def test_names_of_plugins_are_completed() -> None:
    asked = {"_QUANTCORE_COMPLETE": "complete_bash", "COMP_WORDS": "quantcore inspect --engine o"}
    command = [sys.executable, "-m", "quantcore"]
    environment = {**os.environ, **asked, "COMP_CWORD": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["onnxruntime", "openvino"]
