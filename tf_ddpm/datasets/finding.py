"""The files of a folder of pictures: which are looked at, in which order, and what their subfolders mean."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tf_ddpm import own_files
from tf_ddpm.errors import UserError

# What cameras, archives and file systems leave beside pictures.
_LEFT_BY_SYSTEMS = frozenset({"@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"})
# Names of split folders, as TFDS and Hugging Face's loaders know them.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

Found = tuple[Path, int, int]  # a file, its size in bytes, its time of change in ns


def files(root: Path, bad: list[str], first_rules: bool = False) -> list[Found]:
    """All pictures that may be below `root`, each real folder once; what cannot be looked at goes to `bad`.

    Passed over without a word: hidden files, what systems leave beside pictures, and what this program has written.

    Args:
      first_rules: as runs of decoder 1 found them, which took what systems leave for pictures.
    """
    found, seen = [], set()
    unreadable = lambda error: bad.append(f"{error.filename}: {error.strerror}")  # noqa: E731
    known = lambda name: name.startswith(".") or (not first_rules and name.lower() in _LEFT_BY_SYSTEMS)  # noqa: E731
    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or own_files.is_export(Path(folder)):
            subfolders.clear()
            continue
        seen.add(real)
        ours = own_files.in_folder(Path(folder))
        subfolders[:] = sorted(name for name in subfolders if not known(name) and name not in ours)
        wanted = sorted(name for name in names if not known(name) and name not in ours)
        found += _regular(Path(folder), wanted, bad)
    return sorted(found)


def _regular(folder: Path, names: list[str], bad: list[str]) -> Iterator[Found]:
    for name in names:
        file = folder / name
        try:
            status = file.stat()
        except OSError as error:
            bad.append(f"{file}: {error.strerror}")
            continue
        if stat.S_ISREG(status.st_mode):
            yield file, status.st_size, status.st_mtime_ns
        else:
            bad.append(f"{file}: not a regular file")


def natural(name: str) -> tuple:
    """A key that sorts "2" before "10", and text as text."""
    return tuple(int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))), name


def split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder, where the subfolders of `root` are splits: train, and perhaps validation and test.

    Empty where they are anything else: labels, or pictures beside them.
    """
    found: dict[str, Path] = {}
    endings = Image.registered_extensions()
    ours = own_files.in_folder(root)
    for entry in sorted(root.iterdir()):
        if entry.name.startswith(".") or entry.name.lower() in _LEFT_BY_SYSTEMS or entry.name in ours:
            continue
        if entry.is_dir() and (own_files.is_run(entry) or own_files.is_export(entry)):
            continue
        if not entry.is_dir():
            if entry.suffix.lower() in endings:
                return {}
            continue
        split = next((split for split, names in _SPLITS.items() if entry.name.lower() in names), None)
        if split is None or split in found:
            return {}
        found[split] = entry
    return found if "train" in found else {}


def of_split(root: Path, split: str) -> Path:
    """The folder of the split: `root` itself where it has no split folders and `split` is train.

    Raises:
      UserError: where there is no such split.
    """
    found = split_folders(root)
    wanted = next((name for name, names in _SPLITS.items() if split in (name, *names)), split)
    if wanted in found:
        return found[wanted]
    if not found and split == "train":
        return root
    known = ", ".join(found) or "no folders named train, validation or test; expected train"
    raise UserError(f"data.split={split}: {root} has {'the splits ' if found else ''}{known}")
