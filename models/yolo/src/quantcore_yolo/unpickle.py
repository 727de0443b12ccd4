"""Reads the pickle of a checkpoint without importing, building or calling anything it names."""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from typing import Any, ClassVar

from quantcore.errors import CheckpointError


class Record:
    """An object of the checkpoint, left unbuilt: the name of its class, its arguments, its state.

    Attributes:
        path: Full name of the class or function that the checkpoint asked for.
        args: What it would have been called with.
        state: What its attributes would have been.
    """

    path: ClassVar[str] = ""
    args: tuple[object, ...]
    state: dict[str, object]

    def __new__(cls, *args: object, **_: object) -> Any:
        """Remembers the arguments; a pickle may create an object without initialising it."""
        self = super().__new__(cls)
        self.args = args
        self.state = {}
        return self

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Remembers the state; one that is no dict of attributes joins the arguments."""
        if isinstance(state, dict):
            self.state.update(state)
        else:
            self.args = (*self.args, state)

    def __setitem__(self, key: object, value: object) -> None:
        """Drops an item of what would have been a kind of dict."""

    def extend(self, values: object) -> None:
        """Drops items of what would have been a kind of list."""

    append = extend

    @property
    def kind(self) -> str:
        """Name of the class without its module."""
        return self.path.rpartition(".")[2]


class Storage(Record):
    """Where the numbers of a tensor lie; `args` are storage class, key and count."""


class TensorRecord(Record):
    """A tensor; `args` are storage, offset, size and strides, then what inference ignores."""


class Parameter(Record):
    """A parameter is nothing but its tensor."""

    def __new__(cls, data: object = None, *_: object, **__: object) -> Any:
        """Returns the tensor itself."""
        return data


class BoundMethod(Record):
    """What a fused module stores as its `forward`: only the method's name is kept."""

    def __new__(cls, owner: object = None, name: object = None, *_: object, **__: object) -> Any:
        """Accepts forward methods of recorded modules; `getattr` has no other honest use here."""
        if not (
            isinstance(owner, Record)
            and isinstance(name, str)
            and re.fullmatch(r"(forward|fuse)\w*", name)
        ):
            raise _RefusedError("builtins.getattr")
        return super().__new__(cls, name)


class _Encode(Record):
    """`_codecs.encode`, with which protocol 2 spells bytes."""

    def __new__(
        cls, text: object = "", encoding: object = "latin1", *_: object, **__: object
    ) -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _RefusedError("_codecs.encode")
        return text.encode("latin1")


class _RefusedError(Exception):
    """The pickle asks for something outside the list; carries its name."""


#: Harmless containers, which are the only classes that really get built.
_CONTAINERS: dict[str, type] = {
    "builtins.dict": dict,
    "builtins.frozenset": frozenset,
    "builtins.list": list,
    "builtins.set": set,
    "builtins.tuple": tuple,
    "collections.OrderedDict": OrderedDict,
}

_SPECIAL: dict[str, type[Record]] = {
    "_codecs.encode": _Encode,
    "builtins.getattr": BoundMethod,
    "torch._utils._rebuild_parameter": Parameter,
    "torch._utils._rebuild_parameter_with_state": Parameter,
    "torch._utils._rebuild_tensor_v2": TensorRecord,
}

#: Names that honest checkpoints hold beside their modules; all become records.
_INERT = re.compile(
    r"torch\.((cuda\.)?\w+Storage|Size|device|(b?float|half|double|u?int|long|short|bool)\d*|Tensor"
    r"|storage\.\w+Storage|serialization\._get_layout)"
    r"|numpy\.(ndarray|dtype|dtypes\.\w+|_?core\.multiarray\.(_reconstruct|scalar)|u?int\d+|float\d+|bool_?)"
    r"|argparse\.Namespace|collections\.defaultdict|datetime\.(datetime|date|timedelta)|pathlib\.\w+"
    r"|(torch\.nn|models|utils|ultralytics|yolov5|yolov7)\.[\w.]+"
)

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class _InertUnpickler(pickle.Unpickler):
    """An unpickler for which every global is a name and nothing more."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._classes: dict[str, type] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        """A record class of that name, made for this file only, so that nothing outlives it."""
        path = f"{_RENAMED.get(module, module)}.{name}"
        if path in _CONTAINERS:
            return _CONTAINERS[path]
        if path not in _SPECIAL and not _INERT.fullmatch(path):
            raise _RefusedError(path)
        if path not in self._classes:
            base = _SPECIAL.get(path, Record)
            self._classes[path] = type(base.__name__, (base,), {"path": path})
        return self._classes[path]

    def persistent_load(self, pid: Any, /) -> Storage:
        """A storage, named by its class, its key in the archive and its number of elements."""
        tag, kind, key, _, count = pid
        if tag != "storage" or not (isinstance(kind, type) and issubclass(kind, Record)):
            raise _RefusedError("a persistent object that is not a tensor storage")
        storage: Storage = Storage(kind.path, key, count)
        return storage


def unpickle(data: bytes, origin: str) -> object:
    """The object that a pickle describes, with records in place of everything that has a class.

    Args:
        data: The pickle.
        origin: The file it comes from, for the error message.

    Raises:
        CheckpointError: The pickle is damaged, or names something that would run code.
    """
    try:
        return _InertUnpickler(io.BytesIO(data)).load()
    except _RefusedError as refused:
        raise CheckpointError(
            f"{origin}: refused, it names {refused}, which would run code when loaded; "
            "use a checkpoint from a source that you trust"
        ) from None
    except Exception as error:  # a hostile pickle can provoke nearly any of them
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{origin}: its pickle is damaged ({type(error).__name__}: {reason}); "
            "download or save the checkpoint again"
        ) from None
