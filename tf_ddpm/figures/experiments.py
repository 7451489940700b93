"""What the figures show of a run, as arrays: images uint8 [..., H, W, C], made by the run's own samplers.

Image i of a call takes the noise of the seed `seed` + i, as everywhere. Cuts are steps of the chain in use, counted
as the tables are: 0 is the least noisy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_ddpm import build, randomness
from tf_ddpm.codecs import resampling
from tf_ddpm.diffusion import interpolation, samplers
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.sampling.run import Run

_LATENT_STEPS = 50  # of DDIM, there and back, unless the run is told otherwise


def own_chain(run: Run) -> Chain:
    """The chain that the run is used with."""
    return build.shorter_chain(run.config.sample, run.chain)


def _stepping(run: Run) -> samplers.Sampler:
    """Steps with noise on the chain in use: ancestral ones, and of a consistency student its own."""
    kind = samplers.Consistency if run.config.distill.jumps else samplers.Ancestral
    return kind(own_chain(run), run.config.sample.clip)


def noised(run: Run, images: np.ndarray, timesteps: Sequence[int], seed: int) -> np.ndarray:
    """x_t of `images` [N, ...] at each of `timesteps` [K], the noise of an image always the same: [N, K, ...]."""
    x_0 = run.codec.encode(tf.constant(images))
    eps = _noise(_seeds(seed, len(images)), 0, x_0.shape[1:])
    parts = [run.chain.levels.at(tf.constant(int(t)), x_0).noised(x_0, eps) for t in timesteps]
    return np.stack([run.codec.decode(part).numpy() for part in parts], axis=1)


def progressive(run: Run, count: int, moments: int, seed: int) -> np.ndarray:
    """The predicted x_0 of `count` images at `moments` steps of the reverse chain, [count, moments, ...].

    Ho et al. 2020, figure 6.
    """
    seeds = np.arange(seed, seed + count)
    settings = dataclasses.replace(run.config.sample, batch_size=count)
    batches = run.batches(seeds, run.labels(seeds, None), settings, num_frames=moments)
    return next(frames for _, frames in batches if frames is not None)


def sharing(run: Run, cuts: Sequence[int], count: int, seed: int) -> np.ndarray:
    """`count` ancestral samples that share x_t for t = cut and part ways after it, [cuts, count, ...].

    Ho et al. 2020, figure 7. Only the noise is shared: until the cut all are drawn alike.
    """
    whole, shape = own_chain(run), run.state_shape
    sampler = _stepping(run)
    own = np.tile(_seeds(seed + 1, count), len(cuts))
    alike = np.repeat(len(whole) - 1 - np.array(cuts), count)  # steps that lead to the cut

    def draw(own: np.ndarray, alike: np.ndarray) -> np.ndarray:
        common = tf.fill([len(own)], tf.constant(seed, tf.int64))
        noise = lambda k: _noise(tf.where(k < alike, common, own), k + 1, shape)  # noqa: E731
        labels = run.labels(np.array([seed]), None).repeat(len(own))
        return _drawn(run, sampler, _noise(common, 0, shape), noise, labels)

    return _in_batches(run, draw, own, alike).reshape(len(cuts), count, *run.image_shape)


def variations(run: Run, images: np.ndarray, labels: np.ndarray, cuts: Sequence[int], seed: int) -> np.ndarray:
    """`images` [N, ...] noised to each cut and drawn back from there by ancestral steps, [N, cuts, ...]."""
    whole, shape = own_chain(run), run.state_shape

    def draw(images: np.ndarray, labels: np.ndarray, seeds: np.ndarray, cut: np.ndarray) -> np.ndarray:
        x_0 = run.codec.encode(tf.constant(images))
        x_cut = whole.levels.at(tf.constant(cut), x_0).noised(x_0, _noise(seeds, 0, shape))
        sampler = samplers.Entering(_stepping(run), tf.constant(cut) + 1)
        return _drawn(run, sampler, x_cut, lambda k: _noise(seeds, k + 1, shape), labels)

    each = [np.repeat(part, len(cuts), axis=0) for part in (images, labels, _seeds(seed, len(images)))]
    drawn = _in_batches(run, draw, *each, np.tile(np.array(cuts, np.int32), len(images)))
    return drawn.reshape(len(images), len(cuts), *run.image_shape)


def interpolations(run: Run, images: np.ndarray, labels: np.ndarray, moments: int) -> np.ndarray:
    """Ways from image to image through the latents of DDIM (Song et al. 2021, section 5.3), [pairs, moments, ...].

    Args:
      images: [2 pairs, ...]; the latents of two that follow each other are the ends, and great circles lie between.
      labels: [pairs]; both images of a pair are encoded, and all between them decoded, under the one label.
    """
    settings = run.config.sample
    settings = dataclasses.replace(settings, steps=settings.steps or min(_LATENT_STEPS, len(run.chain)))
    steps = build.shorter_chain(settings, run.chain)
    x_0, known = run.codec.encode(tf.constant(images)), _known(run, np.repeat(labels, 2))
    encode = tf.function(lambda x: samplers.ddim_inversion(steps, _denoiser(run, steps, known), x), autograph=False)
    latents = encode.get_concrete_function(x_0)(x_0).numpy()
    ways = [great_circle(a, b, moments) for a, b in zip(latents[::2], latents[1::2], strict=True)]
    sampler, nothing = samplers.DDIM(steps, clip="none"), lambda _: tf.zeros([])
    drawn = [
        _drawn(run, sampler, tf.constant(way), nothing, np.repeat(labels[i], moments)) for i, way in enumerate(ways)
    ]
    return np.stack(drawn)


def great_circle(a: np.ndarray, b: np.ndarray, moments: int) -> np.ndarray:
    """[moments, ...] from `a` to `b`, which are the first and the last, along the circle through both."""
    first, last = (tf.constant(np.broadcast_to(end, (moments, *end.shape))) for end in (a, b))
    return interpolation.great_circle(first, last, tf.linspace(0.0, 1.0, moments)).numpy()


def inpainted(
    run: Run, images: np.ndarray, labels: np.ndarray, keep: np.ndarray, repeats: int, seed: int
) -> np.ndarray:
    """`images` [N, ...] with the pixels where `keep` [H, W] is 0 filled in by RePaint, [N, ...]."""
    seeds = _seeds(seed, len(images))
    given = run.codec.encode(tf.constant(images))
    kept = tf.constant(keep, tf.float32)[None, ..., None]
    kept = resampling.all_kept(kept, run.image_shape[0] // run.state_shape[0])
    sampler = samplers.inpainting(_stepping(run), given, kept, repeats)
    noise = lambda k: _noise(seeds, k + 1, run.state_shape)  # noqa: E731
    drawn = _drawn(run, sampler, _noise(seeds, 0, run.state_shape), noise, labels)
    return np.where(keep[..., None] == 1, images, drawn)


def guided(run: Run, weights: Sequence[float], classes: int, seed: int) -> np.ndarray:
    """A sample of each of the first `classes`, from the same noise for each weight: [weights, classes, ...].

    Of a run without classes so many samples.
    """
    labels = range(classes) if run.config.model.classes else None
    draw = lambda weight: run.sample(range(seed, seed + classes), labels, guidance=weight)  # noqa: E731
    return np.stack([draw(weight) for weight in weights])


def _in_batches(run: Run, draw: Callable[..., np.ndarray], *rows: np.ndarray) -> np.ndarray:
    """`draw` of all rows, at most `sample.batch_size` at a time."""
    size = run.config.sample.batch_size
    parts = [draw(*(row[i : i + size] for row in rows)) for i in range(0, len(rows[0]), size)]
    return np.concatenate(parts)


def _drawn(run: Run, sampler: samplers.Sampler, x_T: tf.Tensor, noise: Callable, labels: np.ndarray) -> np.ndarray:
    """The images at the end of the sampler's chain."""
    known = _known(run, labels)

    def draw(x_T: tf.Tensor) -> tf.Tensor:
        x_0, _ = samplers.sample_loop(sampler, _denoiser(run, sampler.chain, known), x_T, noise)
        return run.codec.decode(x_0)

    # (Called so, TensorFlow does not complain of many functions that are traced once.)
    return tf.function(draw, autograph=False).get_concrete_function(x_T)(x_T).numpy()


def _denoiser(run: Run, chain: Chain, labels: tf.Tensor | None) -> Denoiser:
    guidance = None
    known = run.guide is not None or (labels is not None and run.config.takes_guidance)
    if known and run.config.sample.guidance != 1.0:
        guidance = tf.constant([run.config.sample.guidance])
    return run.bound_denoiser(labels, guidance, chain.levels)


def _known(run: Run, labels: np.ndarray) -> tf.Tensor | None:
    return tf.constant(labels, tf.int32) if run.config.model.classes else None


def _seeds(first: int, count: int) -> tf.Tensor:
    return tf.range(first, first + count, dtype=tf.int64)


def _noise(seeds: tf.Tensor, count: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    return randomness.image_normal(seeds, count, list(shape))
