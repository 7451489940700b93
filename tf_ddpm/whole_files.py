"""Files and folders that are there whole, or not at all: written aside, and renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; the file takes its name at the end, and is removed where the writing fails."""
    beside = path.with_name(f".partial-{os.getpid()}-{path.name}")  # others may write the same
    try:
        yield beside
        os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes the file.

    Raises:
      OSError: where the disk does not take it; what was there before stays.
    """
    with aside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def remove_left(folder: Path) -> None:
    """Removes the files in `folder` that killed processes were writing aside."""
    for path in folder.glob(".partial-*-*"):
        writer = path.name.split("-")[1]
        if path.is_file() and writer.isdecimal() and not _at_work(int(writer)):
            with contextlib.suppress(OSError):
                path.unlink()


def _at_work(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks only
    except ProcessLookupError:
        return False
    except OSError:  # it is someone else's
        pass
    return True


@contextlib.contextmanager
def folder_aside(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent`, which is made, to write in and rename from; gone afterwards.

    Those that killed processes have left there are removed. A lock, which dies with its process, says whether the one
    that made a folder is still at work.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(".partial-*/lock"):
        with contextlib.suppress(OSError), left.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    try:
        with (folder / "taking-lock").open("w") as lock:
            with contextlib.suppress(OSError):  # some network file systems have no such locks
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.rename(folder / "taking-lock", folder / "lock")  # there only once it is held
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
