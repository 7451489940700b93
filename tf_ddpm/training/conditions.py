"""From a batch of the data to what a network learns from: clean images, and the conditions that it is given."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.codecs import resampling
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.config import Config, TrainConfig
from tf_ddpm.diffusion import augmentation
from tf_ddpm.networks.backbone import Condition

_WIDTHS = (0.4, 0.6)  # standard deviations of the blur, in pixels


def of_batch(
    config: Config, names: tuple[str, ...], codec: Codec, batch: dict[str, tf.Tensor]
) -> tuple[tf.Tensor, Condition]:
    """x_0 float32 [B, h, w, c], and every condition of the network.

    Args:
      names: of the network's conditions. batch: see `datasets.batches`; `x_0` instead of `image` is already encoded.
    """
    x_0, address = batch["x_0"] if "x_0" in batch else codec.encode(batch["image"]), batch["address"]
    condition = {}
    if "label" in names:
        condition["label"] = _labels(batch["label"], address, config.train.label_dropout)
    if config.model.enlarges:
        x_0, low_res, level = _enlarging(config.train, config.model.factor, x_0, address)
        condition |= {"low_res": low_res, "augmentation": level}
    return x_0, condition


def _labels(label: tf.Tensor, address: tf.Tensor, dropout: float) -> tf.Tensor:
    """The labels, a share of them -1 (Ho & Salimans 2022, algorithm 1)."""
    parts = 1 << 16
    draw = randomness.row_integers(address, randomness.LABELS, tf.shape(label)[0], parts)
    return tf.where(draw < round(dropout * parts), -1, label)


def _enlarging(
    train: TrainConfig, factor: int, x_0: tf.Tensor, address: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """x_0 and its smaller image, enlarged again and noised; both cropped alike; and the level of that noise [B]."""
    rows = tf.shape(x_0)[0]
    small = resampling.area_mean(x_0, factor)
    if train.blur > 0:
        blurs = randomness.row_uniform(address, randomness.BLURS, rows) < train.blur
        low, high = _WIDTHS
        std = low + (high - low) * randomness.row_uniform(address, randomness.BLUR_WIDTHS, rows)
        small = tf.where(blurs[:, None, None, None], resampling.blurred(small, std), small)
    # Enlarged before it is cropped: at the border of a part the network sees what it sees there in the whole.
    low_res = resampling.enlarged(small, factor)
    if train.crop is not None:
        x_0, low_res = cropped(train.crop, factor, address, x_0, low_res)
    level = augmentation.drawn(address, rows, train.augmentation, train.clean_share)
    eps = randomness.row_normal(address, randomness.LOW_RES_NOISE, rows, low_res.shape[1:].as_list())
    return x_0, augmentation.noised(low_res, level, eps), level


def cropped(side: int, factor: int, address: tf.Tensor, *images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The same random square of each of the `images` [B, H, W, C]; its corner is one of the smaller image's pixels."""
    rows = tf.shape(images[0])[0]
    for axis, stream in ((1, randomness.CROP_ROWS), (2, randomness.CROP_COLUMNS)):
        places = (images[0].shape[axis] - side) // factor + 1
        first = factor * randomness.row_integers(address, stream, rows, places)
        index = first[:, None] + tf.range(side)
        images = tuple(tf.gather(image, index, axis=axis, batch_dims=1) for image in images)
    return images
