"""Arrays and bytes as compact text inside JSON."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt


def pack(data: bytes) -> str:
    """Bytes as text: zlib (RFC 1950), then base64 (RFC 4648)."""
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def unpack(text: str, most: int) -> bytes:
    """What `pack` was given.

    Args:
        text: From `pack`.
        most: Refuses to unpack more bytes than this, for the text may be anybody's.

    Raises:
        ValueError: Not such a text, or too much.
    """
    if not isinstance(text, str):
        raise ValueError(f"packed data must be a text, not {type(text).__name__}")
    try:
        stream = zlib.decompressobj()
        found = stream.decompress(base64.b64decode(text, validate=True), most + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"packed data is damaged: {error}") from None
    if len(found) > most:
        raise ValueError(f"packed data holds more than {most} bytes")
    if not stream.eof:
        raise ValueError("packed data is cut off")
    return found


def pack_array(values: npt.NDArray[Any]) -> str:
    """An array's values in order, little-endian, its bytes of one place value side by side.

    Counts are small numbers in wide integers: with their upper bytes together, zlib needs half.
    """
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return pack(little.view(np.uint8).reshape(-1, values.dtype.itemsize).T.tobytes())


def unpack_array(text: str, dtype: npt.DTypeLike, most: int) -> npt.NDArray[Any]:
    """The values that `pack_array` was given, at most `most` of them; raises ValueError."""
    kind = np.dtype(dtype)
    data = np.frombuffer(unpack(text, most * kind.itemsize), np.uint8)
    if data.size % kind.itemsize:
        raise ValueError(f"packed data is no array of {kind}")
    values = np.ascontiguousarray(data.reshape(kind.itemsize, -1).T).view(kind.newbyteorder("<"))
    found: npt.NDArray[Any] = values.reshape(-1).astype(kind)
    return found
