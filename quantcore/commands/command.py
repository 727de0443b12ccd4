"""How every command takes and shows its options: by purpose, under one name each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from quantcore.contracts import registry

#: What an option is about, in the order of the help; the rest is the command's own.
PANELS: Mapping[str, tuple[str, ...]] = {
    "Model": ("weights", "size", "preset", "model_option"),
    "Data": ("data", "calibration_split", "evaluation_split", "images", "eval_images"),
    "Calibration": ("policy", "placement", "backend", "device", "precision", "table"),
    "Engine": (
        "engine", "provider", "engine_option", "threads", "batch_size", "max_batch", "target",
        "timing_cache",
    ),
    "More graphs": (
        "equalize", "rewrite", "correct", "qat", "recipe", "teacher", "graphs", "mixed", "max_drop",
        "top",
    ),
    "Where it is done": ("executor", "scheduler", "executor_option", "workers"),
    "Output": ("out", "json", "format", "plot", "against"),
}  # fmt: skip

_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}

#: Names that options had in some commands, and what they are called in all.
_FORMER: Mapping[str, tuple[str, ...]] = {
    "--split": ("--evaluation-split", "--calibration-split"),
    "--images": ("--eval-images",),
}


class _Plain:
    """Shows flags without a value's type, for they take none."""

    params: list[Any]

    def get_help_option(self, ctx: Any) -> Any:
        """As Click makes it."""
        found = super().get_help_option(ctx)  # type: ignore[misc]
        _without_value(found)
        return found

    def bare_flags(self) -> None:
        """Takes the types off the flags."""
        for param in self.params:
            _without_value(param)


def _without_value(param: Any) -> None:
    if getattr(param, "is_flag", False) and param.metavar is None:
        param.metavar = ""


class Group(_Plain, TyperGroup):
    """A command of commands."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.bare_flags()

    def get_params(self, ctx: Any) -> list[Any]:
        """As Click makes them; Typer adds completion late."""
        found = super().get_params(ctx)
        for param in found:
            _without_value(param)
        return found


class Command(_Plain, TyperCommand):
    """A command whose help is grouped by purpose, and that knows the former names of options."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for param in self.params:
            long = next((name[2:] for name in param.opts if name.startswith("--")), None)
            if long is None:
                continue
            panel = _PANEL_OF.get(long.replace("-", "_"))
            if panel and getattr(param, "rich_help_panel", None) is None:
                param.rich_help_panel = panel
        self.bare_flags()
        order = [None, *PANELS]
        self.params.sort(key=lambda param: order.index(getattr(param, "rich_help_panel", None)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words of a command line."""
        known = {name for param in self.params for name in param.opts}
        return super().parse_args(ctx, [_renamed(word, known) for word in args])


def _renamed(word: str, known: set[str]) -> str:
    """A word, an option's former name replaced where this command has only the present one."""
    name, equals, value = word.partition("=")
    if name in known:
        return word
    present = next((new for new in _FORMER.get(name, ()) if new in known), name)
    return f"{present}{equals}{value}"


def add(app: typer.Typer, panel: str, name: str, function: Callable[..., None]) -> None:
    """Registers a command under a heading of the list of commands."""
    app.command(name, cls=Command, rich_help_panel=panel)(function)


def names_of(group: str) -> Callable[[str], list[str]]:
    """Completes the name of a plugin; reads metadata alone."""

    def complete(incomplete: str) -> list[str]:
        names = [info.name for info in registry.installed(group)]
        return [name for name in names if name.startswith(incomplete)]

    return complete
