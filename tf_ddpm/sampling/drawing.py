"""From noise to images in one graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_ddpm import build, randomness
from tf_ddpm.codecs import resampling
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.config import Config
from tf_ddpm.diffusion import augmentation, interpolation, samplers
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.guidance import EVERYWHERE, Interval
from tf_ddpm.errors import UserError
from tf_ddpm.networks.backbone import Backbone, Condition

ImageNoise = Callable[[tf.Tensor | int], tf.Tensor]  # number of the draw, 0 for x_T -> standard normal [B, H, W, C]

_INPUTS = {"seed": tf.int64, "label": tf.int32, "guidance": tf.float32}
_OF_LOW_RES = -1  # the draw that noises a smaller image


def image_noise(seeds: tf.Tensor, state_shape: Sequence, stage: int = 0) -> ImageNoise:
    """The noise of states of `state_shape` (H, W, C) from `seeds` int64 [B]: each depends on its own seed alone.

    Args:
      stage: see `stage_of`.
    """
    return lambda count: randomness.image_normal(seeds, count, list(state_shape), stage)


def stage_of(config: Config) -> int:
    """What tells the noise of a run from that of others which draw for the same seeds, one after the other.

    A run that enlarges has the height of its images. So what it draws does not depend on who drew the smaller image.
    """
    return config.data.image_shape[0] if config.model.enlarges else 0


def low_res_condition(codec: Codec, factor: int, images: tf.Tensor, level: tf.Tensor, noise: ImageNoise) -> Condition:
    """What a network that enlarges is given of smaller images.

    Args:
      images: [B, h, w, C], from 0 to 255, rounded or not. level: int [B], of `diffusion.augmentation`.
      noise: of states [B, factor h, factor w, C].
    """
    large = resampling.enlarged(codec.encode(images), factor)
    shown = augmentation.noised(large, level, noise(_OF_LOW_RES))
    return {"low_res": shown, "augmentation": tf.cast(level, tf.float32)}


def noise_between(one: ImageNoise, other: ImageNoise, mix: tf.Tensor) -> ImageNoise:
    """The noise at `mix` float32 [B] of the way from `one` to the `other`, each draw along its own great circle."""
    return lambda count: interpolation.great_circle(one(count), other(count), mix)


def draw(
    sampler: samplers.Sampler,
    denoiser: Denoiser,
    noise: ImageNoise,
    codec: Codec,
    num_frames: int = 0,
    rounded: bool = True,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images from noise.

    Args:
      num_frames: as in `samplers.sample_loop`.
      rounded: to uint8; otherwise float32 from 0 to 255.

    Returns:
      [B, H, W, C], and the predicted images along the chain, uint8 [B, num_frames, H, W, C].
    """
    x_0, frames = samplers.sample_loop(sampler, denoiser, noise(0), lambda k: noise(k + 1), num_frames)
    images = codec.decode(x_0) if rounded else codec.decode_unrounded(x_0)
    if not num_frames:
        return images, tf.cast(images[:, tf.newaxis][:, :0], tf.uint8)
    return images, tf.transpose(codec.decode(frames), [1, 0, 2, 3, 4])


def vary(
    sampler: samplers.Sampler,
    denoiser: Denoiser,
    noise: ImageNoise,
    codec: Codec,
    images: tf.Tensor,
    strength: tf.Tensor,
) -> tf.Tensor:
    """Images like `images`: each is noised to a step of the chain and drawn back (SDEdit, Meng et al. 2022).

    Args:
      images: uint8 [B, H, W, C].
      strength: float32 [B] in [0, 1]: of N steps each row makes the last ceil(strength N). 0: the image itself, bit
        for bit; 1: from the chain's noisiest step.

    Returns:
      uint8 [B, H, W, C].
    """
    count = len(sampler.chain)
    # (0.29 times 100 is a little more than 29 in float32.)
    steps = tf.cast(tf.math.ceil(strength * count - 1e-4), tf.int32)
    steps = tf.where(strength > 0, tf.clip_by_value(steps, 1, count), 0)
    x_0 = codec.encode(images)
    x_t = sampler.chain.levels.at(tf.maximum(steps - 1, 0), x_0).noised(x_0, noise(0))
    entering = samplers.Entering(sampler, steps)
    first = count - tf.reduce_max(steps)
    x_0, _ = samplers.sample_loop(entering, denoiser, x_t, lambda k: noise(k + 1), first=first)
    return tf.where(tf.reshape(steps > 0, [-1, 1, 1, 1]), codec.decode(x_0), images)


def compiled_draw(
    sampler: samplers.Sampler,
    network: Backbone,
    config: Config,
    guides: bool = False,
    num_frames: int = 0,
    rounded: bool = True,
    any_size: bool = False,
    codec: Codec | None = None,
    guide: build.Guide | None = None,
    interval: Interval = EVERYWHERE,
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """`draw` as one graph of the tensors of `inputs_of`: (images,) or (images, frames).

    The label is looked at where the network has classes, the guidance if `guides` is set.

    Args:
      any_size: of a run that enlarges, whether it enlarges images of any size.
      codec: of a run that diffuses latents; None: pixels.
      guide, interval: see `build.denoiser`.
    """
    codec, model = codec or Pixels(), config.model
    state_shape = codec.state_shape(config.data.image_shape)

    def sample(seeds: tf.Tensor, label: tf.Tensor, guidance: tf.Tensor, *small: tf.Tensor) -> tuple[tf.Tensor, ...]:
        shape: Sequence = state_shape
        if any_size:
            shape = [*tf.unstack(tf.shape(small[0])[1:3] * model.factor), state_shape[-1]]
        noise = image_noise(seeds, shape, stage_of(config))
        condition = {"label": label} if model.classes else {}
        if small:
            low_res, level = small
            condition |= low_res_condition(codec, model.factor, low_res, level, noise)
        weight, levels = guidance if guides else None, sampler.levels
        denoiser = build.denoiser(config.diffusion, network, condition, weight, levels, guide=guide, interval=interval)
        images, frames = draw(sampler, denoiser, noise, codec, num_frames, rounded)
        return (images, frames) if num_frames else (images,)

    # (Behind a partial of its own TensorFlow does not take it for one function that is traced again and again.)
    return tf.function(functools.partial(sample), input_signature=inputs_of(config, any_size), autograph=False)


def inputs_of(config: Config, any_size: bool = False) -> list[tf.TensorSpec]:
    """What `compiled_draw` takes: seed, label and guidance [B]; and, for a run that enlarges, the images [B, h, w, C]
    from 0 to 255 that it is to enlarge and the level of their augmentation [B]."""
    specs = [tf.TensorSpec([None], dtype, name) for name, dtype in _INPUTS.items()]
    if config.model.enlarges:
        height, width, channels = low_res_shape(config)
        shape = (None, None, channels) if any_size else (height, width, channels)
        specs += [
            tf.TensorSpec([None, *shape], tf.float32, "low_res"),
            tf.TensorSpec([None], tf.int32, "augmentation"),
        ]
    return specs


def check_low_res(low_res: np.ndarray | None, shape: tuple[int, ...] | None, count: int) -> None:
    """Whether so many images of the `shape` that a run enlarges are given; None: it draws from noise alone.

    Raises:
      UserError: where they are not.
    """
    if shape is None and low_res is not None:
        raise UserError("low_res: this run draws from noise alone (model.condition=none); expected none")
    if shape is not None and (low_res is None or low_res.shape != (count, *shape)):
        got = "none" if low_res is None else f"an array {list(low_res.shape)}"
        raise UserError(f"low_res: this run enlarges images {[count, *shape]}; got {got}")


def low_res_shape(config: Config) -> tuple[int, int, int]:
    """(height, width, channels) of the images that a run enlarges to its own size."""
    height, width, channels = config.data.image_shape
    return height // config.model.factor, width // config.model.factor, channels
