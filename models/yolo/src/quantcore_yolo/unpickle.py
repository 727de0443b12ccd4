"""Reads the pickle of a checkpoint without importing, building or calling anything it names."""

from __future__ import annotations

import re

from quantcore.errors import CheckpointError
from quantcore.showing import one_line, shown
from quantcore_yolo.machine import Machine, PickleError
from quantcore_yolo.records import BoundMethod, Named, Record, Storage, TensorRecord

#: More text than any name or number of a checkpoint has; encoding it is counted as work.
_CHARACTERS_PER_STEP = 64

#: Harmless containers, which are the only classes that really get built.
_CONTAINERS = frozenset(
    {
        "builtins.dict",
        "builtins.frozenset",
        "builtins.list",
        "builtins.set",
        "builtins.tuple",
        "collections.OrderedDict",
    }
)

#: Functions that are known to yield something that is looked at.
_ENCODE, _GETATTR, _TENSOR = "_codecs.encode", "builtins.getattr", "torch._utils._rebuild_tensor_v2"
_PARAMETERS = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
_SPECIAL = frozenset({_ENCODE, _GETATTR, _TENSOR}) | _PARAMETERS

#: Names that honest checkpoints hold beside their modules; all become records.
_INERT = re.compile(
    r"torch\.((cuda\.)?\w+Storage|Size|device|(b?float|half|double|u?int|long|short|bool)\d*|Tensor"
    r"|storage\.\w+Storage|serialization\._get_layout)"
    r"|numpy\.(ndarray|dtype|dtypes\.\w+|_?core\.multiarray\.(_reconstruct|scalar)|u?int\d+|float\d+|bool_?)"
    r"|argparse\.Namespace|collections\.defaultdict|datetime\.(datetime|date|timedelta)|pathlib\.\w+"
    r"|(torch\.nn|models|utils|ultralytics|yolov5|yolov7)\.[\w.]+"
)

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
#: Longer names than any class has.
_LONGEST_NAME = 300


class _RefusedError(Exception):
    """The pickle asks for something outside the list; carries its name."""


def unpickle(data: bytes, origin: str) -> object:
    """The object that a pickle describes, with records in place of everything that has a class.

    Args:
        data: The pickle.
        origin: The file it comes from, for the error message.

    Raises:
        CheckpointError: The pickle is damaged, asks for more memory or time than a checkpoint
            takes, or names something that would run code.
    """
    calls = _Calls()
    calls.machine = Machine(_find, calls.call, _load)
    try:
        return calls.machine.run(data)
    except _RefusedError as refused:
        raise CheckpointError(
            f"{origin}: refused, it names {shown(str(refused), 100)}, which would run code when "
            "loaded; use a checkpoint from a source that you trust"
        ) from None
    except (PickleError, ValueError, IndexError, TypeError, RecursionError) as error:
        kind = "" if isinstance(error, PickleError) else f"{type(error).__name__}: "
        raise CheckpointError(
            f"{origin}: its pickle is damaged ({kind}{one_line(str(error), 200)}); "
            "download or save the checkpoint again"
        ) from None


def _find(module: str, name: str) -> Named:
    """The name itself, where it is on the list."""
    path = f"{_RENAMED.get(module, module)}.{name}"
    known = path in _CONTAINERS or path in _SPECIAL
    if not known and (len(path) > _LONGEST_NAME or not _INERT.fullmatch(path)):
        raise _RefusedError(path)
    return Named(path)


def _load(pid: object) -> Storage:
    """A storage, named by its class, its key in the archive and its number of elements."""
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
        raise _RefusedError("a persistent object that is not a tensor storage")
    _, kind, key, _, count = pid
    if not isinstance(kind, Named):
        raise _RefusedError("a persistent object that is not a tensor storage")
    return Storage(kind.path, (kind.path, key, count))


class _Calls:
    """What calling the names of the list gives.

    Attributes:
        machine: What counts the work.
    """

    machine: Machine

    def call(self, function: object, args: tuple[object, ...]) -> object:
        """The value of a call, or a record of it."""
        if not isinstance(function, Named):
            raise PickleError(f"it calls {shown(function, 60)}")
        path = function.path
        if path in _CONTAINERS:
            return self._container(path, args)
        if path == _TENSOR:
            return TensorRecord(path, args)
        if path in _PARAMETERS:  # a parameter is nothing but its tensor
            return args[0] if args else None
        if path == _ENCODE:
            return self._encoded(args)
        if path == _GETATTR:
            return _bound(args)
        return Record(path, args)

    def _container(self, path: str, args: tuple[object, ...]) -> object:
        kind = path.rpartition(".")[2]
        given = args[0] if args else ()
        if kind in ("dict", "OrderedDict"):
            return self.machine.pairs(given)
        values = self.machine.elements(given)
        if kind == "list":
            return values
        if kind == "tuple":
            return tuple(values)
        keys = map(self.machine.key, values)
        return set(keys) if kind == "set" else frozenset(keys)

    def _encoded(self, args: tuple[object, ...]) -> bytes:
        """`_codecs.encode`, with which protocol 2 spells bytes."""
        text, encoding = (*args, "", "latin1")[:2] if len(args) != 1 else (args[0], "latin1")
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _RefusedError(_ENCODE)
        self.machine.spend(len(text) // _CHARACTERS_PER_STEP)
        return text.encode("latin1")


def _bound(args: tuple[object, ...]) -> BoundMethod:
    """Accepts forward methods of recorded modules; `getattr` has no other honest use here."""
    owner, name = args if len(args) == 2 else (None, None)
    known = isinstance(owner, Record) and isinstance(name, str)
    if not known or not re.fullmatch(r"(forward|fuse)\w{0,40}", str(name)):
        raise _RefusedError(_GETATTR)
    return BoundMethod(_GETATTR, (name,))
