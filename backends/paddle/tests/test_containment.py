"""What Paddle may not do to the process that merely has it as a backend."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

OPEN = """
import logging, os, signal, sys, warnings
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
BLOCK = {block!r}
if BLOCK:
    sys.modules[BLOCK] = None
from quantcore.contracts import registry
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.ir.model import FloatModel, Preprocessing
plugin = registry.load_backend("paddle")
assert "paddle" not in sys.modules and "quantcore_paddle.plugin" in sys.modules
plugin.versions(), plugin.capabilities
signal.signal(signal.SIGTERM, on_term := lambda *_: sys.exit(7))
before = (logging.getLogger().handlers[:], logging.getLogger().level, dict(os.environ))
weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
node = helper.make_node("Conv", ["images", "w"], ["y"], name="m")
info = helper.make_tensor_value_info
graph = helper.make_graph(
    [node], "g", [info("images", TensorProto.FLOAT, ["b", 3, 4, 4])],
    [info("y", TensorProto.FLOAT, ["b", 2, 4, 4])], [weight])
proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model = FloatModel("x", proto, Preprocessing((4, 4)), DecodedBoxes(), ("a",))
with plugin.open(model) as session:
    head = session.forward(np.ones((1, 3, 4, 4), np.float32))["y"]
assert (head == 3).all()
environment = {{k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}}
assert environment == {{k: v for k, v in before[2].items() if k != "LD_LIBRARY_PATH"}}
assert (logging.getLogger().handlers, logging.getLogger().level) == before[:2]
assert signal.getsignal(signal.SIGTERM) is on_term
{then}
os.kill(os.getpid(), signal.SIGTERM)
"""

RAW = """
import logging, os
os.environ.pop("OMP_NUM_THREADS", None)
before = len(logging.getLogger().handlers)
import paddle
print(len(logging.getLogger().handlers) - before, logging.getLogger().level,
      os.environ.get("OMP_NUM_THREADS"))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_plugin_imports_no_paddle_and_its_use_needs_no_torch_and_leaves_no_trace():
    done = run(OPEN.format(block="torch", then=""))
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("first", [True, False])
def test_it_works_in_one_process_with_torch(first):
    line = "import torch; assert torch.ones(2).sum() == 2"
    code = OPEN.format(block=None, then="" if first else line)
    done = run(f"{line}\n{code}" if first else code)
    assert done.returncode == 7, done.stderr


def test_upstream_still_changes_its_process():
    """Where this fails, Paddle has changed its ways: look at quantcore_paddle.containment."""
    assert run(RAW).stdout.split() == ["1", "20", "1"]
