"""Decoded images with random access: in memory, or in a file when they are too large for it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tf_ddpm.config import DataConfig
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, memory
from tf_ddpm.runtime.paths import home_expanded, touch
from tf_ddpm.runtime.progress import Progress

_AT_ONCE = 2**26  # bytes that are looked at


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images at random access.

    Attributes:
      images: uint8 [N, H, W, C], an array, a memory-mapped file, or pictures that are not decoded yet.
      labels: int32 [N]. label_names: by label.
      bad: the files that were passed over, and why, a line each.
      files: of pictures in files, sha256 of their paths, sizes and some of their bytes; None where that is not known.
      copy: where images that are in memory are kept for the next start; None: nowhere.
    """

    images: np.ndarray | LazyImages
    labels: np.ndarray
    label_names: tuple[str, ...]
    bad: tuple[str, ...] = ()
    files: str | None = None
    copy: Path | None = None

    def __len__(self) -> int:
        return len(self.images)

    def whole(self) -> np.ndarray:
        """All images, decoded: an array, or the memory-mapped file.

        Raises:
          UserError: where there is no memory for them.
        """
        if isinstance(self.images, LazyImages):
            size = float(np.prod(self.images.shape))
            memory.check(size, f"holding {len(self)} images", "a smaller data.image_size takes less")
        self.decode_all()
        return self.images[:]

    def decode_all(self) -> None:
        """Decodes what is not decoded yet, with all cores and a bar."""
        if isinstance(self.images, LazyImages):
            self.images.read_all()

    @property
    def place(self) -> str | None:
        """Where decoded pictures are kept, and how many bytes they take; None: in memory, or not at all."""
        folder = self.images.folder if isinstance(self.images, LazyImages) else self.copy
        if isinstance(self.images, np.memmap) and self.images.filename:
            folder = Path(self.images.filename).parent
        return None if folder is None else f"{folder} ({np.prod(self.images.shape, dtype=np.float64) / 1e9:.2g} GB)"

    def fill(self) -> None:
        """Begins to decode what is not decoded yet, until `stop`."""
        if isinstance(self.images, LazyImages):
            self.images.fill()

    def stop(self) -> None:
        """Ends `fill`."""
        if isinstance(self.images, LazyImages):
            self.images.stop()

    @property
    def failure(self) -> UserError | None:
        """Why images could not be read, where a graph asked for them."""
        return self.images.failure if isinstance(self.images, LazyImages) else None

    @property
    def all_bad(self) -> tuple[str, ...]:
        """`bad`, and what decoding has found since."""
        return (*self.bad, *self.images.bad) if isinstance(self.images, LazyImages) else self.bad

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def fingerprint(self) -> tuple:
        """What tells one set of images from another: how many, the labels, and digests of these and of some images."""
        some = self.images[np.unique(np.linspace(0, len(self) - 1, 64).astype(np.int64))]
        digests = [hashlib.sha256(np.ascontiguousarray(part).data).hexdigest() for part in (self.labels, some)]
        return len(self), self.label_names, *digests

    def digest(self) -> str:
        """sha256 of all images, of pictures of their files, and of the labels."""
        return self.images.digest() if isinstance(self.images, LazyImages) else self.digest_of_pixels()

    def digest_of_pixels(self) -> str:
        """sha256 of all images as they are decoded, and of the labels."""
        found = hashlib.sha256(f"{self.images.shape} {self.label_names}".encode() + self.labels.tobytes())
        with Progress(len(self), "hashing images") as bar:
            rows = max(1, min(1000, _AT_ONCE // max(1, int(np.prod(self.image_shape)))))
            for start in range(0, len(self), rows):  # what lies in a file is never held whole
                part = np.ascontiguousarray(self.images[start : start + rows])
                found.update(part.data)
                bar.update(len(part))
        return found.hexdigest()


def check_names(label_names: tuple[str, ...], classes: int) -> None:
    """Whether a network of so many classes (0: none) can be trained on, or asked about, images with these labels.

    Raises:
      UserError: where there is another number of them.
    """
    known = len(label_names)
    if classes and classes != known:
        names = ", ".join(label_names[:20]) + (", ..." if known > 20 else "")
        remedy = f"expected model.classes={known} ({names})" if known else "this set has no labels; expected 0"
        raise UserError(f"model.classes={classes}: {remedy}")


def collect(
    rows: Iterable[tuple[np.ndarray, int]],
    limit: int,
    image_shape: tuple[int, int, int],
    label_names: tuple[str, ...],
    data: DataConfig,
    key: str,
    bad: Sequence[str] = (),
) -> ImageSet:
    """Gathers decoded (image uint8 [H, W, C], label) pairs.

    Args:
      rows: read only if they are not already kept under `key`.
      limit: an upper bound of the number of rows.
      key: names the content, under which they are kept in `data.cache_dir`, if they can be; those above
        `data.memory_gb` are read there, and others are in memory.
      bad: what was passed over; it may grow while the rows are read.

    Raises:
      UserError: where they cannot be kept there, and are too large for memory.
    """
    size_gb = limit * np.prod(image_shape, dtype=np.float64) / 1e9
    in_memory = size_gb <= data.memory_gb and size_gb * 1e9 <= memory.available()
    try:
        folder = home_expanded(data.cache_dir, "data.cache_dir") / key
    except UserError:  # no home directory
        if not in_memory:
            raise
        return _collect_in_memory(rows, limit, image_shape, label_names, None, bad)
    if in_memory:
        return _collect_in_memory(rows, limit, image_shape, label_names, folder, bad)
    try:
        return _collect_in_file(rows, limit, image_shape, label_names, folder, bad)
    except OSError as error:
        raise UserError(
            f"cannot keep {size_gb:.1f} GB of decoded images in data.cache_dir={data.cache_dir} "
            f"({error.strerror or error}); choose another, or raise data.memory_gb={data.memory_gb:g}"
        ) from None


def _collect_in_memory(
    rows: Iterable[tuple[np.ndarray, int]],
    limit: int,
    image_shape: tuple[int, int, int],
    label_names: tuple[str, ...],
    folder: Path | None,
    bad: Sequence[str],
) -> ImageSet:
    """The images from `folder` where they are kept; else from `rows`, and kept there as far as the disk takes them."""
    if folder is not None:
        with contextlib.suppress(OSError):
            kept = _kept(folder, image_shape)
            if kept is not None:
                return dataclasses.replace(kept, images=np.array(kept.images), copy=folder)
    images, labels = np.empty((limit, *image_shape), np.uint8), np.empty(limit, np.int32)
    passed_over = len(bad)
    count = _fill(images, labels, rows)
    found = ImageSet(images[:count], labels[:count], label_names, tuple(bad))
    # (What could not be decoded now may be another time: a disk comes back, or permission to read.)
    if folder is not None and count and len(bad) == passed_over:
        with contextlib.suppress(OSError), atomic_files.staging_directory(folder.parent) as parent:
            aside = parent / "whole"
            aside.mkdir()
            np.save(aside / "images.npy", found.images)
            _describe(aside, found.labels, label_names, bad)
            _put(aside, folder, image_shape, parent)
            return dataclasses.replace(found, copy=folder)
    return found


def _describe(folder: Path, labels: np.ndarray, label_names: tuple[str, ...], bad: Sequence[str]) -> None:
    np.save(folder / "labels.npy", labels)
    about = {"count": len(labels), "label_names": label_names, "bad": list(bad)}
    (folder / "meta.json").write_text(json.dumps(about))


def _collect_in_file(
    rows: Iterable[tuple[np.ndarray, int]],
    limit: int,
    image_shape: tuple[int, int, int],
    label_names: tuple[str, ...],
    folder: Path,
    bad: Sequence[str],
) -> ImageSet:
    kept = _kept(folder, image_shape)
    if kept is not None:
        return kept
    with atomic_files.staging_directory(folder.parent) as parent:
        aside = parent / "whole"
        aside.mkdir()
        images = np.lib.format.open_memmap(aside / "images.npy", "w+", np.uint8, (limit, *image_shape))
        with (aside / "images.npy").open("r+b") as file:  # a full disk ends a process that maps what is not there
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        labels = np.empty(limit, np.int32)
        count = _fill(images, labels, rows)
        images.flush()
        _describe(aside, labels[:count], label_names, bad)
        _put(aside, folder, image_shape, parent)
        # In the meantime others may move it: what this process has mapped stays.
        return _kept(folder, image_shape) or ImageSet(images[:count], labels[:count], label_names, tuple(bad))


def _put(aside: Path, folder: Path, image_shape: tuple[int, int, int], bin_folder: Path) -> None:
    """Renames `aside` to `folder`, unless another process has put the same there; what is damaged moves away first.

    Others may be about it as well, so that between any two lines what is there can come, go or change.
    """
    for attempt in itertools.count():
        try:
            os.replace(aside, folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if _kept(folder, image_shape) is not None:
            return
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, bin_folder / f"damaged-{attempt}")


def _kept(folder: Path, image_shape: tuple[int, int, int]) -> ImageSet | None:
    """What was kept in `folder`; None where there is nothing, or it is damaged.

    Raises:
      OSError: where it is not read for another reason, which may pass.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)[: meta["count"]]
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        if images.shape[1:] == image_shape and len(images) == len(labels) == meta["count"]:
            touch(folder)
            return ImageSet(images, labels, tuple(meta["label_names"]), tuple(meta.get("bad", ())))
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, KeyError, TypeError):
        pass
    return None


def _fill(images: np.ndarray, labels: np.ndarray, rows: Iterable[tuple[np.ndarray, int]]) -> int:
    count = 0
    for image, label in rows:
        images[count], labels[count] = image, label
        count += 1
    return count
