"""What the first bytes of files say: whether they are pictures, and a key under which each is kept."""

from __future__ import annotations

import codecs
import functools
import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tf_ddpm.datasets.finding import Found
from tf_ddpm.datasets.pictures import Reader, check_memory
from tf_ddpm.runtime import own_files
from tf_ddpm.runtime.control_group import cores
from tf_ddpm.runtime.progress import Progress

_BYTES = 4096
_TOGETHER = 512  # files
_PNG = b"\x89PNG\r\n\x1a\n"
_SURE = (b"\xff\xd8\xff", _PNG, b"GIF87a", b"GIF89a")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a JPEG that are followed by its size
_DENSEST = 10_000  # pixels in a byte of a PNG or JPEG
_OWN = own_files.MADE_BY.encode()


class Head(NamedTuple):
    """Of a file.

    Attributes:
      key: made of its path below the root, its size, its time of change and bytes at its beginning, middle and end: a
        folder may move, and a file that has changed has another one.
      content: made of the same but for the time, more cheaply: of two versions of one file, not of any two files.
      problem: why it is no picture; empty: it is this program's own; None: it is one, as far as its head says.
      refusal: why it will not be decoded though it is one, as far as its head says; None: it will.
    """

    key: bytes
    content: bytes
    problem: str | None
    refusal: str | None = None


def read(found: Sequence[Found], root: Path, reader: Reader) -> list[Head]:
    """The heads of all files below `root`."""
    first, *parts = [found[start : start + _TOGETHER] for start in range(0, len(found), _TOGETHER)] or [[]]
    skipped = 0 if str(root) == "." else len(os.path.join(root, ""))

    def of_part(part: Sequence[Found]) -> list[Head]:
        return [_head(one, skipped, reader) for one in part]

    # Threads help to wait for a disk. Of files that are in memory already, they hinder each other.
    with Progress(len(found), "looking at files", initial=len(first)) as bar:
        began, computed = time.perf_counter(), time.thread_time()
        heads = of_part(first)
        waits = time.perf_counter() - began > 2 * (time.thread_time() - computed)
        with ThreadPoolExecutor(4 * cores() if waits else 1) as pool:
            for more in pool.map(of_part, parts):
                heads += more
                bar.update(len(more))
    return heads


def _head(one: Found, skipped: int, reader: Reader) -> Head:
    file, size, changed = one
    path = str(file)
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            first = os.read(opened, _BYTES)
            others = [os.pread(opened, _BYTES, place) for place in (size // 2, size - _BYTES) if place > 0]
        finally:
            os.close(opened)
    except OSError as error:
        return Head(b"", b"", f"{path}: {error.strerror}")
    about, when = f"{path[skipped:]}\0{size}\0".encode("utf-8", "surrogateescape"), f"{changed}\0".encode()
    blocks = b"".join([first, *others])
    key = hashlib.blake2b(b"".join([about, when, blocks]), digest_size=20).digest()
    content = about + zlib.crc32(blocks).to_bytes(4, "little")
    # (Most files are far too small for that many pixels, and are not looked into.)
    refused = size * _DENSEST > reader.most_pixels and pixels(first) > reader.most_pixels
    return Head(key, content, _problem(file, first, reader), reader.too_large(path) if refused else None)


def _problem(file: Path, first: bytes, reader: Reader) -> str | None:
    if _OWN in first and _is_own(file):
        return ""
    if first.startswith(_SURE):
        return None
    text, known = _is_text(first), _is_known(first[:16])
    if known and not text:
        return None
    if text and not known:  # which lies beside many pictures, and is not tried at each start
        return reader.unidentified(file)
    # Of a format of text it is enough that it opens; others may open what is none of theirs.
    found = reader.opens(file) if text else reader.read(file, None, None)
    if not isinstance(found, str):
        return None
    check_memory(found)
    return found


def _is_text(first: bytes) -> bool:
    """Whether a file begins as text does, without the control characters that formats of pictures have."""
    try:
        words = codecs.getincrementaldecoder("utf-8")().decode(first)
    except UnicodeDecodeError:
        return False
    return words != "" and not any(ord(letter) < 32 and letter not in "\t\n\r" for letter in words)


def pixels(first: bytes) -> int:
    """How many a PNG or JPEG has, by its first bytes; 0 where they do not say."""
    if first.startswith(_PNG):
        return int.from_bytes(first[16:20], "big") * int.from_bytes(first[20:24], "big")
    position = 2
    while first.startswith(b"\xff\xd8") and position + 9 <= len(first) and first[position] == 0xFF:
        marker = first[position + 1]
        if marker in _FRAMES:
            height, width = first[position + 5 : position + 7], first[position + 7 : position + 9]
            return int.from_bytes(height, "big") * int.from_bytes(width, "big")
        position += 1 if marker == 0xFF else 2 + int.from_bytes(first[position + 2 : position + 4], "big")
    return 0


def _is_own(file: Path) -> bool:
    try:
        with Image.open(file) as picture:
            return own_files.is_marked(picture)
    except Exception:  # Pillow's decoders raise whatever a damaged file makes them raise
        return False


def _is_known(prefix: bytes) -> bool:
    """Whether a decoder of Pillow's says that it knows what begins so."""
    for accept in _accepting():
        try:
            if accept(prefix) is True:
                return True
        except Exception:  # of a prefix that is too short
            continue
    return False


@functools.cache
def _accepting() -> tuple:
    Image.init()
    return tuple(accept for _, accept in Image.OPEN.values() if accept is not None)
