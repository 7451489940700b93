"""From noise to images in one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.codecs import pixels
from tf_ddpm.diffusion import interpolation, samplers
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.guidance import conditioned, guided
from tf_ddpm.diffusion.process import DiffusionProcess
from tf_ddpm.networks.unet import UNet

ImageNoise = Callable[[tf.Tensor], tf.Tensor]  # number of the draw, 0 for x_T -> standard normal [B, H, W, C]


def image_noise(seeds: tf.Tensor, image_shape: Sequence[int]) -> ImageNoise:
    """The noise of images of `image_shape` (H, W, C) from `seeds` int64 [B]: each depends on its own seed alone."""
    return lambda count: randomness.image_normal(seeds, count, list(image_shape))


def noise_between(one: ImageNoise, other: ImageNoise, mix: tf.Tensor) -> ImageNoise:
    """The noise at `mix` float32 [B] of the way from `one` to the `other`, each draw along its own great circle."""
    return lambda count: interpolation.great_circle(one(count), other(count), mix)


def draw(
    sampler: samplers.Sampler, denoiser: Denoiser, noise: ImageNoise, num_frames: int = 0, rounded: bool = True
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images from noise.

    Args:
      num_frames: as in `samplers.sample_loop`.
      rounded: to uint8; otherwise float32 from 0 to 255.

    Returns:
      [B, H, W, C], and the predicted images along the chain, uint8 [B, num_frames, H, W, C].
    """
    x_0, frames = samplers.sample_loop(sampler, denoiser, noise(0), lambda k: noise(k + 1), num_frames)
    frames = tf.transpose(pixels.to_pixels(frames), [1, 0, 2, 3, 4])
    return pixels.to_pixels(x_0) if rounded else pixels.to_unrounded(x_0), frames


def vary(
    sampler: samplers.Sampler, denoiser: Denoiser, noise: ImageNoise, images: tf.Tensor, strength: tf.Tensor
) -> tf.Tensor:
    """Images like `images`: each is noised to a step of the chain and drawn back (SDEdit, Meng et al. 2022).

    Args:
      images: uint8 [B, H, W, C].
      strength: float32 [B] in [0, 1]: of N steps each row makes the last ceil(strength N). 0: the image itself, bit
        for bit; 1: from the chain's noisiest step.

    Returns:
      uint8 [B, H, W, C].
    """
    count = len(sampler.process)
    # (0.29 times 100 is a little more than 29 in float32.)
    steps = tf.cast(tf.math.ceil(strength * count - 1e-4), tf.int32)
    steps = tf.where(strength > 0, tf.clip_by_value(steps, 1, count), 0)
    x_t = sampler.process.q_sample(pixels.to_unit(images), tf.maximum(steps - 1, 0), noise(0))
    entering = samplers.Entering(sampler, steps)
    first = count - tf.reduce_max(steps)
    x_0, _ = samplers.sample_loop(entering, denoiser, x_t, lambda k: noise(k + 1), first=first)
    return tf.where(tf.reshape(steps > 0, [-1, 1, 1, 1]), pixels.to_pixels(x_0), images)


def denoiser_of(
    network: Callable[..., tf.Tensor],
    process: DiffusionProcess,
    label: tf.Tensor | None,
    guidance: tf.Tensor | None,
) -> Denoiser:
    """`network(x_t, t[, label])` as the samplers see it.

    Args:
      label: int32 [B] for a network with classes, else None. guidance: float32 [B]; None: as trained.
    """
    if label is None:
        return network
    return conditioned(network, label) if guidance is None else guided(process, network, label, guidance)


def precompute_time(network: UNet, timesteps: np.ndarray) -> Callable[..., tf.Tensor]:
    """`network(x_t, t[, label])` for t among `timesteps`, made ready for the loop in which it will stand.

    What depends on t alone is done here and now, outside of the loop: every step's embedding, and without labels
    every block's projection of it.

    Args:
      network: the U-Net, or what has its `embedding`, `injections` and `forward`.
      timesteps: [S], each once.
    """
    position = np.zeros(max(timesteps) + 1, np.int32)
    position[timesteps] = np.arange(len(timesteps))
    embeddings = network.embedding(tf.constant(timesteps, tf.int32))
    without_labels = None if network.settings["classes"] else network.injections(embeddings)

    def call(x_t: tf.Tensor, t: tf.Tensor, label: tf.Tensor | None = None) -> tf.Tensor:
        row = tf.gather(tf.constant(position), t)
        if label is None:
            return network.forward(x_t, tf.gather(without_labels, row))
        return network.forward(x_t, network.injections(tf.gather(embeddings, row), label))

    return call


def compiled_draw(
    sampler: samplers.Sampler,
    network: UNet,
    image_shape: Sequence[int],
    guides: bool = False,
    num_frames: int = 0,
    rounded: bool = True,
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    """`draw` as one graph of seeds int64 [B], label int32 [B] and guidance float32 [B]: (images,) or (images, frames).

    The label is looked at where the network has classes, the guidance if `guides` is set.
    """

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="seed"),
            tf.TensorSpec([None], tf.int32, name="label"),
            tf.TensorSpec([None], tf.float32, name="guidance"),
        ],
        autograph=False,
    )
    def sample(seeds: tf.Tensor, label: tf.Tensor, guidance: tf.Tensor) -> tuple[tf.Tensor, ...]:
        denoiser = denoiser_of(
            precompute_time(network, sampler.process.timesteps),
            sampler.process,
            label if network.settings["classes"] else None,
            guidance if guides else None,
        )
        images, frames = draw(sampler, denoiser, image_noise(seeds, image_shape), num_frames, rounded)
        return (images, frames) if num_frames else (images,)

    return sample
