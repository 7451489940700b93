"""A folder of the user's own images; the names of its subfolders are the labels."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import pictures
from tf_ddpm.datasets.image_set import ImageSet, collect
from tf_ddpm.errors import UserError

_SHOWN = 5  # bad files named in full


def load(data: DataConfig) -> ImageSet:
    """Every image below `data.path` that Pillow reads; files that it cannot read are named in a warning.

    The label of a file is the subfolder it lies in, as a path from `data.path` (files beside the subfolders
    have the label "."); hidden files are passed over, links are followed once.

    Raises:
      UserError: where there is no image in it.
    """
    root = Path(data.path).expanduser()
    files = sorted(_files(root))
    folders = [os.path.relpath(file.parent, root) for file in files]
    label_names = tuple(sorted(set(folders)))
    labels = [label_names.index(folder) for folder in folders]
    size, channels = data.image_size, data.channels or 3
    bad: list[str] = []
    digest = hashlib.sha256(repr([(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]).encode())
    key = f"folder-{digest.hexdigest()[:16]}-{size[0]}x{size[1]}x{channels}"
    rows = _decoded(files, labels, size, channels, bad)
    images = collect(rows, len(files), (*size, channels), label_names, data, key)
    if not len(images):
        raise UserError(
            f"data.path={data.path}: none of its {len(files)} files is an image that Pillow reads"
            if files
            else f"data.path={data.path}: the folder is empty; expected images, for example PNG or JPEG"
        )
    if bad:
        more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        print(
            f"warning: {len(bad)} of {len(files)} files passed over:\n  " + "\n  ".join(bad[:_SHOWN]) + more,
            file=sys.stderr,
        )
    return images


def _files(root: Path) -> Iterator[Path]:
    """All visible files below `root`, each real folder once."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def _decoded(
    files: list[Path], labels: list[int], size: tuple[int, int], channels: int, bad: list[str]
) -> Iterator[tuple[np.ndarray, int]]:
    """(image, label) of each readable file, in order; the others are added to `bad`, with the reason."""

    def decode(file: Path) -> np.ndarray | str:
        try:
            with Image.open(file) as picture:
                return pictures.to_array(picture, size, channels)
        except (OSError, ValueError, SyntaxError, MemoryError, Warning, Image.DecompressionBombError) as error:
            return f"{file}: {' '.join(str(error).split()) or type(error).__name__}"

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        bar = tqdm(total=len(files), desc="reading images", unit="", leave=False, disable=None)
        chunk = 1024  # so that the pool never runs far ahead of what is gathered
        for start in range(0, len(files), chunk):
            part = slice(start, start + chunk)
            for result, label in zip(pool.map(decode, files[part]), labels[part], strict=True):
                bar.update()
                if isinstance(result, str):
                    bad.append(result)
                else:
                    yield result, label
        bar.close()
