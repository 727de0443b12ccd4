"""The core imports no framework, knows no plugin by name, and its files stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "quantcore"
GROUPS = ("quantcore.models", "quantcore.backends", "quantcore.engines")

WALK = """
import importlib, pkgutil, sys
import quantcore
names = [m.name for m in pkgutil.walk_packages(quantcore.__path__, "quantcore.")]
for name in names:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except Exception as error:
        # The inside of an engine may need its library; nothing else may need anything.
        if not name.startswith("quantcore.engines.") or name.count(".") < 3:
            raise
print(len(names))
print(" ".join(m for m in %r if m in sys.modules))
"""


def imported(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.splitlines()


def test_importing_all_of_the_core_imports_no_framework() -> None:
    frameworks = ("torch", "paddle", "tensorrt", "onnxruntime", "pytorch_quantization", "modelopt")
    count, found = imported(WALK % (frameworks,))
    assert int(count) >= 40
    assert found == ""


def test_listing_plugins_imports_no_framework_no_compiler_and_no_test_runner() -> None:
    code = (
        "import sys\nimport quantcore.contracts.backend, quantcore.commands.cli\n"
        "from quantcore.contracts import registry\n"
        f"found = [i.name for g in {GROUPS!r} for i in registry.installed(g)]\n"
        "print(len(found))\n"
        "slow = ('torch', 'paddle', 'onnxruntime', 'numba', 'matplotlib', 'distributed',\n"
        "        'pytest', 'unittest.mock')\n"
        "print(' '.join(m for m in slow if m in sys.modules))"
    )
    count, found = imported(code)
    assert int(count) >= 1
    assert found == ""


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def compared(path: Path) -> list[tuple[int, str]]:
    """Every string constant that a file compares with, or matches against."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for item in ast.walk(tree):
        if isinstance(item, ast.Compare):
            operands = [item.left, *item.comparators]
        elif isinstance(item, ast.MatchValue):
            operands = [item.value]
        else:
            continue
        for operand in operands:
            found += [
                (item.lineno, leaf.value)
                for leaf in ast.walk(operand)
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
            ]
    return found


def test_the_core_asks_for_no_plugin_by_name() -> None:
    groups = (*GROUPS, "quantcore.decodings")
    names = {point.name for group in groups for point in metadata.entry_points(group=group)}
    # A fact about frameworks, not about plugins; and those that nobody has installed here.
    names |= {"pytorch-quantization", "paddle", "tensorrt", "onnxruntime", "modelopt", "yolov7"}
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in sources(CORE)
        if "engines" not in path.relative_to(CORE).parts
        for line, text in compared(path)
        if text in names
    ]
    assert hits == []


@pytest.mark.parametrize(
    "code", ['x == "paddle"', 'x in ("a", "paddle")', 'match x:\n case "paddle": pass']
)
def test_the_check_sees_such_comparisons(tmp_path: Path, code: str) -> None:
    path = tmp_path / "a.py"
    path.write_text(code)
    assert "paddle" in [text for _, text in compared(path)]


def library() -> list[Path]:
    folders = [CORE]
    folders += [*ROOT.glob("models/*/src"), *ROOT.glob("backends/*/src")]
    return [path for folder in folders for path in sources(folder)]


def test_files_stay_under_400_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in library()
    }
    assert len(lengths) > 50
    assert {name: n for name, n in lengths.items() if n >= 400} == {}


def test_every_file_says_in_its_first_line_what_it_is_for() -> None:
    silent = []
    for path in library():
        text = path.read_text(encoding="utf-8")
        if not ast.get_docstring(ast.parse(text)) or not text.startswith(('"""', "'''")):
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_package_of_ours_shadows_the_folders() -> None:
    # YOLOv7's own repository has a top-level package `models`.
    for folder in ("models", "backends", "plugins", "tests"):
        assert not (ROOT / folder / "__init__.py").exists()
