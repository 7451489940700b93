"""Images made smaller and larger: what a network that enlarges is shown. float [B, H, W, C] throughout."""

from __future__ import annotations

import tensorflow as tf


def area_mean(images: tf.Tensor, factor: int) -> tf.Tensor:
    """[B, H, W, C] -> [B, H / factor, W / factor, C]: the mean of each square of factor x factor pixels."""
    return tf.nn.avg_pool2d(images, factor, factor, "VALID")


def all_kept(keep: tf.Tensor, factor: int) -> tf.Tensor:
    """Masks [B, H, W, 1] of 0 and 1 -> [B, H / factor, W / factor, 1]: 1 where all of a square's pixels are."""
    return keep if factor == 1 else tf.floor(area_mean(keep, factor))


def enlarged(images: tf.Tensor, factor: int) -> tf.Tensor:
    """[B, h, w, C] -> [B, factor h, factor w, C], bilinear.

    Pixels are areas (half-pixel centres, PyTorch's align_corners=False), so that nothing is shifted, and beyond the
    border the outermost pixel goes on.
    """
    height, width = tf.unstack(tf.shape(images)[1:3])
    large = tf.image.resize(images, tf.stack([height, width]) * factor, "bilinear")
    sides = [None if side is None else side * factor for side in images.shape[1:3]]
    return tf.ensure_shape(tf.cast(large, images.dtype), [images.shape[0], *sides, images.shape[3]])


def blurred(images: tf.Tensor, std: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] under a Gaussian filter of 3x3 pixels with the standard deviation `std` float32 [B], in pixels.

    Borders are reflected.
    """
    side = tf.exp(-0.5 / tf.square(std))  # of a neighbour, beside 1 for the pixel itself
    near, centre = side / (1.0 + 2.0 * side), 1.0 / (1.0 + 2.0 * side)
    near, centre = (tf.cast(tf.reshape(part, [-1, 1, 1, 1]), images.dtype) for part in (near, centre))
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
    rows = near * (padded[:, :-2] + padded[:, 2:]) + centre * padded[:, 1:-1]
    return near * (rows[:, :, :-2] + rows[:, :, 2:]) + centre * rows[:, :, 1:-1]
