"""Random numbers as functions of an address, never of a hidden state.

Two kinds of address:
  * a row of the training batch: (seed, step, row). One draw fills the whole global batch, and a replica that
    holds some rows of it starts Philox's counter at its first row, so that it computes those rows and no
    others, and one device and many draw the same numbers.
  * an image: its own seed and a counter, so that an image depends on neither its neighbours nor the batch size.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

_PHILOX = 1
_WORDS_A_BLOCK = 4  # 32-bit words that Philox makes for each count

# Streams: independent numbers at the same address.
TIMESTEPS, NOISE, FLIPS, ORDER, LABELS = range(5)
CROP_ROWS, CROP_COLUMNS, AUGMENTATION, CLEAN, LOW_RES_NOISE, BLURS, BLUR_WIDTHS = range(5, 12)
FIRST_LAYER = 16


def row_address(seed: int, step: tf.Tensor, first_row: tf.Tensor) -> tf.Tensor:
    """int64 [3]: the address of the rows from `first_row` on, of the global batch of `step`."""
    return tf.stack([tf.cast(part, tf.int64) for part in (seed, step, first_row)])


def row_normal(address: tf.Tensor, stream: int, rows: tf.Tensor, row_shape: list[int]) -> tf.Tensor:
    """Standard normal float32 [rows, *row_shape] for the rows at `address`."""
    key, counter, shape = _philox(address, stream, rows, row_shape)
    draw = tf.raw_ops.StatelessRandomNormalV2(shape=shape, key=key, counter=counter, alg=_PHILOX)
    return _rows(draw, row_shape)


def row_bits(address: tf.Tensor, stream: int, rows: tf.Tensor, row_shape: list[int]) -> tf.Tensor:
    """Uniform uint32 [rows, *row_shape], all 32 bits random, for the rows at `address`."""
    key, counter, shape = _philox(address, stream, rows, row_shape)
    draw = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
    )
    return _rows(draw, row_shape)


def row_integers(address: tf.Tensor, stream: int, rows: tf.Tensor, limit: int) -> tf.Tensor:
    """Uniform int32 [rows] in [0, limit), for the rows at `address`."""
    bits = row_bits(address, stream, rows, [1])[:, 0]
    # The high half of bits * limit: each value's probability is within 2^-32 of 1 / limit.
    return tf.cast(tf.bitwise.right_shift(tf.cast(bits, tf.uint64) * limit, tf.constant(32, tf.uint64)), tf.int32)


def row_uniform(address: tf.Tensor, stream: int, rows: tf.Tensor) -> tf.Tensor:
    """Uniform float32 [rows] in [0, 1), a multiple of 2^-16, for the rows at `address`."""
    return tf.cast(row_integers(address, stream, rows, 1 << 16), tf.float32) / (1 << 16)


def image_normal(seeds: tf.Tensor, count: tf.Tensor, image_shape: Sequence, stage: int = 0) -> tf.Tensor:
    """Standard normal float32 [B, *image_shape]: row i is the draw number `count` of the seed int64 seeds[i].

    Args:
      count: from -2^31 to 2^31-1. image_shape: ints, or scalar tensors where the graph does not know them.
      stage: of several that draw for one image, each with numbers of its own.
    """
    number = tf.cast(count, tf.int64) + (stage << 32)

    def draw(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_normal(image_shape, tf.stack([seed, number]), alg="philox")

    static = [side if isinstance(side, int) else None for side in image_shape]
    return tf.map_fn(draw, seeds, fn_output_signature=tf.TensorSpec(static, tf.float32))


def _philox(address: tf.Tensor, stream: int, rows: tf.Tensor, row_shape: list[int]):
    """Key, counter and (row-wise padded) shape of a draw that begins at `address`."""
    seed = tf.random.experimental.stateless_fold_in(address[:2], tf.constant(stream, tf.int64), alg="philox")
    # (TensorFlow's own way from a seed to key and counter is another one where XLA compiles it.)
    key, high = tf.unstack(tf.bitcast(seed, tf.uint64))
    blocks = -(-math.prod(row_shape) // _WORDS_A_BLOCK)
    counter = tf.stack([tf.cast(address[2] * blocks, tf.uint64), high])
    return key[None], counter, [rows, blocks * _WORDS_A_BLOCK]


def _rows(draw: tf.Tensor, row_shape: list[int]) -> tf.Tensor:
    return tf.reshape(draw[:, : math.prod(row_shape)], [-1, *row_shape])
