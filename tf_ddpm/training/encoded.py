"""The latents of all images, encoded once: an update then takes no more than they cost to read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm.codecs.latents import Latents
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files
from tf_ddpm.runtime.chunks import once
from tf_ddpm.runtime.paths import home_expanded, touch
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling import first_stage


def latents(codec: Latents, images: ImageSet, data: DataConfig) -> np.ndarray:
    """What is diffused of each image, float32 [1 or 2, N, h, w, c]; the second are those of the mirror images.

    They are kept in `data.cache_dir`, under a name that is made of the images, the autoencoder's weights and the
    scale of its latents.

    Raises:
      UserError: where they cannot be kept there.
    """
    ways, shape = 1 + data.random_flip, codec.state_shape(images.image_shape)
    folder = home_expanded(data.cache_dir, "data.cache_dir")
    whole = (ways, len(images), *shape)
    try:
        path = folder / f"latents-{_digest(codec, images, folder)}-{ways}.npy"
        kept = _kept(path, whole)
        if kept is not None:
            return kept
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.remove_left(path.parent)
        with atomic_files.atomic_write(path) as beside:
            _write(beside, whole, codec, images)
            _check_still(images)
    except OSError as error:
        size = np.prod(whole, dtype=np.float64) * 4 / 1e9
        raise UserError(
            f"cannot keep {size:.1f} GB of latents in data.cache_dir={data.cache_dir} ({error.strerror or error}); "
            "choose another, or encode each image when it is used: codec.cached=false"
        ) from None
    return np.load(path, mmap_mode="r", allow_pickle=False)


def encoder_of(codec: Latents) -> Callable[[tf.Tensor], tf.Tensor]:
    """`codec.encode` as a graph."""
    return tf.function(codec.encode, autograph=False)


def _write(path: Path, whole: tuple[int, ...], codec: Latents, images: ImageSet) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": whole})
        encode, rows = encoder_of(codec), first_stage.rows_at_once(images.image_shape)
        with Progress(whole[0] * whole[1], "encoding images") as bar:
            for mirrored in range(whole[0]):
                for start in range(0, len(images), rows):
                    part = images.images[start : start + rows]
                    found = encode(tf.constant(part[:, :, ::-1] if mirrored else part)).numpy()
                    file.write(found.astype("<f4").tobytes())
                    bar.update(len(part))
        file.flush()
        os.fsync(file.fileno())


def _kept(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        touch(path)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.float32 else None


def _digest(codec: Latents, images: ImageSet, folder: Path) -> str:
    """Names the images, by their pixels, and the autoencoder."""
    made_of = _digest_of_images(images, folder), first_stage.digest(codec)
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]


def _digest_of_images(images: ImageSet, folder: Path) -> str:
    """That of pictures is kept as long as their files are what they were, and then nothing is decoded for it."""
    if not isinstance(images.images, LazyImages):
        return images.digest()
    if images.images.seen is None:
        return _digest_of_pixels(images) if images.images.in_memory else images.digest()
    path = folder / f"latents-of-{images.images.seen[:32]}.npz"
    found = once(path, lambda: np.asarray(_digest_of_pixels(images)))
    touch(path)
    return str(found)


def _digest_of_pixels(images: ImageSet) -> str:
    images.decode_all()
    found = images.digest_of_pixels()
    _check_still(images)
    return found


def _check_still(images: ImageSet) -> None:
    if isinstance(images.images, LazyImages):
        images.images.check_unchanged()
