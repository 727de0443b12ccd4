"""quantcore: one model, one calibration policy, any quantization framework.

What a script or a notebook needs, stable between minor versions; nothing heavy is imported until it
is used. Everything in `__all__` is documented where it is defined.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantcore.contracts.engine import EngineOptions as EngineOptions
    from quantcore.contracts.model import ModelOptions as ModelOptions
    from quantcore.contracts.registry import PluginInfo as PluginInfo
    from quantcore.contracts.registry import plugins as plugins
    from quantcore.data.demo import Demo as Demo
    from quantcore.data.demo import demo as demo
    from quantcore.data.own import dataset as dataset
    from quantcore.errors import QuantcoreError as QuantcoreError
    from quantcore.ir.model import FloatModel as FloatModel
    from quantcore.ir.model import LayerInfo as LayerInfo
    from quantcore.ir.model import QdqModel as QdqModel
    from quantcore.pipeline import Calibrated as Calibrated
    from quantcore.pipeline import Data as Data
    from quantcore.pipeline import Evaluation as Evaluation
    from quantcore.pipeline import Trained as Trained
    from quantcore.pipeline import calibrate as calibrate
    from quantcore.pipeline import evaluate as evaluate
    from quantcore.pipeline import load_model as load_model
    from quantcore.pipeline import load_onnx as load_onnx
    from quantcore.pipeline import quantize as quantize
    from quantcore.pipeline import rewrite as rewrite
    from quantcore.pipeline import save_model as save_model
    from quantcore.pipeline import save_qdq as save_qdq
    from quantcore.pipeline import save_trained as save_trained
    from quantcore.pipeline import train as train
    from quantcore.policy.code import Code as Code
    from quantcore.policy.policy import CalibrationPolicy as CalibrationPolicy
    from quantcore.policy.policy import LayerRule as LayerRule
    from quantcore.policy.profiles import Profile as Profile
    from quantcore.policy.tensor import TensorPolicy as TensorPolicy
    from quantcore.results.auto import AutoRecord as AutoRecord
    from quantcore.results.comparison import Evaluated as Evaluated
    from quantcore.results.comparison import RunRecord as RunRecord
    from quantcore.runtime.progress import for_console as for_console
    from quantcore.studies.auto.climb import auto as auto
    from quantcore.studies.auto.settings import AutoStudy as AutoStudy
    from quantcore.studies.compared import Comparison as Comparison
    from quantcore.studies.comparison import compare as compare
    from quantcore.table.table import CalibrationTable as CalibrationTable
    from quantcore.table.table import TensorRange as TensorRange
    from quantcore.training.recipe import Recipe as Recipe

__version__ = "0.1.0"

#: Where each public name lives.
_HOMES = {
    "quantcore.contracts.engine": ("EngineOptions",),
    "quantcore.contracts.model": ("ModelOptions",),
    "quantcore.contracts.registry": ("PluginInfo", "plugins"),
    "quantcore.data.demo": ("Demo", "demo"),
    "quantcore.data.own": ("dataset",),
    "quantcore.errors": ("QuantcoreError",),
    "quantcore.ir.model": ("FloatModel", "LayerInfo", "QdqModel"),
    "quantcore.pipeline": (
        "Calibrated",
        "Data",
        "Evaluation",
        "Trained",
        "calibrate",
        "evaluate",
        "load_model",
        "load_onnx",
        "quantize",
        "rewrite",
        "save_model",
        "save_qdq",
        "save_trained",
        "train",
    ),
    "quantcore.policy.code": ("Code",),
    "quantcore.policy.policy": ("CalibrationPolicy", "LayerRule"),
    "quantcore.policy.profiles": ("Profile",),
    "quantcore.policy.tensor": ("TensorPolicy",),
    "quantcore.results.auto": ("AutoRecord",),
    "quantcore.results.comparison": ("Evaluated", "RunRecord"),
    "quantcore.runtime.progress": ("for_console",),
    "quantcore.studies.compared": ("Comparison",),
    "quantcore.studies.auto.climb": ("auto",),
    "quantcore.studies.auto.settings": ("AutoStudy",),
    "quantcore.studies.comparison": ("compare",),
    "quantcore.table.table": ("CalibrationTable", "TensorRange"),
    "quantcore.training.recipe": ("Recipe",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'quantcore' has no attribute {name!r}")
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
