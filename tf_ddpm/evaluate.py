"""A run and real images -> metrics.json: each figure with a receipt of how it was got."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_ddpm import build, datasets, objectives, pixels, randomness, sampling
from tf_ddpm import config as config_lib
from tf_ddpm.errors import UserError
from tf_ddpm.process import DiffusionProcess
from tf_ddpm.sampling import Run

_BOUND_VERSION = 1  # of how bits_per_dim is computed


def evaluate(run: Run, run_dir: str | os.PathLike, num_images: int, seed: int) -> Path:
    """Measures `bits_per_dim` and writes it into `run_dir`/metrics.json, beside the metrics already there.

    Args:
      num_images: how many images of the run's `data`, drawn by `seed`; all of them if there are no more.

    Returns:
      The path of metrics.json.

    Raises:
      UserError: where the images cannot be read, do not fit the run, or the file cannot be written.
    """
    path = Path(run_dir) / "metrics.json"
    metrics = _earlier(path)
    metrics["bits_per_dim"] = bits_per_dim(run, _images(run, num_images, seed), seed)
    try:
        aside = path.with_name(".metrics.json")
        aside.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    print(_table(metrics["bits_per_dim"]))
    return path


def bits_per_dim(run: Run, images: datasets.ImageSet, seed: int) -> dict:
    """The variational bound of `images` on the run's (possibly shorter) chain, every term apart.

    Image i takes the noise of the seed `seed` + i, so that the figure does not depend on the batch size.

    Returns:
      `value`, its `standard_error` over the images, `terms` (`L_T`, `L_0`, and `L_t_minus_1`, a list from t = 2 to
      T), `eps_squared_error` and `timesteps` by step, and the `receipt`.
    """
    began, settings = time.perf_counter(), run.config.sample
    process = build.chain(settings, run.process)
    terms = _compiled_terms(run, process)
    parts, bar = [], tqdm(total=len(images), unit="image", leave=False, disable=None)
    for start in range(0, len(images), settings.batch_size):
        stop = min(start + settings.batch_size, len(images))
        seeds = tf.range(seed + start, seed + stop, dtype=tf.int64)
        bound = terms(tf.constant(images.images[start:stop]), tf.constant(images.labels[start:stop], tf.int32), seeds)
        parts.append(objectives.Bound(*(np.moveaxis(part.numpy().astype(np.float64), -1, 0) for part in bound)))
        bar.update(stop - start)
    bar.close()
    prior, by_step, errors = (np.concatenate(part) for part in zip(*parts, strict=True))
    totals, means = prior + by_step.sum(axis=1), by_step.mean(axis=0)
    return {
        "value": float(totals.mean()),
        "standard_error": float(totals.std(ddof=1) / np.sqrt(len(totals))) if len(totals) > 1 else None,
        "terms": {"L_T": float(prior.mean()), "L_t_minus_1": means[1:].tolist(), "L_0": float(means[0])},
        "eps_squared_error": errors.mean(axis=0).tolist(),
        "timesteps": process.timesteps.tolist(),
        "receipt": _receipt(run, seed, len(images), len(process), time.perf_counter() - began),
    }


def _compiled_terms(run: Run, process: DiffusionProcess) -> Callable[..., objectives.Bound]:
    """(images uint8, label int32 [B], seeds int64 [B]) -> Bound."""
    shape = list(run.image_shape)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *shape], tf.uint8),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.int64),
        ],
        autograph=False,
    )
    def terms(images: tf.Tensor, label: tf.Tensor, seeds: tf.Tensor) -> objectives.Bound:
        denoiser = sampling.denoiser_of(run.network, process, label if run.config.model.classes else None, None)
        noise = lambda t: randomness.image_normal(seeds, t, shape)  # noqa: E731
        return objectives.variational_bound(process, denoiser, pixels.to_unit(images), noise)

    return terms


def _images(run: Run, num_images: int, seed: int) -> datasets.ImageSet:
    """`num_images` of the run's data, in an order drawn by `seed`."""
    images = datasets.load(run.config.data)
    datasets.check_labels(images, run.config.model.classes)
    chosen = np.sort(np.random.default_rng(abs(seed)).permutation(len(images))[:num_images])
    return datasets.ImageSet(images.images[chosen], images.labels[chosen], images.label_names)


def _receipt(run: Run, seed: int, count: int, steps: int, seconds: float) -> dict:
    """All that is needed to measure it again."""
    config = run.config
    return {
        "metric_version": _BOUND_VERSION,
        "data": {"name": config.data.name, "split": config.data.split, "path": config.data.path},
        "num_images": count,
        "seed": seed,
        "steps": steps,
        "spacing": config.sample.spacing if steps < config.diffusion.timesteps else None,
        "prediction": config.diffusion.prediction,
        "variance": config.diffusion.variance,
        "clip": "static",
        "precision": config.sample.precision,
        "checkpoint_step": run.checkpoint_step,
        "config_sha256": hashlib.sha256(config_lib.to_json(config).encode()).hexdigest(),
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__},
        "seconds": round(seconds, 1),
    }


def _table(bits: dict) -> str:
    """What a person wants to see of them."""
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


def _earlier(path: Path) -> dict:
    """What metrics.json holds already."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(metrics, dict):
            return metrics
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        pass
    raise UserError(f"{path} cannot be read as metrics; move it away first")
