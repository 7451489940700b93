"""Pictures of a folder that are decoded when they are asked for, and kept."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import picture_cache, pictures
from tf_ddpm.datasets.finding import Found, is_still
from tf_ddpm.datasets.heads import Head
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.datasets.picture_cache import PictureCache
from tf_ddpm.datasets.pictures import Reader, Rules
from tf_ddpm.errors import UserError, required
from tf_ddpm.runtime import atomic_files
from tf_ddpm.runtime.paths import home_expanded


def open_cache(data: DataConfig) -> PictureCache | str:
    """Where the pictures are kept, or why that cannot be written. One that is damaged is begun anew."""
    folder = picture_cache.folder_of(home_expanded(data.cache_dir, "data.cache_dir"), _shape(data), _rules(data))
    make = lambda: PictureCache(folder, _shape(data), pictures.libraries())  # noqa: E731
    try:
        try:
            return make()
        except sqlite3.OperationalError:  # such as a lock, which passes
            raise
        except sqlite3.DatabaseError as error:
            print(f"warning: {folder} is damaged ({error}); its pictures are decoded again", file=sys.stderr)
            return _begun_anew(folder, make)
    except (OSError, sqlite3.Error) as error:
        return _words(error)


def _begun_anew(folder: Path, make: Callable[[], PictureCache]) -> PictureCache:
    """The cache without what was there; of several processes that find it damaged, one moves that away."""
    with atomic_files.one_by_one(folder.parent):
        with contextlib.suppress(sqlite3.DatabaseError):
            return make()  # another process was first
        with contextlib.suppress(FileNotFoundError), atomic_files.staging_directory(folder.parent) as aside:
            os.replace(folder, aside / folder.name)
        return make()


def images(
    data: DataConfig,
    reader: Reader,
    files: Sequence[Found],
    heads: Sequence[Head],
    labels: np.ndarray,
    cache: PictureCache | str,
) -> LazyImages:
    """The pictures in `files`, kept in the cache, or in memory where it cannot be written.

    Raises:
      UserError: where they fit in neither.
    """
    height, width, channels = shape = _shape(data)

    def decode(index: int) -> np.ndarray | str:
        reader.set_limits()
        found = reader.read(files[index][0], (height, width), channels)
        if isinstance(found, str):
            _check_fault(files[index], found)
            found = reader.read(files[index][0], (height, width), channels)  # what may pass has passed
        return f"{files[index][0]}: made by this program" if found is None else found

    whole, keys = (len(files), *shape), [head.key for head in heads]
    lazy = functools.partial(
        LazyImages,
        decode,
        whole,
        labels,
        content=lambda index: files[index][0].read_bytes(),
        rules=_rules(data),
        still=lambda index: is_still(files[index]),
        reader=pictures.libraries(),
    )
    refused = {index: head.refusal for index, head in enumerate(heads) if head.refusal is not None}
    if isinstance(cache, PictureCache):
        try:
            places, reasons = cache.places(keys)
        except (OSError, sqlite3.Error) as error:
            picture_cache.remove_empty(cache.folder)
            cache = _words(error)
    if isinstance(cache, PictureCache):
        known = {index: reasons[place] for index, place in enumerate(places.tolist()) if place in reasons}
        return lazy(cache=cache, keys=keys, places=places, reasons=known | refused)
    size_gb = np.prod(whole, dtype=np.float64) / 1e9
    if size_gb > data.memory_gb:
        raise UserError(
            f"cannot keep {size_gb:.1f} GB of decoded images in data.cache_dir={data.cache_dir} ({cache}); "
            f"choose another, or raise data.memory_gb={data.memory_gb:g}"
        )
    print(
        f"warning: data.cache_dir={data.cache_dir} cannot be written ({cache}): pictures are held in memory, and "
        "decoded again at the next start",
        file=sys.stderr,
    )
    return lazy(reasons=refused)


def _shape(data: DataConfig) -> tuple[int, int, int]:
    height, width = required(data.image_size, "data.image_size")
    return height, width, data.channels or 3


def _rules(data: DataConfig) -> str:
    rules = Rules.of(data)
    return f"d{rules.decoder}-{rules.max_megapixels:g}-{rules.truncated}"


def _words(error: OSError | sqlite3.Error) -> str:
    return str((error.strerror if isinstance(error, OSError) else None) or error)


def _check_fault(one: Found, reason: str) -> None:
    """Whether a file that cannot be decoded is at fault, and not the disk, the memory, or someone who changed it.

    Raises:
      UserError: where it is not: that may pass, and is not kept.
    """
    file, size, _ = one
    pictures.check_memory(reason)
    try:
        same = len(file.read_bytes()) == size and is_still(one)
    except (OSError, MemoryError) as error:
        same, reason = False, f"{file}: {getattr(error, 'strerror', None) or pictures.NO_MEMORY}"
    if not same:
        raise UserError(f"{reason}; it was there and whole when the run began: put it back, and rerun the command")
