"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_UNFINISHED: set[Path] = set()  # what this process has aside
_TOLD = 10  # files, of which one is told when they go


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; the file takes its name at the end, and is removed where the writing fails.

    A lock, which dies with its process, says whether it is still being written.
    """
    beside = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")  # others may write the same
    with _gone_afterwards(beside), beside.open("xb") as lock:
        with contextlib.suppress(OSError):  # some network file systems have no such locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield beside
        os.replace(beside, path)


def write_text(path: Path, text: str) -> None:
    """Writes the file.

    Raises:
      OSError: where the disk does not take it; what was there before stays.
    """
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8")


def remove_left(folder: Path) -> None:
    """Removes the files in `folder` that killed processes were writing aside."""
    for left in folder.glob(f".partial-{'[0-9a-f]' * 8}-*"):
        if left.is_file():
            with contextlib.suppress(OSError), left.open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def remove_unfinished() -> None:
    """Removes all unfinished files of this process, before it ends abruptly."""
    for path in tuple(_UNFINISHED):
        _remove(path)


@contextlib.contextmanager
def _gone_afterwards(path: Path) -> Iterator[None]:
    _UNFINISHED.add(path)
    try:
        yield
    finally:
        _remove(path)
        _UNFINISHED.discard(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # says nothing of what is a file, or gone
    with contextlib.suppress(OSError):
        path.unlink()


def _remove_left_directories(parent: Path, but: Path | None = None) -> None:
    """Creates `parent` if it is missing, and removes what killed processes have left in it."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(".partial-*/lock"):
        if left.parent == but:
            continue
        with contextlib.suppress(OSError), left.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files = sum(path.is_file() for path in left.parent.rglob("*")) - 1  # but for the lock
            if files > _TOLD:
                print(f"removing {files} files of other work in {parent}, which was stopped", file=sys.stderr)
            shutil.rmtree(left.parent, ignore_errors=True)


@contextlib.contextmanager
def resumed_directory(parent: Path, work: str) -> Iterator[Path]:
    """A hidden folder in `parent` (created if missing) as a killed process has left it with the same `work`.

    It is removed when the work is done, and stays where it has failed or the process was stopped.

    Args:
      work: names all that is done there; letters and digits.

    Raises:
      BlockingIOError: where another process is about the same work.
    """
    folder = parent / f".partial-{work}"
    _remove_left_directories(parent, but=folder)
    while True:
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # some network file systems have no such locks
                pass
            if not _is_at(lock.fileno(), folder / "lock"):
                continue  # another process has just ended here, and taken the folder with it
            yield folder
            _remove(folder)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


@contextlib.contextmanager
def one_by_one(folder: Path) -> Iterator[None]:
    """Of all that ask for the existing folder, one at a time is in here; all, where the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staging_directory(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent` (created if missing) to write in and rename from; removed afterwards.

    Those that killed processes have left there are removed. A lock, which dies with its process, says whether the one
    that made a folder is still at work.
    """
    _remove_left_directories(parent)
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    with _gone_afterwards(folder), (folder / "taking-lock").open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(folder / "taking-lock", folder / "lock")  # there only once it is held
        yield folder
