"""Finished pieces as bytes and back: typed, exact and never pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import onnx

T = TypeVar("T")


def encoded(value: object) -> bytes:
    """A value as msgpack: dataclasses, containers, plain values, arrays, graphs and paths.

    Raises:
        TypeError: It holds something else.
    """
    return msgspec.msgpack.encode(value, enc_hook=_plain)


def decoded(content: bytes, kind: type[T]) -> T:
    """The value that `encoded` was given.

    Args:
        content: From `encoded`.
        kind: Its class: a dataclass, or a container of such and of plain values.

    Raises:
        ValueError: The content is no such value.
    """
    try:
        return msgspec.msgpack.decode(content, type=kind, dec_hook=_made)
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(str(error)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, onnx.ModelProto):
        return value.SerializeToString(deterministic=True)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _made(kind: Any, value: Any) -> Any:
    if kind is np.ndarray or getattr(kind, "__origin__", None) is np.ndarray:
        dtype, shape, content = value
        return np.frombuffer(content, dtype).reshape(shape).copy()
    if kind is onnx.ModelProto:
        return onnx.ModelProto.FromString(value)
    return kind(value)
