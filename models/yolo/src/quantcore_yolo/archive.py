"""The zip archive that torch.save writes: its pickle, and its tensors as NumPy arrays."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
import numpy.typing as npt

from quantcore.errors import CheckpointError
from quantcore.ir.model import Array
from quantcore_yolo.unpickle import Storage, TensorRecord

#: The pickle of the largest YOLOv7 takes less than 2 MB.
_MAX_PICKLE_BYTES = 64 << 20

#: FP32 arrays from a file of INT8 take four times its size; more than eight is an attack.
_MAX_EXPANSION = 8

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
            self._budget = _MAX_EXPANSION * path.stat().st_size
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
                f"{self.origin}: a tensor of shape {size} exceeds its storage of {flat.size}; "
                "download the checkpoint again"
            )
        self._budget -= 4 * count
        if self._budget < 0:
            raise CheckpointError(f"{self.origin}: its tensors are far larger than the file")
        steps = tuple(step * flat.itemsize for step in stride)
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
                and all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
            ):
                return args[0], offset, size, stride
        raise CheckpointError(f"{self.origin}: malformed tensor; download the checkpoint again")

    def _storage(self, storage: Storage) -> npt.NDArray[np.generic]:
        """The elements of a storage; its entry must be exactly as large as the pickle says."""
        path, key, count = storage.args
        kind = str(path).rpartition(".")[2]
        if kind not in _DTYPES or not isinstance(key, str) or type(count) is not int:
            raise CheckpointError(f"{self.origin}: cannot read tensors of kind {kind}")
        if key not in self._storages:
            dtype = np.dtype(_DTYPES[kind])
            data = self._read(f"data/{key}", limit=count * dtype.itemsize)
            if len(data) != count * dtype.itemsize:
                raise CheckpointError(
                    f"{self.origin}: storage {key} holds {len(data)} bytes, needs "
                    f"{count * dtype.itemsize}; download the checkpoint again"
                )
            flat: npt.NDArray[np.generic] = np.frombuffer(data, dtype)
            if kind == "BFloat16Storage":
                flat = (flat.astype(np.uint32) << np.uint32(16)).view(np.float32)
            self._storages[key] = flat
        return self._storages[key]

    def _has(self, name: str) -> bool:
        return f"{self._root}/{name}" in self._zip.NameToInfo

    def _find_root(self) -> str:
        names = self._zip.namelist()
        roots = [name.split("/")[0] for name in names if name.count("/") == 1]
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
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
                raise CheckpointError(
                    f"{self.origin}: entry {name} is compressed or too large; torch.save did not "
                    "write this file"
                )
            return self._zip.read(info)
        except (KeyError, OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            reason = str(error).strip("'\"")
            raise CheckpointError(
                f"{self.origin}: entry {name} is missing or damaged ({reason}); "
                "download the checkpoint again"
            ) from None


def _open_zip(path: Path) -> zipfile.ZipFile:
    """The zip archive of a checkpoint, or an error that says what the file is instead."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a directory; give a checkpoint file")
    try:
        with path.open("rb") as file:
            head = file.read(16)
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give a YOLO checkpoint") from None
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: {_what_else(head)}") from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def _what_else(head: bytes) -> str:
    """What a file that is no zip archive looks like, and what to do about it."""
    if not head:
        return "is empty; download the checkpoint again"
    if head.startswith(b"PK"):
        return "truncated; download the checkpoint again"
    if head.startswith(_LEGACY_MAGIC):
        return "written by torch before 1.6; load and save it once with a newer torch"
    return "not a torch checkpoint (no zip archive); give a YOLO .pt or .safetensors file"
