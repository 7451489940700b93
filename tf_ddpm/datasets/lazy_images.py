"""Images that are decoded when they are first asked for, as if they all were there."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tf_ddpm.datasets.picture_cache import PictureCache
from tf_ddpm.errors import UserError, first_line, required
from tf_ddpm.runtime import memory
from tf_ddpm.runtime.control_group import cores
from tf_ddpm.runtime.paths import printable
from tf_ddpm.runtime.progress import Progress

_SHOWN = 5  # bad files named in full
_CHUNK = 256  # decoded at once where all are
_LARGE = 2**28  # bytes, above which there must be room for them
_REPLACED = "pictures were replaced while they were read; rerun the command"


class LazyImages:
    """uint8 [N, H, W, C] by index, slice or array of indices.

    A picture that cannot be decoded is replaced by the next one with its label: whoever asks, and in whatever order,
    finds the same one in its place.

    Args:
      decode: index -> the picture uint8 [H, W, C], or in words why there is none; called in several threads.
      shape: [N, H, W, C]. labels: int32 [N].
      cache, keys, places: where each is kept, under which key, and its place; None: in memory.
      reasons: index -> why there is none, as far as that is known.
      keeps: False: each is decoded whenever it is asked for, and kept nowhere.
      content: index -> the bytes that are decoded. rules: how they are. reader: what decodes them, in which version.
      still: index -> whether its file is the one of which its key was made; what was decoded is kept only then.

    Attributes:
      changed: whether a file was no longer the one of its key when it was decoded.
      failure: why images could not be read, once that has happened; readers in other threads and graphs cannot raise
        it as it is.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        decode: Callable[[int], np.ndarray | str],
        shape: tuple[int, int, int, int],
        labels: np.ndarray,
        cache: PictureCache | None = None,
        keys: Sequence[bytes] = (),
        places: np.ndarray | None = None,
        reasons: dict[int, str] | None = None,
        keeps: bool = True,
        content: Callable[[int], bytes] | None = None,
        rules: str = "",
        still: Callable[[int], bool] = lambda _: True,
        reader: str = "",
    ):
        self._decode, self.shape, self._labels = decode, shape, labels
        self._cache, self._keys, self._places = cache, keys, places
        self._content, self._rules, self._still, self.reader = content, rules, still, reader
        if cache is None and keeps:
            memory.check(
                float(np.prod(shape)), f"holding {shape[0]} images", "data.cache_dir=DIR keeps them on a disk"
            )
        self._memory = np.zeros(shape, np.uint8) if cache is None and keeps else None
        self._there = np.zeros(shape[0], bool)
        self._reasons, self._told = dict(reasons or {}), len(reasons or {})
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="decoding")
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._filling: threading.Thread | None = None
        self.changed = False
        self.failure: UserError | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def folder(self) -> Path | None:
        """Of the cache."""
        return None if self._cache is None else self._cache.folder

    @property
    def seen(self) -> str | None:
        """sha256 of what the files looked like when they were found, and of what decodes them; None: no cache."""
        if self._cache is None:
            return None
        found = hashlib.sha256(repr((self.shape, self._rules, self.reader)).encode())
        found.update(self._labels.tobytes() + b"".join(self._keys))
        return found.hexdigest()

    @property
    def decoded_by(self) -> dict[str, str]:
        """What a receipt says of `reader`, if that is known."""
        return {"decoded_by": self.reader} if self.reader else {}

    @property
    def in_memory(self) -> bool:
        """Whether what is decoded is kept there."""
        return self._memory is not None

    @property
    def bad(self) -> tuple[str, ...]:
        """Why some pictures are replaced by others, a line each, as far as that is known."""
        return tuple(self._reasons[index] for index in sorted(self._reasons))

    @property
    def replaced(self) -> np.ndarray:
        """The rows int64 in whose place another picture is, as far as that is known."""
        return np.array(sorted(self._reasons), np.int64)

    def chosen(self, rows: np.ndarray) -> LazyImages:
        """Those of the rows, read from here."""
        return LazyImages(
            lambda index: self[int(rows[index])], (len(rows), *self.shape[1:]), self._labels[rows], keeps=False
        )

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __getitem__(self, index: int | slice | tuple | np.ndarray | Sequence[int]) -> np.ndarray:
        if isinstance(index, tuple):
            rows, *others = index
            return self[rows][tuple(others) if isinstance(rows, int | np.integer) else (slice(None), *others)]
        if isinstance(index, int | np.integer):
            return self._rows(np.array([range(len(self))[int(index)]]))[0]
        if isinstance(index, slice):
            return self._rows(np.arange(*index.indices(len(self))))
        return self._rows(np.arange(len(self))[np.asarray(index)])

    def _rows(self, wanted: np.ndarray) -> np.ndarray:
        shape = (len(wanted), *self.shape[1:])
        try:
            size = np.prod(shape, dtype=np.float64)
            if size > _LARGE:
                words = f"holding {len(wanted)} images of {shape[1]}x{shape[2]}"
                memory.check(size, words, "a smaller data.image_size takes less")
            found = np.empty(shape, np.uint8)
            missing = [row for row, index in enumerate(wanted) if not self._read(int(index), found[row])]
            for row, picture in zip(missing, self._pool.map(self._replaced, wanted[missing]), strict=True):
                found[row] = picture
        except UserError as error:
            self.failure = error
            raise
        except Exception as error:  # whatever a reader of records raises
            self.failure = UserError(f"an image cannot be read: {first_line(error)}")
            raise self.failure from error
        return found

    def _read(self, index: int, into: np.ndarray) -> bool:
        """Whether the picture was there to be read."""
        if self._memory is not None:
            if self._there[index]:
                into[...] = self._memory[index]
            return bool(self._there[index])
        if self._cache is None or self._places is None or index in self._reasons:
            return False
        try:
            return self._cache.read(int(self._places[index]), self._keys[index], into)
        except OSError:  # of a disk that is gone: it is decoded again
            return False

    def _replaced(self, index: int) -> np.ndarray:
        """The picture, or the one in its place."""
        index = int(index)
        picture = self._decoded(index)
        if picture is not None:
            return picture
        alike = np.flatnonzero(self._labels == self._labels[index])
        start = int(np.searchsorted(alike, index))
        for step in range(1, len(alike)):
            picture = self._decoded(int(alike[(start + step) % len(alike)]))
            if picture is not None:
                return picture
        raise UserError(f"no picture with one of the labels can be read, for example {self._reasons[index]}")

    def _decoded(self, index: int) -> np.ndarray | None:
        """The picture from where it is kept, or decoded and kept; None where it cannot be."""
        picture = np.empty(self.shape[1:], np.uint8)
        if index in self._reasons:
            return None
        if self._read(index, picture):
            return picture
        result = self._decode(index)
        if isinstance(result, str):
            self._give_up(index, result)
            return None
        picture[...] = result
        if self._still(index):
            self._keep(index, picture)
        else:
            self.changed = True
        return picture

    def _keep(self, index: int, picture: np.ndarray) -> None:
        if self._memory is not None:
            self._memory[index] = picture
            self._there[index] = True
            return
        if self._cache is None or self._places is None:
            return
        with contextlib.suppress(OSError):  # it is decoded again another time
            self._cache.write(int(self._places[index]), self._keys[index], picture)

    def _give_up(self, index: int, reason: str) -> None:
        with self._lock:
            if index in self._reasons:
                return
            self._reasons[index] = reason
            if self._told < _SHOWN:
                self._told += 1
                print(f"warning: {printable(reason)}; another picture takes its place", file=sys.stderr, flush=True)
        if self._cache is not None and self._places is not None:
            with contextlib.suppress(OSError, sqlite3.Error):
                self._cache.give_up(self._keys[index], reason)

    def _is_there(self, index: int) -> bool:
        if index in self._reasons:
            return True
        if self._memory is not None:
            return bool(self._there[index])
        if self._cache is None or self._places is None:
            return True  # as far as it ever will be
        return self._cache.has(int(self._places[index]))

    def read_all(self) -> None:
        """Decodes what is not there yet, with all cores and a bar."""
        missing = [index for index in range(len(self)) if not self._is_there(index)]
        with Progress(len(missing), "reading images") as bar:
            for start in range(0, len(missing), _CHUNK):
                for _ in self._pool.map(self._decoded, missing[start : start + _CHUNK]):
                    bar.update()

    def digest(self) -> str:
        """sha256 of what the images are made of: each picture's bytes, how they are decoded, and the labels, by which
        bad ones are replaced. Nothing is decoded for it, and no time of a file is in it.

        Raises:
          UserError: where a picture cannot be read, or is not the one that was found.
        """
        content = required(self._content, "the content of the pictures")
        whole = hashlib.sha256(repr((self.shape, self._rules)).encode() + self._labels.tobytes())
        of_one = lambda index: hashlib.sha256(content(index)).digest()  # noqa: E731
        with Progress(len(self), "hashing images") as bar:
            for start in range(0, len(self), _CHUNK):
                part = range(start, min(start + _CHUNK, len(self)))
                try:
                    digests = list(self._pool.map(of_one, part))
                except OSError as error:
                    raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
                whole.update(b"".join(digests))
                bar.update(len(part))
        if not all(self._pool.map(self._still, range(len(self)))):
            raise UserError(_REPLACED)
        return whole.hexdigest()

    def check_unchanged(self) -> None:
        """Whether all that was decoded was of the files as they were found.

        Raises:
          UserError: where it was not.
        """
        if self.changed:
            raise UserError(_REPLACED)

    def fill(self) -> None:
        """Begins to decode what is not there yet, with half of the cores; no end of a process waits for it."""
        if self._filling is not None:
            return
        missing = (index for index in range(len(self)) if not self._is_there(index))
        width = max(1, cores() // 2)  # the others are for who waits

        def work() -> None:
            while not self._stopped.is_set() and (some := list(itertools.islice(missing, width))):
                try:
                    list(self._pool.map(self._decoded, some))
                except Exception:  # who needs the picture will be told
                    return

        self._filling = threading.Thread(target=work, name="filling", daemon=True)
        self._filling.start()

    def stop(self) -> None:
        """Ends `fill`."""
        self._stopped.set()
