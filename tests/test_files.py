"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantcore.errors import OutputError
from quantcore.runtime.files import ensure_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "er" / "a.txt", "é\n")
    write_whole(tmp_path / "b.bin", b"\x00\r\n\xff")
    assert (tmp_path / "deep" / "er" / "a.txt").read_bytes() == "é\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\r\n\xff"


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old and longer")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_results_are_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_whole(tmp_path / "a.txt", "x")
        assert os.umask(0o022) == 0o022, "the umask is put back"
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fdopen", "chmod", "replace"])
def test_a_failure_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def fail(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fdopen" else Path, step, fail)
        with pytest.raises(OutputError, match=r"a\.txt: cannot write: No space left on device"):
            write_whole(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_disk_that_fills_up_midway_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    fdopen = os.fdopen

    def half(handle: int, mode: str) -> object:
        file = fdopen(handle, mode, buffering=0)
        write = file.write

        class Full:
            def write(self, data: bytes) -> None:
                write(data[: len(data) // 2])
                raise OSError(28, "No space left on device")

            def __enter__(self) -> Full:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", half)
        with pytest.raises(OutputError):
            write_whole(path, "new" * 1000)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(OutputError, match="cannot write"):
        write_whole(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(OutputError, match="not a writable folder"):
        ensure_folder(tmp_path / "file" / "sub")
    with pytest.raises(OutputError, match="not a writable folder"):
        ensure_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here"


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_whole(tmp_path / "a.txt", "x")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_whole(tmp_path / "a.txt", "x")
    with pytest.raises(OutputError, match="Permission denied"):
        ensure_folder(tmp_path)


def test_proving_a_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    assert ensure_folder(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    assert names(tmp_path / "new" / "folder") == []
