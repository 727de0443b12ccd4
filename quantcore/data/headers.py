"""What the first bytes of an image file say: its size, and whether its data is all there.

A decoder believes the header and takes memory for it: a PNG of 2.6 MB can ask for 2.7 GB. So the
header is read here first. Formats that are not known here are left to the decoder, which has a
bound of its own (`quantcore.data`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

#: Width and height in pixels.
Size = tuple[int, int]

_PNG = b"\x89PNG\r\n\x1a\n"

#: Scans of a progressive JPEG: encoders write a dozen, and each takes a pass over all pixels.
_MOST_SCANS = 100
#: Zero bytes in a row that no photograph's coded data holds.
_HOLE = bytes(1024)
#: Start-of-frame markers of JPEG; the others of their range are tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BASELINE = (0xC0, 0xC1)


def header_size(content: bytes) -> Size | None:
    """Width and height as an image's header has them; None where the format is not known here."""
    try:
        if content.startswith(_PNG):
            return struct.unpack_from(">LL", content, 16)
        if content.startswith(b"\xff\xd8"):
            return _jpeg_size(content)
        if content.startswith(b"BM"):
            width, height = struct.unpack_from("<ll", content, 18)
            return abs(width), abs(height)
        if content.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack_from("<HH", content, 6)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _webp_size(content)
    except struct.error:  # it ends before the numbers do
        return 0, 0
    return None


def kinds(content: bytes) -> list[str]:
    """What is unlike the usual about an image: `grey`, `CMYK`, `16 bits`, `turned by EXIF`."""
    found = []
    if content.startswith(_PNG) and len(content) > 25:
        found = ["16 bits"] * (content[24] == 16) + ["grey"] * (content[25] in (0, 4))
    elif content.startswith(b"\xff\xd8"):
        frame = next((at for marker, at in _segments(content) if marker in _FRAMES), None)
        channels = content[frame + 5] if frame is not None and frame + 5 < len(content) else 3
        found = ["grey"] * (channels == 1) + ["CMYK"] * (channels == 4)
    return [*found, *["turned by EXIF"] * bool(turned(content))]


def turned(content: bytes) -> bool | None:
    """Whether decoding exchanges width and height, as a JPEG's EXIF may ask; None where unknown."""
    if not content.startswith(b"\xff\xd8"):
        return None if b"eXIf" in content or b"EXIF" in content else False
    for marker, at in _segments(content):
        if marker == 0xE1 and content[at : at + 6] == b"Exif\0\0":
            return _orientation(content, at + 6) in (5, 6, 7, 8)
    return False


def _orientation(content: bytes, at: int) -> int:
    """The value of tag 274 in the first directory of a TIFF header; 1 where there is none."""
    order = ">" if content[at : at + 2] == b"MM" else "<"
    try:
        (first,) = struct.unpack_from(f"{order}L", content, at + 4)
        (count,) = struct.unpack_from(f"{order}H", content, at + first)
        for entry in range(at + first + 2, at + first + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLH", content, entry)
            if (tag, kind) == (274, 3):
                return int(value)
    except struct.error:  # it ends before the numbers do
        pass
    return 1


def fault(content: bytes) -> str | None:
    """What is wrong with the data of an image, as far as that is told without decoding it."""
    if content.startswith(b"\xff\xd8"):
        return _jpeg_fault(content)
    return _png_fault(content) if content.startswith(_PNG) else None


def _png_fault(content: bytes) -> str | None:
    """Holds the critical chunks against their checksums."""
    at = len(_PNG)
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        end = at + 8 + length
        kind, told = content[at + 4 : at + 8], content[end : end + 4]
        if len(told) < 4:
            break
        if kind[:1].isupper() and zlib.crc32(content[at + 4 : end]) != int.from_bytes(told, "big"):
            return "a checksum in it does not hold"
        if kind == b"IEND":
            return None
        at = end + 4
    return "it breaks off"


def _jpeg_fault(content: bytes) -> str | None:
    """What is wrong with the coded data of a JPEG, which decoders fill up with grey; else None.

    Coded data cannot hold a marker, and a thumbnail's end lies before the last scan starts.
    """
    end, last = content.rfind(b"\xff\xd9"), content.rfind(b"\xff\xda")
    if end < last or last < 0:
        return "it breaks off"
    if content.count(b"\xff\xda") > _MOST_SCANS:
        return f"it has more than {_MOST_SCANS} scans"
    first = next((at for marker, at in _segments(content) if marker == 0xDA), last)
    if content.find(_HOLE, first, end) >= 0 and not _may_be_blank(content):
        return "a part of its data is zeroed"
    return None


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Marker and offset of the payload of each segment of a JPEG up to its first scan."""
    at = 2
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            return
        marker = content[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a payload
            at += 2
            continue
        yield marker, at + 4
        if marker in (0xDA, 0xD9):
            return
        at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))


def _jpeg_size(content: bytes) -> Size:
    for marker, at in _segments(content):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 1)
            return width, height
    return 0, 0


def _may_be_blank(content: bytes) -> bool:
    """Whether zero bits are how this JPEG codes blank areas, as a scan of white paper may.

    So they are where the shortest code of every AC table ends a block; the usual tables begin with
    a small coefficient.
    """
    firsts = []
    for marker, at in _segments(content):
        if marker in _FRAMES and marker not in _BASELINE:
            return False
        end = at + int.from_bytes(content[at - 2 : at], "big") - 2
        while marker == 0xC4 and at + 17 < end:
            if content[at] & 0xF0:  # class AC
                firsts.append(content[at + 17])
            at += 17 + sum(content[at + 1 : at + 17])
    return bool(firsts) and not any(firsts)


def _webp_size(content: bytes) -> Size:
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + _three(content, 24), 1 + _three(content, 27)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<L", content, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


def _three(content: bytes, at: int) -> int:
    low, high = struct.unpack_from("<HB", content, at)
    return int(low | high << 16)
