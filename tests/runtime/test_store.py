"""Finished work survives kills, flipped bits, a full disk and other processes, or is not there."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from quantcore.errors import DataError, OutputError
from quantcore.ir.model import Array, FloatModel
from quantcore.runtime.keys import content_key, file_digest, file_digests, graph_digest
from quantcore.runtime.progress import Silent
from quantcore.runtime.store import Store


@dataclass(frozen=True)
class Piece:
    boxes: Array
    powers: tuple[float, ...]
    name: str | None = None


def piece(number: int) -> Piece:
    return Piece(np.full((number % 5, 6), number, np.float32), (float(number), float("inf")))


def test_a_value_comes_back_under_its_key_alone(tmp_path: Path, net: FloatModel) -> None:
    with Store(tmp_path) as store:
        store.put("a", piece(3))
        store.put("graph", net.proto)
        store.put("plain", {"x": 1.5, "y": float("inf")})
    with Store(tmp_path) as store:
        found = store.get("a", Piece)
        assert found is not None
        np.testing.assert_array_equal(found.boxes, piece(3).boxes)
        assert (found.boxes.dtype, found.powers) == (np.float32, piece(3).powers)
        assert store.get("graph", onnx.ModelProto) == net.proto
        assert store.get("plain", dict[str, float]) == {"x": 1.5, "y": float("inf")}
        assert store.get("b", Piece) is None
        assert "a" in store
        assert "b" not in store
        assert store.get("plain", Piece) is None, "a value of another class is none"


def test_what_is_no_value_is_not_kept(tmp_path: Path) -> None:
    with Store(tmp_path) as store, pytest.raises(TypeError, match="cannot be kept"):
        store.put("a", object())
    with pytest.raises(TypeError, match="no value"):
        content_key(object())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_flipped_bit_never_changes_a_value(tmp_path: Path, seed: int) -> None:
    with Store(tmp_path / "good") as store:
        for number in range(200):
            store.put(f"k{number}", piece(number))
    good = store.path.read_bytes()
    assert not store.path.with_name(f"{store.path.name}-wal").exists()
    rng, lost = random.Random(seed), 0
    for trial in range(100):
        folder = tmp_path / str(trial)
        folder.mkdir()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (folder / store.path.name).write_bytes(bad)
        with Store(folder) as damaged:
            for number in range(200):
                found = damaged.get(f"k{number}", Piece)
                if found is None:
                    lost += 1
                    damaged.put(f"k{number}", piece(number))
                    found = damaged.get(f"k{number}", Piece)
                np.testing.assert_array_equal(found.boxes, piece(number).boxes)
                assert found.powers == piece(number).powers
    assert 0 < lost < 100 * 20, "a flipped bit is noticed, and costs little but itself"


@pytest.mark.parametrize("content", [b"", b"no database at all" * 50, b"\0" * 9000])
def test_a_file_that_is_no_store_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "work.sqlite").write_bytes(content)
    with Store(tmp_path) as store:
        store.put("a", 1)
        assert store.get("a", int) == 1


def test_a_store_without_the_table_of_another_program_is_used(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "work.sqlite") as other:
        other.execute("CREATE TABLE theirs (x)")
    with Store(tmp_path) as store:
        store.put("a", 1)
        assert store.get("a", int) == 1


FILLS = """
import sys
from pathlib import Path
from quantcore.runtime.store import Store
with Store(Path(sys.argv[1])) as store:
    print("open", flush=True)
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        store.put(f"k{number}", [number] * 500)
        print(number, flush=True)
"""


def start(folder: Path, first: int, end: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", FILLS, str(folder), str(first), str(end)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_a_kill_loses_nothing_that_was_said_to_be_there(tmp_path: Path) -> None:
    for trial in range(5):
        process = start(tmp_path, 0, 10**6)
        assert process.stdout is not None
        for _ in range(20 + 37 * trial):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().split()
        process.wait()
        with Store(tmp_path) as store:
            for number in range(int(said[-2]) if len(said) > 1 else 0):
                assert store.get(f"k{number}", list[int]) == [number] * 500


def test_processes_and_threads_work_beside_each_other(tmp_path: Path) -> None:
    processes = [start(tmp_path, first, first + 300) for first in (0, 150, 300)]
    with Store(tmp_path) as store, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store.put(f"t{n}", n), range(300)))
        for process in processes:
            process.communicate()
            assert process.returncode == 0
        assert all(store.get(f"k{n}", list[int]) == [n] * 500 for n in range(600))
        assert all(store.get(f"t{n}", int) == n for n in range(300))


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kept = 0
    try:
        with Store(tmp_path) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
            with pytest.raises(OutputError, match=r"work\.sqlite.*free some space"):  # noqa: PT012
                for number in range(1000):
                    store.put(f"k{number}", [number] * 500)
                    kept += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert kept > 20
    with Store(tmp_path) as store:
        assert all(store.get(f"k{n}", list[int]) == [n] * 500 for n in range(kept))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        Store(tmp_path / "file")


def test_keys_tell_contents_apart(tmp_path: Path, net: FloatModel) -> None:
    assert content_key(1, "a") == content_key(1, "a") != content_key(1, "b")
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key(net.proto) == content_key(
        onnx.ModelProto.FromString(net.proto.SerializeToString())
    )
    assert content_key(net.preprocessing) != content_key(net.decoding)
    assert graph_digest(net.proto) == net.fingerprint
    path = tmp_path / "1.png"
    with pytest.raises(DataError, match=r"1\.png"):
        file_digest(path)
    path.write_bytes(b"one")
    before = file_digests([path, path], Silent())
    path.write_bytes(b"two")
    assert file_digests([path], Silent()) != before
