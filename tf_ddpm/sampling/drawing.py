"""From noise to images in one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_ddpm import build, randomness
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.config import Config
from tf_ddpm.diffusion import interpolation, samplers
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.networks.backbone import Backbone

ImageNoise = Callable[[tf.Tensor], tf.Tensor]  # number of the draw, 0 for x_T -> standard normal [B, H, W, C]


def image_noise(seeds: tf.Tensor, state_shape: Sequence[int]) -> ImageNoise:
    """The noise of states of `state_shape` (H, W, C) from `seeds` int64 [B]: each depends on its own seed alone."""
    return lambda count: randomness.image_normal(seeds, count, list(state_shape))


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
    frames = tf.transpose(codec.decode(frames), [1, 0, 2, 3, 4])
    return codec.decode(x_0) if rounded else codec.decode_unrounded(x_0), frames


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
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    """`draw` as one graph of seeds int64 [B], label int32 [B] and guidance float32 [B]: (images,) or (images, frames).

    The label is looked at where the network has classes, the guidance if `guides` is set.
    """
    codec = build.codec(config)
    state_shape = codec.state_shape(config.data.image_shape)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="seed"),
            tf.TensorSpec([None], tf.int32, name="label"),
            tf.TensorSpec([None], tf.float32, name="guidance"),
        ],
        autograph=False,
    )
    def sample(seeds: tf.Tensor, label: tf.Tensor, guidance: tf.Tensor) -> tuple[tf.Tensor, ...]:
        condition = {"label": label} if config.model.classes else {}
        weight, levels = guidance if guides else None, sampler.chain.levels
        denoiser = build.denoiser(config.diffusion, network, condition, weight, levels)
        images, frames = draw(sampler, denoiser, image_noise(seeds, state_shape), codec, num_frames, rounded)
        return (images, frames) if num_frames else (images,)

    return sample
