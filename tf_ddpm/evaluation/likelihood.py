"""Bits/dim: the variational bound of real images under a run, every term apart, with its receipt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm import build, datasets, randomness
from tf_ddpm import config as config_lib
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.diffusion import bounds
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import provenance
from tf_ddpm.runtime import memory
from tf_ddpm.runtime.chunks import Reached, in_chunks
from tf_ddpm.runtime.digests import digest
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling.run import Run

_VERSION = 2  # of how it is computed


def check(run: Run) -> None:
    """Whether what the run diffuses has bits/dim.

    Raises:
      UserError: where it is latents.
    """
    if run.codec_weights:
        raise UserError(
            "bits/dim are of pixels; this run diffuses latents, whose bound says nothing about pixels; expected "
            "metrics such as fid and kid"
        )


def bits_per_dim(run: Run, images: datasets.ImageSet, folder: Path, seed: int, steps: int | None = None) -> dict:
    """The variational bound of `images`, every term apart.

    Image i takes the noise of the seed `seed` + i, so that the figure does not depend on the batch size.

    Args:
      folder: where the figures of each batch are kept, so that one who measures again goes on where it was.
      steps: of a shorter chain; None: the whole one.

    Returns:
      `value`, its `standard_error` over the images, `terms` (`L_T`, `L_0`, and `L_t_minus_1`, a list from t = 2 to
      T), `eps_squared_error`, `x_0_squared_error` and `timesteps` by step, and the `receipt`.
    """
    settings = run.config.sample
    chain = run.chain  # whatever levels images are drawn at
    if steps is not None:
        chain = build.shorter_chain(dataclasses.replace(settings, steps=steps), chain)
    terms, about = _compiled_terms(run, chain), _about(run, chain, images, seed)

    def measured(start: int, stop: int, _: Reached) -> dict[str, np.ndarray]:
        seeds = np.arange(seed + start, seed + stop, dtype=np.int64)
        columns = terms(images.images[start:stop], images.labels[start:stop].astype(np.int32), seeds)
        prior, by_step, eps_errors, x_0_errors = (column.astype(np.float64) for column in columns)
        sums = {"by_step": by_step, "eps_errors": eps_errors, "x_0_errors": x_0_errors}
        rows = {"prior": prior, "total": prior + by_step.sum(axis=1)}
        return rows | {name: column.sum(axis=0, keepdims=True) for name, column in sums.items()}

    weights = provenance.weights_digest(run)
    key = digest(about, weights, chain.timesteps, settings.batch_size, images.whole(), images.labels)
    kept, seconds = in_chunks(
        folder / f"bits-{key[:32]}", len(images), measured, "measuring bits/dim", run.all_have, settings.batch_size
    )
    means = {name: kept[name].sum(axis=0) / len(images) for name in ("by_step", "eps_errors", "x_0_errors")}
    totals = kept["total"]
    return {
        "value": float(totals.mean()),
        "standard_error": float(totals.std(ddof=1) / np.sqrt(len(totals))) if len(totals) > 1 else None,
        "terms": {
            "L_T": float(kept["prior"].mean()),
            "L_t_minus_1": means["by_step"][1:].tolist(),
            "L_0": float(means["by_step"][0]),
        },
        "eps_squared_error": means["eps_errors"].tolist(),
        "x_0_squared_error": means["x_0_errors"].tolist(),
        "timesteps": chain.timesteps.tolist(),
        "receipt": about | {"weights_sha256": weights, "seconds": round(seconds, 1)},
    }


def _about(run: Run, chain: Chain, images: datasets.ImageSet, seed: int) -> dict:
    """The receipt, but for the seconds."""
    settings, data = run.config.sample, run.config.data
    return {
        "metric_version": _VERSION,
        **provenance.describe_run(run),
        "data": {"name": data.name, "split": data.split, "decoder": data.decoder or config_lib.DECODER},
        "num_images": len(images),
        "given": None if run.low_res_shape is None else "the image made smaller, without noise",
        "seed": seed,
        "steps": len(chain),
        "spacing": None if np.array_equal(chain.timesteps, run.chain.timesteps) else settings.spacing,
        "clip": "static",
        "precision": settings.precision,
        "weights": settings.weights,
        **({} if settings.ema is None else {"ema": settings.ema}),
        "versions": provenance.versions(),
    }


def _compiled_terms(run: Run, chain: Chain) -> Callable[..., tuple[np.ndarray, ...]]:
    """(images uint8, label int32 [B], seeds int64 [B]) -> the terms of `objectives.Bound`, each [B, ...]."""
    check(run)
    shape = list(run.image_shape)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *shape], tf.uint8),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.int64),
        ],
        autograph=False,
    )
    def terms(images: tf.Tensor, label: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, ...]:
        noise = lambda t: randomness.image_normal(seeds, t, shape)  # noqa: E731
        denoiser = run.bound_denoiser(label, shown=run.shown_of(images))
        bound = bounds.variational_bound(chain, denoiser, run.codec.encode(images), noise)
        return tuple(tf.transpose(part) for part in bound)

    return run.over_devices(terms)


def chosen_images(run: Run, num_images: int, seed: int, images: datasets.ImageSet | None = None) -> datasets.ImageSet:
    """`num_images` of the run's data (all, if there are no more), drawn by `seed`; less those that are damaged.

    Args:
      images: the run's data, where it is there already.

    Raises:
      UserError: where they cannot be read, do not fit the run, or there is no memory for them.
    """
    images = images or datasets.load(run.config.data)
    datasets.check_labels(images, run.config.model.classes)
    chosen = np.sort(np.random.default_rng(abs(seed)).permutation(len(images))[:num_images])
    size = float(len(chosen) * np.prod(images.image_shape))
    memory.check(size, f"holding {len(chosen)} images", "take fewer: --num_images")
    with Progress(1, f"reading {len(chosen)} images"):
        found = images.images[chosen]
    if isinstance(images.images, LazyImages):  # what could not be decoded is a copy of another one
        own = np.flatnonzero(~np.isin(chosen, images.images.replaced))
        if not len(own):
            raise UserError(f"none of the {len(chosen)} images can be decoded; expected a larger num_images")
        found, chosen = found[own], chosen[own]
    return datasets.ImageSet(found, images.labels[chosen], images.label_names)


def table(bits: dict) -> str:
    """What a person wants to see of `bits_per_dim`."""
    terms, errors = bits["terms"], np.array(bits["eps_squared_error"])
    spread = "" if bits["standard_error"] is None else f" +- {bits['standard_error']:.4f}"
    rows = [
        ("bits/dim", f"{bits['value']:.4f}{spread} ({bits['receipt']['num_images']} images)"),
        ("  L_T", f"{terms['L_T']:.6f}"),
        ("  L_{t-1}, summed", f"{sum(terms['L_t_minus_1']):.4f}"),
        ("  L_0", f"{terms['L_0']:.4f}"),
        ("mean squared error", "  ".join(f"{part.mean():.4f}" for part in np.array_split(errors, 4) if len(part))),
    ]
    return "\n".join(f"{name:20s} {value}" for name, value in rows) + "  (eps, by quarter of the chain)"
