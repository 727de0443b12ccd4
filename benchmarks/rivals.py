r"""What `quantcore auto` delivered beside NNCF's accuracy control and NVIDIA Model Optimizer.

    python benchmarks/rivals.py MODEL --weights FILE --data ROOT --auto FOLDER \
        --unseen ROOT:SPLIT ... --modelopt PYTHON --out FOLDER

FOLDER is what `quantcore auto MODEL --weights FILE --data ROOT --out FOLDER` wrote. The others get
the same images: all of the calibration split to calibrate on, and NNCF's accuracy control
validates on them, too, by this evaluator's mAP on OpenVINO. Every graph is then judged by one
evaluator on OpenVINO, on the evaluation split and on images that nothing was chosen on; all are
timed in turns. NNCF must be installed here, Model Optimizer for the interpreter PYTHON, since it
wants another version of onnx; without that option it is left out.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path

import numpy as np
import onnx
from unseen import opened, pooled

from quantcore.commands.options import load_model
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.data.dataset import ImageFile
from quantcore.engines.audit import inspect
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Data, Evaluation
from quantcore.report.terminal import estimate
from quantcore.runtime.executor import kept_in
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.progress import for_console
from quantcore.studies.auto.judging import Judge
from quantcore.studies.auto.timing import Runner, timed

ENGINE = Evaluation("openvino")

#: Images by which NNCF ranks layers, of those that it validates on; its own default is 300.
RANKING = 20

_MODELOPT = """
import sys
import numpy
from modelopt.onnx.quantization import quantize
source, images, method, out = sys.argv[1:]
quantize(source, quantize_mode="int8", calibration_data=numpy.load(images, mmap_mode="r"),
         calibration_method=method, calibration_eps=["cpu"], high_precision_dtype="fp32",
         output_path=out, log_level="ERROR")
"""


def nncf_controlled(
    model: FloatModel, dataset: CocoDataset, max_drop: float, runtime: Runtime
) -> onnx.ModelProto:
    """NNCF's network that loses at most so much on the images that it is calibrated on."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedAccuracyRestorerParameters

    name = model.proto.graph.input[0].name
    batches = Batches(dataset.images, model.preprocessing)

    def validate(graph: onnx.ModelProto, images: Iterable[ImageFile]) -> tuple[float, None]:
        judge = Judge(model, dataset, tuple(images), ENGINE, runtime)
        drop = judge.mean(model, [graph], "NNCF looks").drop[0]
        return float(np.nan_to_num(judge.float_figure.value - drop)), None

    return nncf.quantize_with_accuracy_control(
        model.proto,
        calibration_dataset=nncf.Dataset(batches.inputs(), lambda batch: {name: batch}),
        validation_dataset=nncf.Dataset(dataset.images),
        validation_fn=validate,
        max_drop=max_drop,
        preset=nncf.QuantizationPreset.MIXED,
        advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
            ranking_subset_size=RANKING
        ),
    )


def modelopt(
    python: Path, model: FloatModel, dataset: CocoDataset, method: str, out: Path
) -> onnx.ModelProto:
    """Model Optimizer's network."""
    source, images, made = (out / name for name in ("float.onnx", "images.npy", f"{method}.onnx"))
    onnx.save(model.proto, source)
    if not images.exists():
        batches = Batches(dataset.images, model.preprocessing)
        np.save(images, np.concatenate(list(batches.inputs())))
    given = map(str, (source, images, method, made))
    subprocess.run([python, "-c", _MODELOPT, *given], check=True)
    return onnx.load(made)


def networks(
    given: argparse.Namespace, model: FloatModel, runtime: Runtime
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Everyone's network, each made once."""
    dataset = Data(given.data).calibration_set()
    path = given.out / "nncf.onnx"
    if not path.exists():
        began = time.monotonic()
        onnx.save(nncf_controlled(model, dataset, given.max_drop, runtime), path)
        print(f"NNCF took {time.monotonic() - began:.0f} s")
    yield "NNCF, accuracy control", onnx.load(path)
    for method in given.method if given.modelopt else ():
        path = given.out / f"{method}.onnx"
        began = time.monotonic()
        made = onnx.load(path) if path.exists() else None
        yield (
            f"Model Optimizer, {method}",
            made or modelopt(given.modelopt, model, dataset, method, given.out),
        )
        print(f"Model Optimizer, {method}, took {time.monotonic() - began:.0f} s")
    yield "quantcore auto", onnx.load(given.auto / "qdq.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--auto", type=Path, required=True)
    parser.add_argument("--unseen", nargs="+", required=True, metavar="ROOT:SPLIT")
    parser.add_argument("--modelopt", type=Path, metavar="PYTHON")
    parser.add_argument("--method", nargs="+", default=["max", "entropy"])
    parser.add_argument("--max-drop", type=float, default=0.005)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    model = load_model(given.model, given.weights, preset=given.preset)
    unseen = reduce(pooled, map(opened, given.unseen))
    judged_on = {
        "evaluation split": opened(f"{given.data}:val2017"),
        "images unseen by all": unseen,
    }
    with kept_in(given.out, for_console()) as runtime:
        found = dict(networks(given, model, runtime))
        for name, dataset in judged_on.items():
            judge = Judge(model, dataset, dataset.images, ENGINE, runtime)
            print(f"{name}, {len(dataset.images)}, float {estimate(judge.float_figure)}")
            for who, graph in found.items():
                one = judge.mean(model, [graph], who)
                print(
                    f"  {who}: mAP lost {estimate(one.drop_estimate, 4, '+')}, detections "
                    f"{estimate(one.lost_estimate, 4)}"
                )
        protos = [model.proto, *found.values()]
        runners = [Runner(ENGINE.engine, EngineOptions(), proto) for proto in protos]
        times = timed(runners, model, runtime, 100)
    print(
        f"float: {times.result(0).p50_ms:.1f} ms; other work {times.others or 0:.0%} of the cores"
    )
    for number, (who, graph) in enumerate(found.items(), 1):
        audit = inspect(load_engine(ENGINE.engine), graph)
        print(
            f"  {who}: {times.result(number).p50_ms:.1f} ms, "
            f"{estimate(times.ratio(0, number), 2)} times as fast; "
            f"{audit.int8} of {len(audit.layers)} layers in INT8"
        )


if __name__ == "__main__":
    main()
