"""The files of a folder of pictures: which are looked at, in which order, and what their subfolders mean."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import own_files

# What cameras, archives and file systems leave beside pictures.
_LEFT_BY_SYSTEMS = frozenset({"@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"})
# Names of split folders, as TFDS and Hugging Face's loaders know them.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

_NO_PICTURES = frozenset({"PDF", "HDF5", "MPEG", "GRIB", "BUFR", "WMF", "EPS"})  # of the formats that Pillow names

Found = tuple[Path, int, int]  # a file, its size in bytes, its time of change in ns


def is_still(found: Found) -> bool:
    """Whether the file looks as it did when it was found."""
    file, size, changed = found
    try:
        status = file.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (size, changed)


def files(root: Path, bad: list[str], first_rules: bool = False, samples: bool = False) -> tuple[list[Found], int]:
    """All pictures that may be below `root`, each real folder once; what cannot be looked at goes to `bad`.

    Passed over without a word: hidden files, what systems leave beside pictures, and what this program has written.

    Args:
      first_rules: as runs of decoder 1 found them, which took what systems leave, and samples, for pictures.
      samples: those that this program has drawn are wanted: of their folders, they alone.

    Returns:
      The files, and how many samples were passed over.
    """
    found: list[Found] = []
    ours = 0
    for here, wanted in _folders(root, bad, first_rules):
        written = [] if first_rules else own_files.manifest_files(here)
        drawn = own_files.sample_files(here) if written else []
        if written and samples:
            wanted = drawn
        elif written:
            others = {*written, "manifest.json"}
            wanted, ours = [name for name in wanted if name not in others], ours + len(drawn)
        found += _regular(here, wanted, bad)
    return sorted(found, key=lambda one: str(one[0]).replace(os.sep, "\0")), ours  # folder by folder


def _folders(root: Path, bad: list[str], first_rules: bool = False) -> Iterator[tuple[Path, list[str]]]:
    """Each real folder below `root` once, with the names of its files; without what nobody means."""
    seen = set()
    unreadable = lambda error: bad.append(f"{error.filename}: {error.strerror}")  # noqa: E731
    known = lambda name: name.startswith(".") or (not first_rules and name.lower() in _LEFT_BY_SYSTEMS)  # noqa: E731
    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=True):
        real, here = os.path.realpath(folder), Path(folder)
        if real in seen or own_files.is_export(here):
            subfolders.clear()
            continue
        seen.add(real)
        parts = own_files.RUN_PARTS if own_files.is_run(here) else frozenset()
        subfolders[:] = sorted(name for name in subfolders if not known(name) and name not in parts)
        yield here, sorted(name for name in names if not known(name) and name not in parts)


def _regular(folder: Path, names: list[str], bad: list[str]) -> Iterator[Found]:
    above = os.path.join(folder, "")
    for name in names:
        file = folder / name
        try:
            status = os.stat(above + name)  # quicker than that of a Path
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


def split_folders(root: Path) -> tuple[dict[str, Path], str | None]:
    """Split -> its folder, where the subfolders of `root` are splits: train, and perhaps validation and test.

    Returns:
      The folders, none where they are anything else: labels, or pictures beside them; and the name of what made them
      so, though train and another of these names are there.
    """
    found: dict[str, Path] = {}
    other = None
    parts = own_files.in_folder(root)
    for entry in sorted(root.iterdir()):
        known = entry.name.startswith(".") or entry.name.lower() in _LEFT_BY_SYSTEMS or entry.name in parts
        split = next((split for split, names in _SPLITS.items() if entry.name.lower() in names), None)
        if known or not _holds_pictures(entry, any_file=split is not None):
            continue
        if split is None or split in found or not entry.is_dir():
            other = other or entry.name
        else:
            found[split] = entry
    likely = "train" in found and len(found) > 1
    if other is not None or "train" not in found:
        return {}, other if likely else None
    return found, None


@functools.cache
def _endings() -> frozenset[str]:
    """Of the names of picture files."""
    return frozenset(
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in _NO_PICTURES
    )


def is_named_so(file: Path) -> bool:
    """Whether a file is named as pictures are: by an ending, or by none at all."""
    return not file.suffix or file.suffix.lower() in _endings()


def _holds_pictures(entry: Path, any_file: bool) -> bool:
    """Whether it is named as a picture is, or a folder with a file that is (`any_file`: with any at all)."""
    if not entry.is_dir():
        return entry.suffix.lower() in _endings()
    if own_files.is_run(entry):
        return False
    return any(
        any_file or Path(name).suffix.lower() in _endings() for _, names in _folders(entry, []) for name in names
    )


def with_held_out(split: str) -> str:
    """The split of which `split` is a part: what is held out is of train."""
    return "train" if split == "holdout" else split


def of_split(root: Path, split: str) -> Path:
    """The folder of the split: `root` itself where it has no split folders and `split` is train.

    Raises:
      UserError: where there is no such split.
    """
    found, _ = split_folders(root)
    wanted = next((name for name, names in _SPLITS.items() if split in (name, *names)), split)
    if wanted in found:
        return found[wanted]
    if not found and split == "train":
        return root
    known = ", ".join(found) or "no folders named train, validation or test; expected train"
    raise UserError(f"data.split={split}: {root} has {'the splits ' if found else ''}{known}")
