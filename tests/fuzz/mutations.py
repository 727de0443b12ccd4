"""Changes of files, each drawn from a seeded generator: the same seed gives the same input."""

from __future__ import annotations

import io
import pickletools
import random
import re
from collections.abc import Callable

#: What readers have stumbled over: sizes, signs, types, names, characters.
NUMBERS = (
    *(b"0", b"-1", b"1e999", b"-0.0", b"NaN", b"Infinity", b"-Infinity", b"1e-400", b"true"),
    *(b"null", b'"1"', b"[]", b"{}", b"1.5", b"2147483648", b"18446744073709551616"),
    *(b"9" * 400, b"-" + b"9" * 5000, b"1e300", b"0x" + b"f" * 9000, b"[[[[]]]]", b'""'),
)
TEXTS = (
    *(b"", b"[/bold]", b"\\n\\u001b[31m", b"../../../etc/passwd", b"/dev/zero", b"\\u0000"),
    *(b"\\ud800", b"a" * 10_000, b"~nosuchuser/x", b"nan", b"%s%n", b"\xc3\xa4", b"__class__"),
)
BYTES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"[", b"{", b'"', b",", b":", b"\n", b"&a ", b"*a")

Mutate = Callable[[bytes, random.Random], bytes]


def changed(data: bytes, draw: random.Random, ways: tuple[Mutate, ...]) -> bytes:
    """The data after one to four changes."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        data = draw.choice(ways)(data, draw)
    return data


def one_byte(data: bytes, draw: random.Random) -> bytes:
    """Another byte at some place."""
    if not data:
        return bytes([draw.randrange(256)])
    at = draw.randrange(len(data))
    return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]


def one_bit(data: bytes, draw: random.Random) -> bytes:
    """One bit turned."""
    if not data:
        return b""
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, draw: random.Random) -> bytes:
    """The end gone."""
    return data[: draw.randrange(len(data) + 1)]


def without_a_piece(data: bytes, draw: random.Random) -> bytes:
    """A piece gone."""
    at = draw.randrange(len(data) + 1)
    return data[:at] + data[at + draw.randrange(1, 64) :]


def with_a_piece(data: bytes, draw: random.Random) -> bytes:
    """A piece put in."""
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice(BYTES) * draw.choice((1, 2, 8, 3000)) + data[at:]


def with_a_copy(data: bytes, draw: random.Random) -> bytes:
    """A piece repeated, up to a hundred times."""
    at, length = draw.randrange(len(data) + 1), draw.randrange(1, 200)
    return data[:at] + data[at : at + length] * draw.choice((2, 3, 100)) + data[at + length :]


def zeroed(data: bytes, draw: random.Random) -> bytes:
    """A piece of zeros, as a disk leaves them."""
    at, length = draw.randrange(len(data) + 1), draw.choice((4, 64, 2048))
    return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]


def large_number(data: bytes, draw: random.Random) -> bytes:
    """Four or eight bytes that a binary format takes for a size."""
    at = draw.randrange(len(data) + 1)
    value = draw.choice((b"\xff" * 4, b"\xff" * 8, b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f"))
    return data[:at] + value + data[at + len(value) :]


def other_number(data: bytes, draw: random.Random) -> bytes:
    """A number in a text replaced."""
    return _replaced(data, draw, rb"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", NUMBERS)


def other_text(data: bytes, draw: random.Random) -> bytes:
    """What stands between quotes replaced."""
    return _replaced(data, draw, rb'(?<=")[^"\n]*(?=")', TEXTS)


def other_value(data: bytes, draw: random.Random) -> bytes:
    """A word replaced by another kind of value."""
    return _replaced(data, draw, rb"\b[A-Za-z_]+\b", (*NUMBERS, *TEXTS))


def deep(data: bytes, draw: random.Random) -> bytes:
    """A number replaced by lists in lists."""
    depth = draw.choice((20, 100, 20_000))
    return _replaced(data, draw, rb"\d+", (b"[" * depth + b"]" * depth, b'{"a":' * depth))


def _replaced(data: bytes, draw: random.Random, pattern: bytes, by: tuple[bytes, ...]) -> bytes:
    found = list(re.finditer(pattern, data))
    if not found:
        return one_byte(data, draw)
    chosen = draw.choice(found)
    return data[: chosen.start()] + draw.choice(by) + data[chosen.end() :]


def other_operations(data: bytes, draw: random.Random) -> bytes:
    """A pickle with an operation gone, repeated, moved, or another one in its place."""
    places = _operations(data)
    if len(places) < 3:
        return one_byte(data, draw)
    pieces = [data[a:b] for a, b in zip(places, [*places[1:], len(data)], strict=True)]
    at, other = draw.randrange(len(pieces)), draw.randrange(len(pieces))
    way = draw.randrange(5)
    if way == 0:
        del pieces[at]
    elif way == 1:
        pieces[at] *= draw.choice((2, 50, 5000))
    elif way == 2:
        pieces[at], pieces[other] = pieces[other], pieces[at]
    elif way == 3:
        pieces.insert(at, pieces[other])
    else:
        pieces[at] = draw.choice(_PICKLED)
    return b"".join(pieces)


def _operations(data: bytes) -> list[int]:
    places = []
    try:
        for _, _, at in pickletools.genops(io.BytesIO(data)):
            places.append(at or 0)
    except Exception:
        pass
    return places


_PICKLED = (
    *(b"N", b"]", b"}", b")", b"(", b"t", b"R", b"b", b"0", b"2", b"\x85" * 3000, b"2\x86" * 40),
    *(b"u", b"s", b"e", b"a", b"\x90", b"\x91", b"\x8f", b"\x81", b"Q", b"r\xff\xff\xff\x7f"),
    *(b"\x8a\x20" + b"\xff" * 32, b"J\xff\xff\xff\xff", b"G" + b"\x7f\xf0" + bytes(6)),
    *(b"cos\nsystem\n", b"ccollections\nOrderedDict\n)R", b"c__builtin__\nset\n", b"h\x01"),
)

BINARY: tuple[Mutate, ...] = (
    *(one_byte, one_bit, cut, without_a_piece, with_a_piece, with_a_copy, zeroed, large_number),
)
TEXTUAL: tuple[Mutate, ...] = (
    *(other_number, other_text, other_value, other_number, deep),
    *(one_byte, cut, without_a_piece, with_a_piece, with_a_copy),
)
PICKLED: tuple[Mutate, ...] = (*BINARY, *(other_operations,) * 8)
