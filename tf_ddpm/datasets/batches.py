"""Training batches as a function of (seed, step): no shuffle buffer, nothing to restore."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.datasets.lazy_images import LazyImages


def batch_dataset(
    images: ImageSet,
    batch_size: int,
    seed: int,
    first_step: int,
    random_flip: bool,
    shards: int = 1,
    own: range | None = None,
    encoded: np.ndarray | None = None,
) -> tf.data.Dataset:
    """An endless dataset of the shards of the global batches of `first_step`, `first_step` + 1, ...

    The elements of a step follow each other, shard by shard; each is a dict of `image` uint8
    [batch_size / shards, H, W, C], `label` int32 [batch_size / shards] and `address` int64 [3] (seed, step, first
    row: `randomness.row_address`).

    Args:
      batch_size: of the global batch, divisible by `shards`.
      random_flip: mirror each image with probability one half.
      own: those of the shards that are wanted here; None: all.
      encoded: float32 [1 or 2, N, h, w, c], what stands for each image and for its mirror image: elements then have
        `x_0` float32 [batch_size / shards, h, w, c] instead of `image`.
    """
    rows, own = batch_size // shards, own or range(shards)
    labels = tf.constant(images.labels, tf.int32)

    def element(position: tf.Tensor) -> dict[str, tf.Tensor]:
        step, shard = position // len(own), own.start + position % len(own)
        address = randomness.row_address(seed, step, shard * rows)
        chosen = _shuffled(step * batch_size + shard * rows + tf.range(rows, dtype=tf.int64), len(images), seed)
        others = {"label": tf.gather(labels, chosen), "address": address}
        flip = tf.zeros([rows], tf.int32)
        if random_flip:
            flip = randomness.row_integers(address, randomness.FLIPS, rows, 2)
        if encoded is not None:
            (x_0,) = tf.numpy_function(lambda *i: [encoded[i]], [flip, chosen], [tf.float32], stateful=False)
            return {"x_0": tf.ensure_shape(x_0, [rows, *encoded.shape[2:]]), **others}
        gathered = lambda index, flip: [_gathered(images.images, index, flip)]  # noqa: E731
        (batch,) = tf.numpy_function(gathered, [chosen, flip], [tf.uint8], stateful=False)
        return {"image": tf.ensure_shape(batch, [rows, *images.image_shape]), **others}

    # (Repeated, it is known to be endless: workers need not agree before each batch that there is one.)
    positions = tf.data.Dataset.range(first_step * len(own), np.iinfo(np.int64).max).repeat()
    return positions.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(4 * len(own))


def _gathered(images: np.ndarray | LazyImages, index: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """The images [B, H, W, C] at `index`, mirrored where `flip` is 1."""
    batch = images[index]
    # (One at a time, so that an image stays in the processor's cache; a whole channel is copied faster than pixels.)
    for row in np.flatnonzero(flip):
        image = batch[row].copy()
        for channel in range(image.shape[-1]):
            batch[row, ..., channel] = image[:, ::-1, channel]
    return batch


def _shuffled(position: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """The image int64 [B] at each position of an endless sequence that visits all `count` once an epoch."""
    epoch, index = position // count, position % count
    fixed = tf.fill(tf.shape(epoch), tf.constant(seed, tf.int64))
    key = tf.stack([fixed, epoch, tf.fill(tf.shape(epoch), tf.constant(randomness.ORDER, tf.int64))], axis=1)
    last = tf.fill(tf.shape(index), tf.constant(count - 1, tf.int64))
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=key, max_index=last, rounds=8)
