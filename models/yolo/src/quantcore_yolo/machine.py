"""The opcodes of a pickle, carried out on plain values only, with a bound on all that they do.

Python's own unpickler cannot be bounded: a memo index of 2**28 takes gigabytes, the hash of a
nested tuple ends the process or never ends, and both take a hundred bytes to ask for. Here the memo
is a dict, only what may be a key is hashed, and every operation and copied element is counted.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, TypeAlias

from quantcore_yolo.records import Named, Record

#: Operations, and elements that are copied; the largest checkpoint of a training run has 300,000.
MOST_WORK = 2_000_000
#: Keys that are tuples: their hashes can be made to collide, and no checkpoint has more than a few.
_MOST_TUPLES = 1000
#: The same goes for whole numbers beyond this.
_LARGEST_KEY = 1 << 60

#: Finds what a name stands for; calls what was found.
Find: TypeAlias = Callable[[str, str], object]
Call: TypeAlias = Callable[[object, tuple[object, ...]], object]


class PickleError(Exception):
    """The pickle is malformed, or asks for more than a checkpoint does."""


class Machine:
    """Carries out one pickle.

    Args:
        find: What a module and a name stand for.
        call: What calling that with arguments gives.
        load: What a persistent id stands for.
    """

    def __init__(self, find: Find, call: Call, load: Callable[[object], object]) -> None:
        self._find, self._call, self._load = find, call, load
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self._work = self._tuples = 0

    def run(self, data: bytes) -> object:
        """The value that a pickle leaves behind.

        Raises:
            PickleError: It is malformed, or too much.
            ValueError: It breaks off, or holds an operation that there is not.
            IndexError: It takes more from the stack than there is.
        """
        for operation, argument, _ in pickletools.genops(io.BytesIO(data)):
            self.spend(1)
            name = operation.name
            if name in _PUSHED:
                self._stack.append(argument)
            elif name == "STOP":
                return self._stack.pop()
            elif name not in _IGNORED:
                step = _STEPS.get(name)
                if step is None:
                    raise PickleError(f"operation {name} has no place in a checkpoint")
                step(self, argument)
        raise PickleError("it breaks off")

    def spend(self, amount: int) -> None:
        """Counts work; raises PickleError once it is more than any checkpoint takes."""
        self._work += amount
        if self._work > MOST_WORK:
            raise PickleError(f"it takes more than {MOST_WORK} operations")

    def key(self, value: object) -> Any:
        """A value that may be a key of a dict or an element of a set; raises PickleError."""
        if type(value) is tuple:
            self._tuples += 1
            if self._tuples > _MOST_TUPLES or len(value) > 8:
                raise PickleError("too many keys are tuples")
            if not all(_plain_key(entry) for entry in value):
                raise PickleError("a key is a tuple of more than texts and numbers")
        elif not _plain_key(value):
            raise PickleError(f"a {type(value).__name__} cannot be a key")
        return value

    def pairs(self, values: object) -> dict[object, object]:
        """A dict from a dict, or from pairs of key and value; raises PickleError."""
        if isinstance(values, dict):
            self.spend(len(values))
            return dict(values)
        found = {}
        for pair in self.elements(values):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise PickleError("a dict is made of something else than pairs")
            found[self.key(pair[0])] = pair[1]
        return found

    def elements(self, values: object) -> list[object]:
        """A copy of the elements of a container; raises PickleError."""
        if not isinstance(values, list | tuple | set | frozenset | dict):
            raise PickleError(f"a {type(values).__name__} has no elements")
        self.spend(len(values))
        return list(values)

    def _marked(self) -> list[Any]:
        """Everything above the last mark."""
        if not self._marks:
            raise PickleError("it takes what was never put")
        start = self._marks.pop()
        found = self._stack[start:]
        del self._stack[start:]
        return found

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _drop_marked(self, _: Any) -> None:
        self._marked()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: Any) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: Any) -> None:
        if index not in self._memo:
            raise PickleError("it names a value that was never kept")
        self._stack.append(self._memo[index])

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(values)
        elif not isinstance(target, Record):  # items of what would have been a kind of list
            raise PickleError("it appends to what is no list")

    def _set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set_items(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, flat: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Record):  # items of what would have been a kind of dict
            return
        if type(target) is not dict or len(flat) % 2:
            raise PickleError("it sets items of what is no dict")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[self.key(key)] = value

    def _add_items(self, _: Any) -> None:
        values, target = self._marked(), self._stack[-1]
        if type(target) is not set:
            raise PickleError("it adds to what is no set")
        target.update(map(self.key, values))

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise PickleError("it takes what was never put")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _dict(self, _: Any) -> None:
        flat = self._marked()
        self._stack.append({})
        self._set(flat)

    def _global(self, names: Any) -> None:
        module, _, name = names.partition(" ")
        self._stack.append(self._find(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("a name is no text")
        self._stack.append(self._find(module, name))

    def _reduce(self, _: Any) -> None:
        """A call: also what NEWOBJ asks for, since nothing is built."""
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(arguments, tuple):
            raise PickleError("the arguments of a call are no tuple")
        self._stack.append(self._call(function, arguments))

    def _new_with_names(self, _: Any) -> None:
        self._stack.pop()
        self._reduce(None)

    def _instance(self, names: Any) -> None:
        arguments = tuple(self._marked())
        self._global(names)
        self._stack.append(self._call(self._stack.pop(), arguments))

    def _object(self, _: Any) -> None:
        marked = self._marked()
        if not marked:
            raise PickleError("it builds nothing")
        self._stack.append(self._call(marked[0], tuple(marked[1:])))

    def _build(self, _: Any) -> None:
        """Keeps the state of a record; that of a container is dropped, it could only do harm."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Named | list | set | tuple) or target is None:
            raise PickleError("it sets attributes of what has none")
        if not isinstance(target, Record):
            return
        if isinstance(state, dict):
            self.spend(len(state))
            target.state.update(state)
        else:
            self.spend(len(target.args))
            target.args = (*target.args, state)

    def _persistent(self, _: Any) -> None:
        self._stack.append(self._load(self._stack.pop()))


def _plain_key(value: object) -> bool:
    if type(value) is int:
        return abs(value) < _LARGEST_KEY
    return type(value) in (str, bytes, bool, type(None)) or isinstance(value, Record | Named)


#: Operations that push their argument.
_PUSHED = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("FLOAT", "BINFLOAT"),
    )
)
_IGNORED = frozenset({"PROTO", "FRAME"})

_Step = Callable[[Machine, Any], None]


def _constant(make: Callable[[], object]) -> _Step:
    return lambda machine, _: machine._stack.append(make())


_STEPS: dict[str, _Step] = {
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_SET": _constant(set),
    "LIST": lambda machine, _: machine._stack.append(machine._marked()),
    "TUPLE": lambda machine, _: machine._stack.append(tuple(machine._marked())),
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "FROZENSET": lambda machine, _: machine._stack.append(
        frozenset(map(machine.key, machine._marked()))
    ),
    "DICT": Machine._dict,
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._drop_marked,
    "DUP": Machine._duplicate,
    "PUT": Machine._put,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._memoize,
    "GET": Machine._get,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "ADDITEMS": Machine._add_items,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._new_with_names,
    "INST": Machine._instance,
    "OBJ": Machine._object,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent,
    "PERSID": lambda machine, argument: machine._stack.append(machine._load(argument)),
}
