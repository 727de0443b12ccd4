"""The evaluator and the latency meter, with a stand-in engine and with a real detector."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcore.contracts.engine import Engine, EngineOptions
from quantcore.contracts.model import ModelOptions
from quantcore.data.coco import Annotation, Category, CocoDataset, CocoImage
from quantcore.data.letterbox import Placement
from quantcore.engines.onnxruntime import OnnxRuntimeEngine
from quantcore.errors import DataError, EngineError, ModelError, UsageError
from quantcore.evaluation.coco import score
from quantcore.evaluation.decode_graph import append_decode
from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.evaluation.decoding.grid import GridDecoding
from quantcore.evaluation.evaluator import evaluate
from quantcore.evaluation.finding import find_predictions
from quantcore.evaluation.latency import LatencyTest, measure
from quantcore.ir.decoding import Limits
from quantcore.ir.model import FloatModel, Preprocessing
from quantcore.runtime.plain import plain
from quantcore.runtime.progress import Progress

SIZE = (64, 64)


class Oracle(Engine):
    """Answers every image with the box of its dark rectangle; takes `batch` images at a time."""

    def __init__(self, batch=None, outputs=("detections",), classes=2):
        self.input_name, self.output_names = "images", outputs
        self.input_shape = (batch, 3, *SIZE)
        self.classes = classes
        self.batches = []

    def _infer(self, batch):
        self.batches.append(len(batch))
        answer = np.zeros((len(batch), 3, 5 + self.classes), np.float32)
        for n, image in enumerate(batch):
            rows, columns = np.nonzero(image[0] < 0.2)
            x1, x2, y1, y2 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
            answer[n, 1, :4] = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
            answer[n, 1, 4:6] = [1, 0.9]
        return [answer] * len(self.output_names)

    def layers(self):
        return []

    def close(self):
        pass


class Counting(Progress):
    def __init__(self):
        self.events = []

    def start(self, description, total):
        self.events.append((description, total))
        return 0

    def advance(self, task):
        self.events.append("step")

    def stop(self, task):
        self.events.append("stop")


def _model(decoding=None, classes=("cat", "dog"), outputs=("detections",)):
    shape = ["batch", 3, *SIZE]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["images"], [name], name=name) for name in outputs],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs],
    )
    return FloatModel(
        "oracle",
        helper.make_model(graph),
        Preprocessing(SIZE),
        decoding or DecodedBoxes(),
        classes,
    )


@pytest.fixture
def dataset(tmp_path):
    """Five bright images of 96 x 128 with a dark rectangle; category ids unlike class indices."""
    images, annotations = [], []
    for n in range(5):
        pixels = np.full((96, 128, 3), 250, np.uint8)
        x, y, w, h = 16 + 8 * n, 16, 48, 32
        pixels[y : y + h, x : x + w] = 0
        path = tmp_path / f"{n}.png"
        cv2.imwrite(str(path), pixels)
        images.append(CocoImage(40 - n, path, 128, 96))
        annotations.append(Annotation(40 - n, 17, (x, y, w, h), w * h, False))
    categories = (Category(18, "dog"), Category(17, "cat"))
    return CocoDataset(Path("a.json"), tuple(images), categories, tuple(annotations))


def test_finds_everything(dataset):
    progress = Counting()
    result, detections = evaluate(Oracle(), _model(), dataset, batch_size=2, progress=progress)
    assert result.map == pytest.approx(1)
    assert result.per_class == pytest.approx({"cat": 1.0, "dog": None})
    assert result.images == 5
    assert min(result.preprocess_ms, result.inference_ms, result.postprocess_ms) > 0
    assert list(detections.by_image) == [40, 39, 38, 37, 36]
    np.testing.assert_allclose(detections.by_image[40], [[16, 16, 64, 48, 0.9, 0]], rtol=1e-6)
    assert detections.to_coco()[0]["category_id"] == 17
    assert progress.events == [("evaluate", 3), "step", "step", "step", "stop"]


def test_result_serialises(dataset):
    result, _ = evaluate(Oracle(), _model(), dataset)
    data = json.loads(json.dumps(plain(result)))
    assert data["map"] == result.map
    assert data["map_small"] is None
    assert data["per_class"]["dog"] is None
    assert len(result.figures()) == 12


def test_fixed_batch_is_filled_up(dataset):
    engine = Oracle(batch=4)
    result, detections = evaluate(engine, _model(), dataset, batch_size=1)
    assert engine.batches == [4, 4]
    assert result.images == len(detections) == 5
    assert result.map == pytest.approx(1)


def test_some_images(dataset):
    engine = Oracle()
    result, detections = evaluate(engine, _model(), dataset, images=2, seed=1)
    assert (result.images, engine.batches) == (2, [1, 1])
    assert set(detections.by_image) < {i.id for i in dataset.images}
    assert result.map == pytest.approx(1)


def test_decoding_in_the_graph_overrules_the_model(dataset):
    model = _model(GridDecoding((8,)), outputs=("head",))
    assert evaluate(Oracle(), model, dataset)[0].map == pytest.approx(1)
    with pytest.raises(ModelError, match="needs one output B x 64"):
        evaluate(Oracle(outputs=("head",)), model, dataset)


def test_heads_are_read_by_name_whatever_their_order():
    anchors = AnchorDecoding((8, 16), (((20.0, 20.0),), ((40.0, 40.0),)))
    model = _model(anchors, outputs=("fine", "coarse"))
    rng = np.random.default_rng(0)
    fine, coarse = (rng.normal(0, 1, (1, 7, n, n)).astype(np.float32) for n in (8, 4))
    placement = Placement((1.0, 1.0), 0, 0, (64, 64))
    (wanted,) = find_predictions({"fine": fine, "coarse": coarse}, model, [placement])
    (found,) = find_predictions({"coarse": coarse, "more": fine, "fine": fine}, model, [placement])
    np.testing.assert_array_equal(found, wanted)
    assert len(wanted) > 10
    with pytest.raises(ModelError, match="a head B x"):
        find_predictions({"a": coarse, "b": fine}, model, [placement])


def test_a_model_survives_the_way_to_a_process():
    model = _model(GridDecoding((8,)))
    again = pickle.loads(pickle.dumps(model))
    assert again == model
    assert type(again) is FloatModel


def test_refusals(dataset):
    with pytest.raises(DataError, match="knows 3 classes"):
        evaluate(Oracle(), _model(classes=("a", "b", "c")), dataset)
    with pytest.raises(ModelError, match="scores 4 classes, the model names 2"):
        evaluate(Oracle(classes=4), _model(), dataset)
    for bad in ({"conf": -0.1}, {"iou": 1.5}, {"detections": 0}):
        with pytest.raises(UsageError, match="thresholds"):
            Limits(**bad)
    dataset.images[3].path.write_bytes(b"")
    with pytest.raises(DataError, match=r"3\.png: corrupt"):
        evaluate(Oracle(), _model(), dataset)


def test_latency(dataset):
    engine, progress = Oracle(), Counting()
    batch = np.zeros((2, 3, *SIZE), np.float32)
    result = measure([engine], LatencyTest(batch=batch, warmup=3, runs=5), progress).result()
    assert engine.batches == [2] * 8
    assert (result.runs, result.batch_size) == (5, 2)
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms
    assert result.low_ms <= result.p50_ms <= result.high_ms
    assert result.images_per_second == pytest.approx(2000 / result.mean_ms)
    assert json.loads(json.dumps(plain(result))) == plain(result)
    assert progress.events[0] == ("latency", 5)


def test_latency_refusals():
    batch = np.zeros((2, 3, *SIZE), np.float32)
    for runs, warmup in ((0, 0), (1, -1)):
        with pytest.raises(UsageError, match="needs 1 run or more"):
            LatencyTest(batch=batch, warmup=warmup, runs=runs)
    with pytest.raises(EngineError, match="the graph takes 4 x 3"):
        measure([Oracle(batch=4)], LatencyTest(batch=batch, warmup=0, runs=1))


def _yolox(path):
    """The official graph under the contract's rules: named nodes, constants as initializers."""
    proto = onnx.load(path)
    nodes = []
    for n, node in enumerate(proto.graph.node):
        if node.op_type == "Constant":
            value = numpy_helper.to_array(node.attribute[0].t)
            proto.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        else:
            node.name = node.name or f"node{n}"
            nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


@pytest.mark.shared
def test_yolox_nano_on_real_images(shared, coco_mini):
    proto = _yolox(shared / "weights" / "yolox_nano.onnx")
    names = [c.name for c in sorted(coco_mini.categories, key=lambda c: c.id)]
    model = FloatModel(
        "yolox-nano",
        proto,
        Preprocessing((416, 416), "bgr", 1.0, "top_left"),
        GridDecoding((8, 16, 32)),
        tuple(names),
    )
    with OnnxRuntimeEngine("onnxruntime").build(proto, EngineOptions()) as engine:
        result, detections = evaluate(engine, model, coco_mini)
        assert result.map == pytest.approx(0.32, abs=0.005)
        assert result.map50 == pytest.approx(0.51, abs=0.01)
        reference = score(coco_mini, detections, "pycocotools")
        assert result.figures() == pytest.approx(reference.figures, abs=1e-6)
        assert result.per_class == pytest.approx(reference.per_class, abs=1e-6)
        generic = replace(model, class_names=tuple(f"class{i}" for i in range(80)))
        few, _ = evaluate(engine, generic, coco_mini, images=10)
        again, _ = evaluate(engine, model, coco_mini, images=10, implementation="pycocotools")
        assert few.figures() == pytest.approx(again.figures(), abs=1e-6)


@pytest.mark.shared
def test_yolov5n_on_real_images(shared, coco_mini):
    """Decoded here and inside the graph: the same figures, and those of the official code."""
    yolo = pytest.importorskip("quantcore_yolo.plugin")
    weights = shared / "weights" / "yolov5n-coco.pt"
    model = yolo.YoloPlugin("yolov5n").load(weights, ModelOptions(640))
    with OnnxRuntimeEngine("onnxruntime").build(model.proto, EngineOptions()) as engine:
        result, _ = evaluate(engine, model, coco_mini, batch_size=4)
        few, _ = evaluate(engine, model, coco_mini, images=8)
    assert result.map == pytest.approx(0.338, abs=0.003)
    assert result.map50 == pytest.approx(0.488, abs=0.003)
    drawn = append_decode(model.proto, model.decoding, model.preprocessing.size)
    with OnnxRuntimeEngine("onnxruntime").build(drawn, EngineOptions()) as engine:
        inside, _ = evaluate(engine, model, coco_mini, images=8)
    assert inside.map == pytest.approx(few.map, abs=1e-3)
