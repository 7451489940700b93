"""Whether a JPEG lacks nothing but its end marker."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_FRAMES = {0xC0, 0xC1, 0xC2}  # sequential and progressive, the codings that libjpeg decodes
_SCAN = 0xDA
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_COEFFICIENTS = 64


def with_end(file: Path) -> bytes | None:
    """The content of a JPEG with the end marker that alone is missing; None for any other file.

    Every coefficient has to have been coded to its last bit, and the last scan to be whole: then what follows it, here
    nothing or something else, changes no pixel.
    """
    try:
        with file.open("rb") as opened:
            if opened.read(3) != _START:
                return None
            opened.seek(-2, io.SEEK_END)
            if opened.read(2) == _END:
                return None
        content = file.read_bytes().removesuffix(b"\xff")
    except OSError:
        return None
    if not _all_coded(content):
        return None
    try:
        one, other = (_pixels(content + more + _END) for more in (b"", b"\xaa" * 64))
    except Exception:  # Pillow's decoders raise whatever a damaged file makes them raise
        return None
    return content + _END if np.array_equal(one, other) else None


def _pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def _all_coded(content: bytes) -> bool:
    """Whether the scans that begin in the file code all bits of all coefficients of all components (ITU T.81, B.2)."""
    missing: dict[int, list[int]] = {}  # component -> the bits of each coefficient that are not coded yet
    position = 2
    while (position := content.find(b"\xff", position)) >= 0 and position + 4 <= len(content):
        marker = content[position + 1]
        if marker in (0x00, 0xFF) or marker in _ALONE:  # within a scan
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        body = content[position + 4 : position + 2 + length]
        if marker in _FRAMES and len(body) >= 6:
            missing = {number: [16] * _COEFFICIENTS for number in body[6 : 6 + 3 * body[5] : 3]}
        elif marker == _SCAN and body and len(body) >= 4 + 2 * body[0]:
            first, last, bits = body[-3], body[-2], body[-1] & 15
            for number in body[1 : 1 + 2 * body[0] : 2]:
                known = missing.get(number, [])
                known[first : last + 1] = [bits] * len(known[first : last + 1])
        position += 2 + length
    return bool(missing) and not any(any(bits) for bits in missing.values())
