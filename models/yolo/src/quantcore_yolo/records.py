"""What stands in an unpickled checkpoint where torch would have built an object."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Named:
    """A class or function that the checkpoint names; nothing of that name is ever looked up.

    Attributes:
        path: Its full name.
    """

    path: str


@dataclass(eq=False, slots=True)
class Record:
    """An object of the checkpoint, left unbuilt: the name of its class, its arguments, its state.

    Attributes:
        path: Full name of the class or function that the checkpoint asked for.
        args: What it would have been called with.
        state: What its attributes would have been.
    """

    path: str
    args: tuple[object, ...] = ()
    state: dict[object, object] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Name of the class without its module."""
        return self.path.rpartition(".")[2]


class Storage(Record):
    """Where the numbers of a tensor lie; `args` are storage class, key and count."""

    __slots__ = ()


class TensorRecord(Record):
    """A tensor; `args` are storage, offset, size and strides, then what inference ignores."""

    __slots__ = ()


class BoundMethod(Record):
    """What a fused module stores as its `forward`: only the method's name is kept, in `args`."""

    __slots__ = ()
