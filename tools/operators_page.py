"""Writes docs/operators.md from the tables of the backends in this repository.

python tools/operators_page.py           writes it
python tools/operators_page.py --check   fails where it is not current
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "operators.md"
#: Backend name -> the file that names its operators; each is read alone, without the framework.
TABLES = {
    "pytorch-quantization": "pytorch_quantization/src/quantcore_pytorch_quantization/supported.py",
    "paddle": "paddle/src/quantcore_paddle/supported.py",
}
INTRODUCTION = """\
# Operators

Written by `python tools/operators_page.py` from the backends' own tables; tests hold each entry to
ONNX Runtime, in float32 and in float64, on random forms of the operator (opsets 11 to 21).

What a table lacks is refused by the layer's name, unless no quantized layer needs it: the part of a
graph that lies behind the last observed tensor and begins with an operator that picks (`TopK`,
`NonMaxSuppression`, ...) or that the backend lacks is run by the engines alone. BatchNormalization,
Constant and Dropout are folded when a model is read. The backends that work on ONNX graphs
(ONNX Runtime, NNCF, Model Optimizer) take what ONNX Runtime runs.
"""


def operators(path: Path) -> Mapping[str, str]:
    """The table of a backend."""
    spec = importlib.util.spec_from_file_location(path.parent.name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table: Mapping[str, str] = module.OPERATORS
    return table


def page() -> str:
    """The text of docs/operators.md."""
    tables = {name: operators(ROOT / "backends" / path) for name, path in TABLES.items()}
    rows = [["operator", *tables], ["---"] * (len(tables) + 1)]
    for op in sorted({op for table in tables.values() for op in table}):
        cells = [_cell(table.get(op)) for table in tables.values()]
        rows.append([f"`{op}`", *cells])
    lines = ("| " + " | ".join(row) + " |" for row in rows)
    return INTRODUCTION + "\n" + "\n".join(lines) + "\n"


def _cell(restriction: str | None) -> str:
    if restriction is None:
        return "no"
    return f"yes: {restriction}" if restriction else "yes"


def main() -> None:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where the page is not current")
    if parser.parse_args().check:
        if not PAGE.is_file() or PAGE.read_text() != page():
            raise SystemExit(f"{PAGE.name} is not current; run python tools/operators_page.py")
        return
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
