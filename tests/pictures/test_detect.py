"""`quantcore detect`: boxes in images and videos, what INT8 lost of them, a classifier's label."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.evaluation.matching import matches

Cli = Callable[..., SimpleNamespace]

BOXES = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(1, 20),
        st.integers(1, 20),
        st.floats(0, 1, width=32),
        st.integers(0, 1),
    ),
    max_size=6,
)


def boxes(found: list[tuple]) -> np.ndarray:
    rows = [(x, y, x + w, y + h, score, label) for x, y, w, h, score, label in found]
    return np.asarray(rows, np.float32).reshape(-1, 6)


@given(BOXES, BOXES)
def test_matches_pair_boxes_of_a_class_once(first: list[tuple], second: list[tuple]) -> None:
    mine, theirs = boxes(first), boxes(second)
    found = matches(mine, theirs)
    taken = found[found >= 0]
    assert len(set(taken)) == len(taken)
    assert (mine[found >= 0, 5] == theirs[taken, 5]).all()


@given(BOXES)
def test_a_set_that_differs_in_scores_alone_is_found_whole(found: list[tuple]) -> None:
    mine = boxes(found)
    faint = mine * np.asarray([1, 1, 1, 1, 0.5, 1], np.float32)
    assert (matches(mine, faint) >= 0).all()


@pytest.fixture
def weak(shared_squares: SimpleNamespace, tmp_path: Path) -> Path:
    """The detector with the scores of its second class, blue, pressed down."""
    proto = onnx.load(shared_squares.weights)
    for constant in proto.graph.initializer:
        if constant.name in ("head.bias", "head.off"):
            values = onnx.numpy_helper.to_array(constant).copy()
            values[6] -= 100
            constant.CopyFrom(onnx.numpy_helper.from_array(values, constant.name))
    path = tmp_path / "weak.onnx"
    onnx.save(proto, path)
    return path


def found_in(folder: Path) -> list[dict]:
    return json.loads((folder / "pictures.json").read_text())["pictures"]


def test_boxes_are_drawn_in_images_and_listed(
    cli: Cli, shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    photos = shared_squares.data / "val2017"
    done = cli("detect", *shared_squares.model, photos, "--out", tmp_path)
    assert done.code == 0, done.err
    pictures = found_in(tmp_path)
    assert len(pictures) == 8
    names = {sight["name"] for picture in pictures for sight in picture["found"]}
    assert names == {"class0", "class1"}, "the file names no classes"
    assert "lost" not in pictures[0]
    for picture in pictures:
        drawn = cv2.imread(str(tmp_path / f"{Path(picture['file']).stem}.jpg"))
        plain = cv2.imread(picture["file"])
        assert drawn.shape == plain.shape
        assert np.abs(drawn.astype(int) - plain).max() > 60
        assert all(0 <= v <= 128 for sight in picture["found"] for v in sight["box"])


def test_what_another_graph_lost_is_drawn_beside_and_told(
    cli: Cli, shared_squares: SimpleNamespace, weak: Path, tmp_path: Path
) -> None:
    photos = shared_squares.data / "val2017"
    call = ("detect", *shared_squares.model, photos, "--onnx", weak, "--against")
    done = cli(*call, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    pictures = found_in(tmp_path / "out")
    lost = [sight for picture in pictures for sight in picture["lost"]]
    assert lost
    assert {sight["name"] for sight in lost} == {"class1"}
    assert not any(picture["gained"] for picture in pictures)
    assert f"{len(lost)} are lost and 0 gained" in done.out
    assert "lost: class1" in done.out
    drawn = cv2.imread(str(tmp_path / "out" / f"{Path(pictures[0]['file']).stem}.jpg"))
    assert drawn.shape[1] == 2 * 128


def test_a_video_is_drawn_frame_by_frame(
    cli: Cli, shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    photos = sorted((shared_squares.data / "val2017").iterdir())
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 128)
    )
    for photo in photos:
        writer.write(cv2.imread(str(photo)))
    writer.release()
    done = cli("detect", *shared_squares.model, tmp_path / "clip.avi", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert [picture["frame"] for picture in found_in(tmp_path / "out")] == list(range(8))
    video = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    assert video.get(cv2.CAP_PROP_FPS) == 10


def test_a_broken_file_is_passed_over_and_told_at_the_end(
    cli: Cli, shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    photos = sorted((shared_squares.data / "val2017").iterdir())
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken = [tmp_path / "broken.jpg", tmp_path / "broken.mp4"]
    done = cli("detect", *shared_squares.model, *broken, photos[0], "--out", tmp_path / "out")
    assert done.code == 2
    assert "broken.jpg" in done.err
    assert "broken.mp4: not a video" in done.err
    assert len(found_in(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["nowhere"], "no such file or folder"),
        (["empty"], "no images or videos"),
        (["photo", "--against"], "--against"),
    ],
)
def test_refusals(
    cli: Cli, shared_squares: SimpleNamespace, tmp_path: Path, more: list[str], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    photo = next((shared_squares.data / "val2017").iterdir())
    named = {"photo": photo, "nowhere": tmp_path / "nowhere", "empty": tmp_path / "empty"}
    given = [named.get(word, word) for word in more]
    done = cli("detect", *shared_squares.model, *given, "--out", tmp_path / "out")
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err
