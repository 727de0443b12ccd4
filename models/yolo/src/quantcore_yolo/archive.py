"""The zip archive that torch.save writes: its pickle, and its tensors as NumPy arrays."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NoReturn, cast

import numpy as np
import numpy.typing as npt

from quantcore.errors import CheckpointError
from quantcore.ir.model import Array
from quantcore.reading import size_of
from quantcore.showing import one_line, shown
from quantcore_yolo.records import Storage, TensorRecord

#: The pickle of the largest YOLOv7 takes less than 2 MB.
_MAX_PICKLE_BYTES = 16 << 20
#: Bytes of the zip's list of entries; a thousand tensors take 100 kB.
_MAX_DIRECTORY_BYTES = 2 << 20
#: Bytes of tensors that may repeat what others hold; no honest checkpoint has more than a few.
_SHARED_BYTES = 16 << 20
#: Numbers of a tensor's layout: what fits the machine.
_LARGEST = 1 << 40

#: The end of a zip archive: its last record with the longest comment, and those before it.
_END_BYTES = (1 << 16) + 22 + 20 + 56

#: What `zipfile` raises for an archive that is damaged, or makes use of what it cannot do.
_ZIP_ERRORS = (
    KeyError,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    NotImplementedError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)

_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "BFloat16Storage": "<u2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<u1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
}


class Archive:
    """An open checkpoint; a context manager.

    Attributes:
        origin: The file, for error messages.
        pickle: The pickled object, still as bytes.
    """

    def __init__(self, path: Path) -> None:
        """Opens a checkpoint.

        Raises:
            CheckpointError: The file is missing, unreadable or not a zip archive of torch.save.
        """
        self.origin = str(path)
        self._zip = _open_zip(path)
        try:
            self._root = self._find_root()
            self._budget = _SHARED_BYTES
            self._unread = path.stat().st_size
            self.pickle = self._read("data.pkl", limit=_MAX_PICKLE_BYTES)
            self._storages: dict[str, npt.NDArray[np.generic]] = {}
            if self._has("byteorder") and self._read("byteorder", limit=16) != b"little":
                raise CheckpointError(
                    f"{self.origin}: saved on a big-endian machine; save it again on another"
                )
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def tensor(self, record: TensorRecord) -> Array:
        """The numbers of a tensor as FP32, in a contiguous array of the tensor's own shape.

        Raises:
            CheckpointError: The tensor does not lie within its storage.
        """
        storage, offset, size, stride = self._layout(record)
        flat = self._storage(storage)
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        # No honest parameter repeats an element; a stride of 0 could ask for any amount of memory.
        if count > flat.size or (count and last >= flat.size):
            raise CheckpointError(
                f"{self.origin}: a tensor of shape {shown(size)} exceeds its storage of "
                f"{flat.size}; "
                "download the checkpoint again"
            )
        self._budget -= 4 * max(count, 16)
        if self._budget < 0:
            raise CheckpointError(f"{self.origin}: its tensors share what they hold; too large")
        steps = tuple(step * flat.itemsize for step in stride)
        if not count:
            return np.zeros(size, np.float32) if max(size) < 1 << 20 else self._malformed()
        view = np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)
        return np.array(view, dtype=np.float32)

    def _layout(
        self, record: TensorRecord
    ) -> tuple[Storage, int, tuple[int, ...], tuple[int, ...]]:
        """Storage, offset, size and strides of a tensor, all checked."""
        args = record.args
        if len(args) >= 4 and isinstance(args[0], Storage):
            numbers = (args[1], args[2], args[3])
            offset, size, stride = cast(tuple[int, tuple[int, ...], tuple[int, ...]], numbers)
            if (
                isinstance(size, tuple)
                and isinstance(stride, tuple)
                and len(size) == len(stride) <= 8
                and all(type(n) is int and 0 <= n < _LARGEST for n in (offset, *size, *stride))
            ):
                return args[0], offset, size, stride
        return self._malformed()

    def _malformed(self) -> NoReturn:
        raise CheckpointError(f"{self.origin}: malformed tensor; download the checkpoint again")

    def _storage(self, storage: Storage) -> npt.NDArray[np.generic]:
        """The elements of a storage; its entry must be exactly as large as the pickle says."""
        path, key, count = storage.args
        kind = str(path).rpartition(".")[2]
        if kind not in _DTYPES or not isinstance(key, str) or type(count) is not int:
            raise CheckpointError(
                f"{self.origin}: cannot read tensors of kind {one_line(kind, 80)}"
            )
        if len(key) > 100 or not 0 <= count < _LARGEST:
            self._malformed()
        if key not in self._storages:
            dtype = np.dtype(_DTYPES[kind])
            data = self._read(f"data/{key}", limit=count * dtype.itemsize)
            if len(data) != count * dtype.itemsize:
                raise CheckpointError(
                    f"{self.origin}: storage {one_line(key)} holds {len(data)} bytes, needs "
                    f"{count * dtype.itemsize}; download the checkpoint again"
                )
            flat: npt.NDArray[np.generic] = np.frombuffer(data, dtype)
            if kind == "BFloat16Storage":
                flat = (flat.astype(np.uint32) << np.uint32(16)).view(np.float32)
            self._storages[key] = flat
            self._budget += 4 * flat.size
        return self._storages[key]

    def _has(self, name: str) -> bool:
        return f"{self._root}/{name}" in self._zip.NameToInfo

    def _find_root(self) -> str:
        names = set(self._zip.namelist())
        roots = sorted({name.split("/")[0] for name in names if name.count("/") == 1})
        for root in roots:
            if f"{root}/constants.pkl" in names:
                raise CheckpointError(
                    f"{self.origin}: a TorchScript file; give the checkpoint it was exported from"
                )
        for root in roots:
            if f"{root}/data.pkl" in names:
                return root
        raise CheckpointError(
            f"{self.origin}: a zip file that torch.save did not write; give a YOLO checkpoint (.pt)"
        )

    def _read(self, name: str, limit: int) -> bytes:
        """One entry; torch.save never compresses, so no entry can be larger than the file."""
        try:
            info = self._zip.getinfo(f"{self._root}/{name}")
            stored = info.compress_type == zipfile.ZIP_STORED
            # `zipfile` asks for the memory of the size before decompression, whatever it claims.
            if not stored or info.file_size > limit or info.compress_size != info.file_size:
                raise CheckpointError(
                    f"{self.origin}: entry {one_line(name, 100)} is compressed or too large; "
                    "torch.save did not write this file"
                )
            self._unread -= info.file_size
            if self._unread < 0:  # entries that lie upon each other
                raise CheckpointError(f"{self.origin}: its entries are larger than the file")
            return self._zip.read(info)
        except _ZIP_ERRORS as error:
            reason = one_line(str(error).strip("'\""), 200)
            raise CheckpointError(
                f"{self.origin}: entry {one_line(name, 100)} is missing or damaged ({reason}); "
                "download the checkpoint again"
            ) from None


def _open_zip(path: Path) -> zipfile.ZipFile:
    """The zip archive of a checkpoint, or an error that says what the file is instead."""
    size_of(path, CheckpointError)
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            if _directory_bytes(file) > _MAX_DIRECTORY_BYTES:
                raise CheckpointError(f"{path}: its zip archive lists far too many entries")
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: {_what_else(head)}") from None
    except _ZIP_ERRORS as error:
        reason = one_line(str(error), 200)
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None


def _directory_bytes(file: BinaryIO) -> int:
    """What an archive says its list of entries takes; `zipfile` reads all of it at once."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _END_BYTES))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        return 0
    sizes: list[int] = [struct.unpack_from("<L", tail, at + 12)[0]]
    wide = tail.rfind(b"PK\x06\x06", 0, at)  # the same again with wider numbers, for large files
    if wide >= 0 and len(tail) >= wide + 56:
        sizes = [size for size in sizes if size != 0xFFFFFFFF]
        sizes.append(struct.unpack_from("<Q", tail, wide + 40)[0])
    return max(sizes)


def _what_else(head: bytes) -> str:
    """What a file that is no zip archive looks like, and what to do about it."""
    if not head:
        return "is empty; download the checkpoint again"
    if head.startswith(b"PK"):
        return "truncated; download the checkpoint again"
    if head.startswith(_LEGACY_MAGIC):
        return "written by torch before 1.6; load and save it once with a newer torch"
    return "not a torch checkpoint (no zip archive); give a YOLO .pt or .safetensors file"
