"""What is kept in `data.cache_dir`: shown, summed and removed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path

from tf_ddpm.datasets import picture_cache
from tf_ddpm.runtime import atomic_files


@dataclasses.dataclass(frozen=True)
class Kept:
    """A file or folder: what is in it, its size in bytes on the disk, and the days since it was used."""

    path: Path
    what: str
    size: int
    days: float


def kept(cache_dir: Path) -> list[Kept]:
    """What this program keeps in `cache_dir`, the largest first; somebody else's files are none of it."""
    found = []
    for path in (*cache_dir.glob("*"), *cache_dir.glob("features/*")):
        with contextlib.suppress(OSError):  # as of one that another process removes
            what = _what(path)
            if what is not None:
                files = [path, *(path.rglob("*") if path.is_dir() else ())]
                status = [file.stat() for file in files]
                days = (time.time() - max(one.st_mtime for one in status)) / 86_400
                found.append(Kept(path, what, sum(one.st_blocks * 512 for one in status), days))
    return sorted(found, key=lambda one: -one.size)


def remove(one: Kept) -> None:
    """Removes it. A process that uses it goes on with what it holds open.

    Raises:
      OSError: where it cannot be removed.
    """
    with atomic_files.staging_directory(one.path.parent) as aside:  # whole or not at all
        os.replace(one.path, aside / one.path.name)


def _what(path: Path) -> str | None:
    """In words; None for what is not this program's."""
    if path.name.startswith("."):  # half-written
        return None
    if path.parent.name == "features":
        return "features of a reference" if path.is_dir() else None
    if not path.is_dir():
        names = {"latents-": "latents", "labels-": "labels"}
        return next((what for start, what in names.items() if path.name.startswith(start)), None)
    pictures = picture_cache.count(path)
    if pictures is not None:
        return f"{pictures:,} pictures"
    if picture_cache.is_one(path):
        return "pictures, of which the index is damaged"
    if (path / "images.npy").exists() and (path / "meta.json").exists():
        return "decoded images"
    return "labels" if path.name.startswith("labels-") else None
