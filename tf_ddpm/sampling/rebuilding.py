"""The average of the weights with which a run is opened: one whose width is chosen after the training (Karras et al.
2024, "EDM2", section 3), and what is said of one that lags behind."""

from __future__ import annotations

import os
import sys

import keras
import numpy as np
import tensorflow as tf

from tf_ddpm.config import TrainConfig
from tf_ddpm.errors import UserError
from tf_ddpm.networks import averaging
from tf_ddpm.runs import averages
from tf_ddpm.runtime import cluster

_POOR = 0.05  # of the norm of a profile: what is rebuilt with a larger difference is another average


def rebuild(network: keras.Model, run_dir: str | os.PathLike, sigma_rel: float, step: int) -> int:
    """Gives `network` the average of width `sigma_rel` at `step`, from what the run has kept up to then.

    Returns:
      The step of the average: the last one at or before `step` at which averages were kept.

    Raises:
      UserError: where the run has kept none, or of another network.
    """
    moments = [kept for kept in averages.steps(run_dir) if kept <= step]
    if not moments:
        raise UserError(
            f"ema={sigma_rel:g}: the run in {run_dir} has kept no averages up to step {step}; train one with "
            "train.averages=0.05,0.1"
        )
    found = {moment: averages.read(run_dir, moment) for moment in moments}
    kept = [(moment, width) for moment in moments for width in found[moment]]
    weights, error = averaging.combination(kept, moments[-1], sigma_rel)
    if error > _POOR and cluster.this_worker().is_chief:
        print(
            f"warning: ema={sigma_rel:g}: what the run has kept rebuilds this width with an error of {error:.0%}; "
            "widths near those of train.averages are rebuilt better",
            file=sys.stderr,
        )
    vector = sum(weight * found[t][width].astype(np.float64) for weight, (t, width) in zip(weights, kept, strict=True))
    sizes = [int(np.prod(weight.shape)) for weight in network.weights]
    if len(vector) != sum(sizes):
        raise UserError(f"ema={sigma_rel:g}: the averages in {run_dir} are of another network")
    parts = np.split(vector.astype(np.float32), np.cumsum(sizes)[:-1])
    for weight, part in zip(network.weights, parts, strict=True):
        weight.assign(tf.reshape(part, weight.shape))
    return moments[-1]


def warn_of_stale_average(train: TrainConfig, step: int, share: float | None, about: str = "") -> None:
    """Says that much of the average is still what the run began with, where it is.

    Args:
      step: of the average.
      share: of the initial weights; None: the checkpoint, of version 1, does not say, and it is at most as reckoned.
      about: whose average it is.
    """
    most = averaging.initial_share(step, train.ema_decay, train.ema_warmup) if share is None else share
    about += "up to " if share is None else ""
    if most > averaging.STALE and cluster.this_worker().is_chief:
        print(
            f"warning: {about}{most:.0%} of the weights' average are still what the run began with, and its images "
            "mostly noise; the last weights draw better ones: weights=raw (a lower train.ema_decay, or "
            "train.ema_warmup=true, lets the average follow)",
            file=sys.stderr,
        )
