"""Saving and restoring: the whole training state, or the EMA network alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import keras
import tensorflow as tf

from tf_ddpm.errors import UserError
from tf_ddpm.train_state import TrainState

_PREFIX = "step"


def manager(run_dir: str | os.PathLike, state: TrainState, keep: int) -> tf.train.CheckpointManager:
    """The keeper of the last `keep` checkpoints of `run_dir`."""
    return tf.train.CheckpointManager(state.checkpoint(), _folder(run_dir), keep, checkpoint_name=_PREFIX)


def save(keeper: tf.train.CheckpointManager, step: int) -> None:
    """Writes the checkpoint of `step`.

    Raises:
      UserError: where the disk does not take it; the checkpoints before it are intact.
    """
    try:
        keeper.save(checkpoint_number=step)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"cannot write the checkpoint of step {step} in {keeper.directory}: {str(error).splitlines()[0]}\n"
            f"The last good one is {keeper.latest_checkpoint or 'none'}."
        ) from None


def save_imported(network: keras.Model, run_dir: str | os.PathLike) -> None:
    """Writes the checkpoint of step 0, which holds the weights of `network` alone.

    Raises:
      UserError: where the disk does not take it.
    """
    checkpoint = tf.train.Checkpoint(ema_network=network)
    save(tf.train.CheckpointManager(checkpoint, _folder(run_dir), 1, checkpoint_name=_PREFIX), 0)


def restore(keeper: tf.train.CheckpointManager, state: TrainState) -> None:
    """Brings the state to the latest checkpoint, if there is one.

    Raises:
      UserError: where the checkpoint cannot be read or does not fit.
    """
    latest = keeper.latest_checkpoint
    if latest and step_of(latest) == 0:  # an imported network: weights, and no training yet
        _read(tf.train.Checkpoint(ema_network=state.ema_network), latest)
        for average, weight in zip(state.ema_network.weights, state.network.weights, strict=True):
            weight.assign(average)
    elif latest:
        _read(keeper.checkpoint, latest)


def steps(run_dir: str | os.PathLike) -> list[int]:
    """The steps of which `run_dir` keeps a checkpoint, the oldest first."""
    state = tf.train.get_checkpoint_state(_folder(run_dir))
    return sorted(step_of(path) for path in state.all_model_checkpoint_paths) if state else []


def restore_ema_network(network: keras.Model, run_dir: str | os.PathLike, step: int | None = None) -> int:
    """Reads the EMA weights of a checkpoint into `network` and returns the checkpoint's step.

    Args:
      step: of which; None: the latest.

    Raises:
      UserError: where there is no such checkpoint, or it cannot be read or does not fit.
    """
    latest = tf.train.latest_checkpoint(_folder(run_dir))
    if latest is not None and step is not None:
        latest = str(Path(_folder(run_dir)) / f"{_PREFIX}-{step}")
    if latest is None:
        raise UserError(
            f"the run in {run_dir} has no checkpoint yet; "
            f"train it with: python main.py --mode=train --run_dir={run_dir}"
        )
    _read(tf.train.Checkpoint(ema_network=network), latest)
    return step_of(latest)


def step_of(checkpoint: str) -> int:
    """The step of a checkpoint's path."""
    return int(re.search(rf"{_PREFIX}-(\d+)$", checkpoint).group(1))


def _folder(run_dir: str | os.PathLike) -> str:
    return str(Path(run_dir) / "checkpoints")


def _read(checkpoint: tf.train.Checkpoint, path: str) -> None:
    try:
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, ValueError, AssertionError) as error:
        raise UserError(f"cannot read the checkpoint {path}: {str(error).splitlines()[0][:200]}") from None
