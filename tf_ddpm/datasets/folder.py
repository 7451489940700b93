"""A folder of the user's own images; the names of its subfolders are the labels."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import pictures
from tf_ddpm.datasets.image_set import ImageSet, collect
from tf_ddpm.errors import UserError

_SHOWN = 5  # bad files named in full


def load(data: DataConfig) -> ImageSet:
    """Every image below `data.path` that Pillow reads; `data.on_bad_file` says what others do: a warning, or the end.

    The label of a file is the subfolder it lies in, as a path from `data.path` (files beside the subfolders
    have the label "."); hidden files are passed over, links are followed once.

    Raises:
      UserError: where there is no image in it, or a file that is none and may not be passed over.
    """
    root = Path(data.path).expanduser()
    bad: list[str] = []
    found = sorted(_files(root, bad))
    files = [file for file, _, _ in found]
    folders = [os.path.relpath(file.parent, root) for file in files]
    label_names = tuple(sorted(set(folders)))
    number = {name: i for i, name in enumerate(label_names)}
    labels = [number[folder] for folder in folders]
    size, channels = data.image_size, data.channels or 3
    digest = hashlib.sha256(repr(found).encode("utf-8", "surrogateescape"))
    key = f"folder-{digest.hexdigest()[:16]}-{size[0]}x{size[1]}x{channels}"
    strict = data.on_bad_file == "fail"
    if strict and bad:
        _refuse(bad[0])
    rows = _decoded(files, labels, size, channels, bad, strict)
    images = _with_used_labels(collect(rows, len(files), (*size, channels), label_names, data, key))
    if not len(images):
        raise UserError(
            f"data.path={data.path}: none of its {len(bad)} files is an image that Pillow reads"
            if bad
            else f"data.path={data.path}: the folder is empty; expected images, for example PNG or JPEG"
        )
    if strict and len(images) < len(files):  # decoded earlier, when they were passed over
        _refuse(f"{len(files) - len(images)} of the {len(files)} files in {data.path} are no images")
    if bad:
        more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        print(
            f"warning: {len(bad)} of {len(bad) + len(images)} files passed over:\n  "
            + "\n  ".join(bad[:_SHOWN])
            + more,
            file=sys.stderr,
        )
    return images


def _refuse(reason: str) -> None:
    raise UserError(f"{reason}\nRemove it, or pass over such files with --set=data.on_bad_file=warn.")


def load_pictures(path: str) -> ImageSet:
    """Every image below `path` at its own size, which all must have; files that are no images are passed over.

    Of a folder that this program has written, the numbered images alone: no grid and no animation.

    Raises:
      UserError: where there is no folder, no image, or images of several sizes.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"{path}: no such folder")
    ours = (root / "manifest.json").is_file()
    sizes: dict[tuple[int, int], Path] = {}
    grey, bad = True, []
    files = [file for file, _, _ in sorted(_files(root, bad)) if not ours or file.stem.isdecimal()]
    for file in files:
        try:
            with Image.open(file) as picture:
                sizes.setdefault(picture.size, file)
                grey = grey and picture.mode in ("1", "L", "LA", "I;16")
        except Exception as error:  # Pillow raises whatever a damaged header makes it raise
            bad.append(f"{file}: {error}")
    if not sizes:
        raise UserError(f"{path}: no image in it that Pillow reads")
    if len(sizes) > 1:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise UserError(f"{path}: images of several sizes: {first.name} is {one}, {second.name} {two}; expected one")
    ((width, height),) = sizes
    channels = 1 if grey else 3
    rows = list(_decoded(files, [0] * len(files), (height, width), channels, bad))
    for line in bad[:_SHOWN]:
        print(f"warning: passed over {line}", file=sys.stderr)
    if not rows:
        raise UserError(f"{path}: none of its images can be decoded")
    images = np.stack([image for image, _ in rows])
    return ImageSet(images, np.zeros(len(images), np.int32), ())


def _files(root: Path, bad: list[str]) -> Iterator[tuple[Path, int, int]]:
    """All visible files below `root` with size and time of change, each real folder once; the others go to `bad`."""
    seen = set()
    unreadable = lambda error: bad.append(f"{error.filename}: {error.strerror}")  # noqa: E731
    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            if name.startswith("."):
                continue
            try:
                status = file.stat()
            except OSError as error:
                bad.append(f"{file}: {error.strerror}")
                continue
            if stat.S_ISREG(status.st_mode):
                yield file, status.st_size, status.st_mtime_ns
            else:
                bad.append(f"{file}: not a regular file")


def _with_used_labels(images: ImageSet) -> ImageSet:
    """Without the labels of which no image is left."""
    used, labels = np.unique(images.labels, return_inverse=True)
    return ImageSet(images.images, labels.astype(np.int32), tuple(images.label_names[i] for i in used))


def _decoded(
    files: list[Path], labels: list[int], size: tuple[int, int], channels: int, bad: list[str], strict: bool = False
) -> Iterator[tuple[np.ndarray, int]]:
    """(image, label) of each readable file, in order; the others are added to `bad`, with the reason.

    Raises:
      UserError: for the first of the others, if `strict`.
    """

    def decode(file: Path) -> np.ndarray | str:
        try:
            with Image.open(file) as picture:
                return pictures.to_array(picture, size, channels)
        except UnidentifiedImageError:
            return f"{file}: not an image that Pillow reads"
        except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them raise
            return f"{file}: {' '.join(str(error).split()) or type(error).__name__}"

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        bar = tqdm(total=len(files), desc="reading images", unit="", leave=False, disable=None)
        chunk = 1024  # so that the pool never runs far ahead of what is gathered
        for start in range(0, len(files), chunk):
            part = slice(start, start + chunk)
            for result, label in zip(pool.map(decode, files[part]), labels[part], strict=True):
                bar.update()
                if isinstance(result, str):
                    if strict:
                        _refuse(result)
                    bad.append(result)
                else:
                    yield result, label
        bar.close()
