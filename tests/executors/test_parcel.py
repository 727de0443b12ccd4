"""Jobs as bytes: what is sent, what is sent once, and what is never read."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from quantcore.errors import ExecutorError
from quantcore.executors.cluster.files import Unreachable, cache, reach
from quantcore.executors.cluster.parcel import packed, unpacked
from quantcore.executors.cluster.shares import Cost, cut
from quantcore.runtime.jobs import Piece
from quantcore.runtime.keys import file_digest


def graph(name: str) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(20_000, dtype=np.float32), "w")
    node = helper.make_node("Add", ["x", "w"], ["y"], name)
    ends = [helper.make_tensor_value_info(n, 1, [20_000]) for n in "xy"]
    return helper.make_model(helper.make_graph([node], name, ends[:1], ends[1:], [weight]))


def nowhere(path: Path, digest: str) -> Path:
    raise AssertionError("no file is asked for")


def test_graphs_come_back_whole_and_share_their_constants() -> None:
    parts: dict[str, bytes] = {}
    content = packed((graph("a"), graph("b")), {}, parts)
    assert sorted(map(len, parts.values()))[-1] == 80_000
    assert sum(map(len, parts.values())) < 82_000
    first, second = unpacked(content, parts.__getitem__, nowhere)
    assert (first, second) == (graph("a"), graph("b"))


def test_arrays_and_paths_come_back_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((100, 300))[:, ::2]
    path, here = tmp_path / "a.jpg", tmp_path / "b.jpg"
    parts: dict[str, bytes] = {}
    content = packed({"values": values, "files": (path, here)}, {path: "digest"}, parts)
    found = unpacked(content, parts.__getitem__, lambda p, d: Path("/there", p.name + d))
    assert found["values"].tobytes() == values.tobytes()
    assert found["values"].flags.writeable
    assert found["files"] == (Path("/there/a.jpgdigest"), here)


@pytest.mark.parametrize("function", [subprocess.check_call, eval, print, np.load])
def test_what_quantcore_does_not_pack_is_not_read(function) -> None:
    with pytest.raises(ExecutorError, match="none of quantcore's or a plugin's"):
        unpacked(pickle.dumps((function, ("true",))), {}.__getitem__, nowhere)


def test_what_does_not_pickle_is_told() -> None:
    with pytest.raises(ExecutorError, match="cannot be sent to another machine"):
        packed(lambda: 1, {}, {})


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache()


def test_files_are_fetched_once_and_checked(tmp_path: Path, kept: Path) -> None:
    pytest.importorskip("fsspec")
    there = tmp_path / "there" / "val" / "a.jpg"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"image")
    digest, mapped = file_digest(there), [("/data/coco", f"file://{tmp_path}/there")]
    found = reach(Path("/data/coco/val/a.jpg"), digest, mapped)
    assert found.is_relative_to(kept)
    assert (found.read_bytes(), found.suffix) == (b"image", ".jpg")
    there.unlink()
    assert reach(Path("/data/coco/val/a.jpg"), digest, mapped) == found
    found.write_bytes(b"spoilt")
    with pytest.raises(Unreachable, match="cannot read"):
        reach(Path("/data/coco/val/a.jpg"), digest, mapped)
    there.write_bytes(b"another")
    with pytest.raises(Unreachable, match=r"there/val/a.jpg: another file than where the study is"):
        reach(Path("/data/coco/val/a.jpg"), digest, mapped)


def test_the_same_path_must_hold_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(Unreachable, match="No such file"):
        reach(path, "0" * 64, [])
    path.write_bytes(b"image")
    assert reach(path, file_digest(path), []) == path
    with pytest.raises(Unreachable, match="another file"):
        reach(path, "0" * 64, [])


@given(
    st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(0, 9),
    st.floats(0, 5),
)
def test_shares_hold_every_piece_once_and_keep_groups_together(given, workers, seconds) -> None:
    pieces = [Piece(key=str(n), kind=int, group=g, quiet=q) for n, (q, g) in enumerate(given)]
    shares = cut(pieces, workers, Cost(1.0, seconds))
    assert sorted(n for share in shares for n in share) == list(range(len(pieces)))
    assert all(shares)
    assert len(shares) <= 2 * max(workers, 1) + 1
    loud = [{n for n in share if not pieces[n].quiet} for share in shares]
    for group in {p.group for p in pieces} - {None}:
        members = {n for n, p in enumerate(pieces) if p.group == group and not p.quiet}
        assert sum(not members.isdisjoint(share) for share in loud) <= 1
    if len(shares) > 1:
        quiet = [share for share in shares if any(pieces[n].quiet for n in share)]
        assert len(quiet) <= 1
        assert all(pieces[n].quiet for share in quiet for n in share)


def test_short_work_is_not_cut_and_long_work_is() -> None:
    pieces = [Piece(key=str(n), kind=int) for n in range(1000)]
    assert len(cut(pieces, 8, Cost(2.0, 0.001))) == 1
    assert [len(share) for share in cut(pieces, 4, Cost(2.0, 0.1))] == [125] * 8
    assert len(cut(pieces, 1, Cost(2.0, 0.1))) == 1
