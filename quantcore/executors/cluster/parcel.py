"""Jobs as bytes: graphs and arrays are parts of their own, told by content, sent to a worker once.

The rest is pickled by this module and unpickled by it, with classes of quantcore and its plugins
alone. Files that a job reads travel as their hash: a worker finds them where it can reach them.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from quantcore.errors import ExecutorError
from quantcore.runtime.jobs import Job

#: Bytes from which on an array or a graph's constant is a part of its own.
_LARGE = 1 << 14

#: What others may come in a parcel: values, and what NumPy makes an array of.
_VALUES = {
    "builtins": {"bytearray", "complex", "frozenset", "range", "set", "slice"},
    "collections": {"OrderedDict", "defaultdict", "deque"},
    "copyreg": {"_reconstructor", "__newobj__"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
}

Parts = dict[str, bytes]

#: Finds the content of a part by its name.
Find = Callable[[str], bytes]

#: Finds a file that a worker can read: what it is called where the study is, its hash.
Reach = Callable[[Path, str], Path]


def packed(value: object, reads: Mapping[Path, str], parts: Parts) -> bytes:
    """A value as bytes.

    Args:
        value: Pickles.
        reads: SHA-256 of files; their paths become what a worker reaches.
        parts: Takes what is large, by name.

    Raises:
        ExecutorError: It does not pickle.
    """
    file = io.BytesIO()
    try:
        _Packer(file, reads, parts).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ExecutorError(f"cannot be sent to another machine: {error}") from None
    return file.getvalue()


def packed_job(job: Job[Any], parts: Parts) -> str:
    """The function and arguments of a job; the name of their part.

    Arguments are parts by themselves: jobs after one another share most of them.

    Args:
        job: The job.
        parts: Takes what it consists of, by name.

    Raises:
        ExecutorError: Something does not pickle.
    """
    found = []
    for argument in job.arguments:
        content = packed(argument, job.reads, parts)
        found.append(name_of(content))
        parts[found[-1]] = content
    content = packed((job.function, tuple(found)), {}, parts)
    parts[name_of(content)] = content
    return name_of(content)


def unpacked_job(name: str, find: Find, reach: Reach) -> tuple[Any, tuple[Any, ...]]:
    """The function and arguments of `packed_job`."""
    made: dict[Any, Any] = {}
    function, names = unpacked(find(name), find, reach, made)
    return function, tuple(unpacked(find(each), find, reach, made) for each in names)


def unpacked(content: bytes, find: Find, reach: Reach, made: dict[Any, Any] | None = None) -> Any:
    """The value that `packed` was given.

    Args:
        content: From `packed`.
        find: Gives parts.
        reach: Gives files.
        made: What was made of parts before, so that equal ones stay one object.

    Raises:
        ExecutorError: It names something that is neither a value nor of quantcore or a plugin, or
            was made by another quantcore.
        Unreachable: As `reach` raises it.
    """
    try:
        return _Unpacker(io.BytesIO(content), find, reach, made).load()
    except (pickle.UnpicklingError, AttributeError, ImportError, EOFError) as error:
        raise ExecutorError(
            f"a job that cannot be read ({error}); has the worker the same quantcore and plugins?"
        ) from None


def name_of(content: bytes) -> str:
    """What a part is called: its SHA-256."""
    return hashlib.sha256(content).hexdigest()


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reads: Mapping[Path, str], parts: Parts) -> None:
        super().__init__(file, protocol=5)
        self._reads, self._parts = reads, parts

    def persistent_id(self, value: Any) -> Any:
        """What stands for a value whose content travels otherwise; None for all others."""
        if isinstance(value, onnx.ModelProto):
            return self._graph(value)
        if type(value) is np.ndarray and value.nbytes >= _LARGE and value.dtype.hasobject is False:
            content = np.ascontiguousarray(value).tobytes()
            return "array", value.dtype.str, value.shape, self._part(content)
        if isinstance(value, Path) and value in self._reads:
            return "file", str(value), self._reads[value]
        return None

    def _graph(self, proto: onnx.ModelProto) -> Any:
        """Constants by themselves: the many graphs of a study share nearly all of them."""
        light = onnx.ModelProto()
        light.CopyFrom(proto)
        cut = []
        for number, constant in enumerate(light.graph.initializer):
            if len(constant.raw_data) >= _LARGE:
                cut.append((number, self._part(constant.raw_data)))
                constant.ClearField("raw_data")
        return "graph", self._part(light.SerializeToString(deterministic=True)), tuple(cut)

    def _part(self, content: bytes) -> str:
        name = name_of(content)
        self._parts[name] = content
        return name


class _Unpacker(pickle.Unpickler):
    def __init__(
        self, file: io.BytesIO, find: Find, reach: Reach, made: dict[Any, Any] | None
    ) -> None:
        super().__init__(file)
        self._find, self._reach = find, reach
        self._made = {} if made is None else made

    def find_class(self, module: str, name: str) -> Any:
        """Only what quantcore itself packs."""
        if module.partition(".")[0] in _ours() or name in _VALUES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is none of quantcore's or a plugin's")

    def persistent_load(self, told: Any) -> Any:
        """What `_Packer.persistent_id` stands for; one object for one content."""
        if told not in self._made:
            self._made[told] = self._load(*told)
        return self._made[told]

    def _load(self, kind: str, *about: Any) -> Any:
        if kind == "graph":
            light, cut = about
            proto = onnx.ModelProto.FromString(self._find(light))
            for number, name in cut:
                proto.graph.initializer[number].raw_data = self._find(name)
            return proto
        if kind == "array":
            dtype, shape, name = about
            return np.frombuffer(self._find(name), dtype).reshape(shape).copy()
        path, digest = about
        return self._reach(Path(path), digest)


@lru_cache(maxsize=1)
def _ours() -> frozenset[str]:
    """Top-level packages of quantcore and of every plugin that is installed."""
    found = {
        point.value.partition(":")[0].partition(".")[0]
        for distribution in metadata.distributions()
        for point in distribution.entry_points
        if point.group.startswith("quantcore.")
    }
    return frozenset({"quantcore", *found})
