"""Pages from what studies left in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantcore.errors import UsageError
from quantcore.reading import parse_json, read_text
from quantcore.report.page import Page
from quantcore.report.pages import auto, comparison, layers, portability, training
from quantcore.showing import shown

#: Bytes of a study's JSON.
_MOST_BYTES = 1 << 28

_Render = Callable[[Mapping[str, Any], Path], Page]

#: By the name of its JSON file what a study writes, and its page.
STUDIES: Mapping[str, tuple[str, _Render]] = {
    "report.json": ("quantcore.report/1", comparison.page),
    "auto.json": ("quantcore.auto/1", lambda data, folder: auto.page(data, folder)),
    "portability.json": ("quantcore.portability/1", lambda data, folder: portability.page(data)),
    "mixed.json": ("quantcore.mixed/1", lambda data, folder: layers.mixed(data)),
    "sensitivity.json": ("quantcore.sensitivity/1", lambda data, folder: layers.sensitivity(data)),
    "training.json": ("quantcore.training/1", lambda data, folder: training.page(data)),
}


def pages_in(folder: Path) -> dict[Path, Page]:
    """The page of each study whose JSON lies in a folder, by where it is written.

    Raises:
        UsageError: There is none, or one that is not as this version writes it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found = {
        (folder / name).with_suffix(".html"): page_of(folder / name)
        for name in STUDIES
        if (folder / name).is_file()
    }
    if not found:
        raise UsageError(f"{folder}: none of {', '.join(STUDIES)} lies here")
    return found


def page_of(path: Path) -> Page:
    """The page of a study's JSON file.

    Raises:
        UsageError: It cannot be read, or is not as this version writes it.
    """
    kind, render = STUDIES[path.name]
    try:
        data = parse_json(read_text(path, _MOST_BYTES, UsageError))
        if data["format"] != kind:
            raise UsageError(f"its format is {shown(data['format'])}, this version writes {kind!r}")
        return render(data, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UsageError(
            f"{path}: not as this version of quantcore writes it ({type(error).__name__}: "
            f"{shown(str(error))}); run the study again"
        ) from None
