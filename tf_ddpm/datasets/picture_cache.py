"""Decoded pictures in a file, each under a key: filled bit by bit, by several processes, killed at any moment."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tf_ddpm.runtime.paths import printable

_PIXELS, _MARKS, _INDEX = "pixels.bin", "marks.bin", "index.sqlite"
_PREFIX = "pictures-"  # of the folders of caches
_MARK_BYTES = 4
_WAIT = 120.0  # seconds, for another process that reserves places


class PictureCache:
    """Pictures of one size that are decoded by one set of rules.

    A picture is written before its mark, a checksum of it and of its key: what a killed process or a lost power has
    left half-written has none that fits, nor has the picture of another key, and it is written again. All read and
    write at places of their own in the files, and need no lock.

    Args:
      folder: made if it is missing.
      shape: (height, width, channels) of each.
      reader: names what decodes them. Why there is no picture holds for the one that has found it out.

    Raises:
      OSError, sqlite3.Error: where they cannot be opened; a DatabaseError, but none of its kinds: they are damaged.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], reader: str = ""):
        self.folder, self._bytes, self.reader = folder, int(np.prod(shape)), reader
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT
        self._pixels, self._marks = (os.open(folder / name, flags, 0o644) for name in (_PIXELS, _MARKS))
        with self._connected() as index:
            # (Earlier versions kept a reason here, and not whose it was: it is found out once more.)
            index.execute("CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, place INTEGER, reason TEXT)")
            index.execute("CREATE TABLE IF NOT EXISTS reasons (key BLOB PRIMARY KEY, reader TEXT, reason TEXT)")
            index.execute("CREATE TABLE IF NOT EXISTS contents (key BLOB PRIMARY KEY, digest BLOB)")
            (state,) = index.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
        os.utime(folder / _PIXELS)  # when it was last used

    def __del__(self) -> None:
        for name in ("_pixels", "_marks"):
            if hasattr(self, name):
                with contextlib.suppress(OSError):
                    os.close(getattr(self, name))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The index, in a transaction that no other process is in."""
        index = sqlite3.connect(self.folder / _INDEX, timeout=_WAIT, isolation_level=None)
        try:
            index.execute("BEGIN IMMEDIATE")
            yield index
            index.execute("COMMIT")
        finally:
            index.close()  # which undoes what is not committed

    def places(self, keys: Sequence[bytes]) -> tuple[np.ndarray, dict[int, str]]:
        """The place int64 of each key, with room on the disk for all; and why there is no picture of some.

        Raises:
          OSError: where the disk has no room.
        """
        with self._connected() as index:
            index.execute("CREATE TEMP TABLE wanted (number INTEGER PRIMARY KEY, key BLOB)")
            index.executemany("INSERT INTO wanted VALUES (?, ?)", enumerate(keys))
            (used,) = index.execute("SELECT COALESCE(MAX(place) + 1, 0) FROM entries").fetchone()
            new = index.execute(
                "SELECT key, MIN(number) AS first FROM wanted WHERE key NOT IN (SELECT key FROM entries) "
                "GROUP BY key ORDER BY first"
            ).fetchall()
            self._reserve(used + len(new))
            index.executemany(
                "INSERT INTO entries VALUES (?, ?, NULL)", ((key, used + i) for i, (key, _) in enumerate(new))
            )
            rows = index.execute(
                "SELECT place, reasons.reason FROM wanted JOIN entries USING (key) "
                "LEFT JOIN reasons ON reasons.key = wanted.key AND reader = ? ORDER BY number",
                (self.reader,),
            ).fetchall()
        return np.array([place for place, _ in rows], np.int64), {place: why for place, why in rows if why is not None}

    def _reserve(self, count: int) -> None:
        for file, each in ((self._pixels, self._bytes), (self._marks, _MARK_BYTES)):
            before = os.fstat(file).st_size
            if count and before < count * each:
                try:
                    os.posix_fallocate(file, 0, count * each)
                except OSError:
                    os.ftruncate(file, before)  # what it got it would keep
                    raise

    def read(self, place: int, key: bytes, into: np.ndarray) -> bool:
        """Reads the picture of `key` at its `place` into uint8 [H, W, C]; False where there is none."""
        mark = os.pread(self._marks, _MARK_BYTES, place * _MARK_BYTES)
        if not any(mark) or os.preadv(self._pixels, [into.data], place * self._bytes) != self._bytes:
            return False
        return _mark(into, key) == mark

    def has(self, place: int) -> bool:
        """Whether something was written at `place`; it may still be damaged."""
        return any(os.pread(self._marks, _MARK_BYTES, place * _MARK_BYTES))

    def write(self, place: int, key: bytes, picture: np.ndarray) -> None:
        """Writes uint8 [H, W, C], the picture of `key` at its `place`.

        Raises:
          OSError: where the disk does not take it.
        """
        os.pwrite(self._pixels, picture.data, place * self._bytes)
        os.pwrite(self._marks, _mark(picture, key), place * _MARK_BYTES)

    def give_up(self, key: bytes, reason: str) -> None:
        """Keeps why this reader finds no picture of `key`."""
        with self._connected() as index:
            index.execute("INSERT OR REPLACE INTO reasons VALUES (?, ?, ?)", (key, self.reader, printable(reason)))

    def digests(self) -> dict[bytes, bytes]:
        """The digests of whole files that are known, by key."""
        with self._connected() as index:
            return dict(index.execute("SELECT key, digest FROM contents"))

    def keep_digests(self, digests: dict[bytes, bytes]) -> None:
        """Keeps digests of whole files by key."""
        with self._connected() as index:
            index.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?)", digests.items())


def _mark(picture: np.ndarray, key: bytes) -> bytes:
    return (zlib.crc32(picture.data, zlib.crc32(key)) or 1).to_bytes(_MARK_BYTES, "little")


def count(folder: Path) -> int | None:
    """How many pictures have a place in a cache; None where there is none."""
    try:
        index = sqlite3.connect(f"{(folder / _INDEX).resolve().as_uri()}?mode=ro", uri=True, timeout=_WAIT)
        with contextlib.closing(index):
            (found,) = index.execute("SELECT COUNT(*) FROM entries").fetchone()
    except (OSError, sqlite3.Error):
        return None
    return int(found)


def is_one(folder: Path) -> bool:
    """Whether it is a cache, also where its index is damaged."""
    return folder.name.startswith(_PREFIX) and (folder / _PIXELS).exists()


def remove_empty(folder: Path) -> None:
    """Removes a cache in which no picture has a place, as far as that can be done."""
    if count(folder) == 0:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


def folder_of(cache_dir: Path, shape: tuple[int, int, int], rules: str) -> Path:
    """Where the pictures of this shape and these rules are kept."""
    folder = cache_dir / f"{_PREFIX}{'x'.join(map(str, shape))}-{rules}"
    # As earlier versions called it where pillow-heif is installed.
    before = folder.with_name(f"{folder.name}-heif")
    return before if before.exists() and not folder.exists() else folder
