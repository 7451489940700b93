"""Saving and restoring: the whole training state, or the EMA network alone.

Every tensor in a checkpoint carries a checksum, which reading verifies. Checkpoints are written in a thread, from a
copy on the host, while training goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import keras
import tensorflow as tf

from tf_ddpm.errors import NotTrainedError, UserError, first_line
from tf_ddpm.runs import checkpoint_files, probes
from tf_ddpm.runs.host_copy import host_copy


class Trainable(Protocol):
    """What a checkpoint holds of a run that is being trained (`training.state.TrainState`)."""

    network: keras.Model
    ema_network: keras.Model
    initial_share: tf.Variable
    updates: int

    def checkpoint(self, saved: set[str] | None = None) -> tf.train.Checkpoint:
        """What is saved, or what of the `saved` parts is read."""

    def take_from(self, network: keras.Model, ema_network: keras.Model) -> None:
        """Sets the weights and their average to those of two networks."""


class _Damaged(Exception):
    """A checkpoint that cannot be read, as text."""


# Of which a checkpoint knows nothing: passed over, it would be removed by the next one.
_PASSING = (MemoryError, tf.errors.ResourceExhaustedError, tf.errors.UnavailableError, tf.errors.PermissionDeniedError)


class CheckpointManager:
    """Writes the checkpoints of a run that is being trained, and removes those that are no longer wanted.

    At most one is being written at a time. A kill at any moment leaves those before it.

    Args:
      keep: how many of the last ones stay. keep_every: those of its multiples stay as well; 0: none.
      kept: steps whose checkpoints stay too.
      reduces: whether those that stay for other reasons than being among the last lose all but the average.
      writes: False: this process reads what another one writes.
      initial_share: of the average after so many updates, for checkpoints that do not say it.

    Raises:
      UserError: for a folder of which TensorFlow could not read again what it writes.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        state: Trainable,
        keep: int,
        keep_every: int = 0,
        writes: bool = True,
        initial_share: Callable[[int], float] = lambda _: 1.0,
        kept: Sequence[int] = (),
        reduces: bool = False,
    ):
        checkpoint_files.check_name(run_dir)
        self._run_dir, self._state, self._writes = run_dir, state, writes
        self._keep, self._keep_every, self._initial_share = keep, keep_every, initial_share
        self._kept, self._reduces = set(kept), reduces
        self.best = probes.best(run_dir)  # its checkpoint stays too
        self._latest: str | None = None
        self._writing: threading.Thread | None = None
        self._failure: Exception | None = None

    @property
    def latest(self) -> str | None:
        """The path of the last checkpoint that was read or written whole; waits for one that is being written."""
        if self._writing is not None:
            self._writing.join()
        return self._latest

    def save(self, step: int) -> None:
        """Begins to write the checkpoint of `step`, and then removes old ones.

        Raises:
          UserError: where the disk did not take the one before; the checkpoints before that are intact.
        """
        self.finish()
        if not self._writes:
            self._latest = checkpoint_files.path_of(self._run_dir, step)
            return
        copied = host_copy(self._state.checkpoint())
        self._writing = threading.Thread(target=self._write, args=(copied, step, self.best), name="checkpoint")
        self._writing.start()

    def check(self) -> None:
        """Raises what went wrong in writing."""
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Waits until what was begun is written.

        Raises:
          UserError: where the disk did not take it; the checkpoints before it are intact.
        """
        self.latest  # noqa: B018 (waits)
        self.check()

    def _write(self, copied: tf.train.Checkpoint, step: int, best: int | None) -> None:
        try:
            _write(copied, self._run_dir, step, self._latest)
            self._latest = checkpoint_files.path_of(self._run_dir, step)
            self._remove_unwanted(copied, step, best)
        except (tf.errors.OpError, OSError) as error:
            place = checkpoint_files.folder_of(self._run_dir)
            self._failure = UserError(f"cannot write into {place}: {first_line(error)}")
        except Exception as error:  # whatever it is, training must not go on as if the checkpoint were there
            self._failure = error

    def _remove_unwanted(self, copied: tf.train.Checkpoint, step: int, best: int | None) -> None:
        found = checkpoint_files.steps(self._run_dir)
        for damaged in (later for later in found if later > step):  # that `restore` has passed over
            checkpoint_files.remove(self._run_dir, damaged)
        for old in [earlier for earlier in found if earlier <= step][: -self._keep]:
            if old not in (*self._kept, best) and (not self._keep_every or old % self._keep_every):
                checkpoint_files.remove(self._run_dir, old)
            elif self._reduces:
                self._reduce(copied, old)

    def _reduce(self, copied: tf.train.Checkpoint, step: int) -> None:
        """Leaves of a checkpoint what an average draws with, in variables that nobody needs any more."""
        path = checkpoint_files.path_of(self._run_dir, step)
        with contextlib.suppress(_Damaged):
            parts = _parts(path)
            if "optimizer" in parts:
                names = [name for name in ("ema_network", "initial_share") if name in parts]  # (old ones lack a share)
                average = tf.train.Checkpoint(**{name: getattr(copied, name) for name in names})
                _read(average, path)
                average.write(checkpoint_files.aside_of(self._run_dir, step))
                checkpoint_files.replace(self._run_dir, step)

    def restore(self) -> None:
        """Brings the state to the latest checkpoint that can be read, if there is any, and removes half-written ones.

        Raises:
          UserError: where none can be read, or the latest does not fit.
        """
        self.finish()
        if self._writes:
            checkpoint_files.remove_halves(self._run_dir)
        state = self._state

        def read(path: str) -> None:
            ema_network = state.ema_network
            if checkpoint_files.step_of(path):
                parts = _parts(path)
                if "optimizer" not in parts:
                    raise _Damaged(f"no training resumes from {path}, which holds an average alone (train.keep_parts)")
                _read(state.checkpoint(parts), path)
                state.take_from(state.network, ema_network)
                if "initial_share" not in parts:
                    share = 0.0 if _imported(self._run_dir) else self._initial_share(state.updates)
                    state.initial_share.assign(share)
            else:
                _read(tf.train.Checkpoint(ema_network=ema_network), path)  # imported: weights, and no training yet
                state.take_from(ema_network, ema_network)
                state.initial_share.assign(0.0)

        if checkpoint_files.steps(self._run_dir):
            self._latest = checkpoint_files.path_of(self._run_dir, _read_latest(self._run_dir, read))


def save_imported(network: keras.Model, run_dir: str | os.PathLike) -> None:
    """Writes the checkpoint of step 0, which holds the weights of `network` alone.

    Raises:
      UserError: where the disk does not take it, or TensorFlow could not read it again.
    """
    checkpoint_files.check_name(run_dir)
    _write(tf.train.Checkpoint(ema_network=network), run_dir, 0, None)


def restore_network(
    network: keras.Model, run_dir: str | os.PathLike, step: int | None = None, weights: str = "ema"
) -> tuple[int, float | None]:
    """Reads the weights of a checkpoint into `network`.

    Args:
      step: of which; None: the latest that can be read.
      weights: their average (ema), or those of the last update (raw).

    Returns:
      The checkpoint's step, and the share of the initial weights in the average, None where it is not known.

    Raises:
      UserError: where there is no such checkpoint, or it cannot be read or does not fit.
    """
    checkpoint_files.check_name(run_dir)
    shares: list[float | None] = []

    def read(path: str) -> None:
        parts = _parts(path)
        if weights == "raw" and "network" not in parts and checkpoint_files.step_of(path):
            raise UserError(f"{path} holds an average alone (train.keep_parts): sample.weights=ema draws with it")
        name = "network" if weights == "raw" and "network" in parts else "ema_network"  # (an import has one alone)
        _read(tf.train.Checkpoint(**{name: network}), path)
        shares.append(_share(path) if "initial_share" in parts else 0.0 if _imported(run_dir) else None)

    if step is not None:
        try:
            checkpoint_files.check_readable(run_dir, step)
            read(checkpoint_files.path_of(run_dir, step))
        except _Damaged as error:
            raise UserError(str(error)) from None
        return step, shares[-1]
    if not checkpoint_files.steps(run_dir):
        raise NotTrainedError(f"the run in {run_dir} has no checkpoint yet")
    return _read_latest(run_dir, read), shares[-1]


def _imported(run_dir: str | os.PathLike) -> bool:
    """Whether the run began with an import, whose checkpoint is still there: its initial weights are good ones."""
    return 0 in checkpoint_files.steps(run_dir)


def _share(path: str) -> float:
    """The share of the initial weights in the average.

    Raises:
      _Damaged: where it cannot be read.
    """
    try:
        return float(tf.train.load_checkpoint(path).get_tensor("initial_share/.ATTRIBUTES/VARIABLE_VALUE"))
    except Exception as error:  # as in `_read`
        raise _Damaged(_complaint(path, error)) from None


def _write(checkpoint: tf.train.Checkpoint, run_dir: str | os.PathLike, step: int, last_good: str | None) -> None:
    path, folder = checkpoint_files.path_of(run_dir, step), checkpoint_files.folder_of(run_dir)
    try:
        folder.mkdir(exist_ok=True)
        checkpoint.write(path)
    except (tf.errors.OpError, OSError) as error:
        with contextlib.suppress(UserError):
            checkpoint_files.remove_halves(run_dir)
        raise UserError(
            f"cannot write the checkpoint of step {step} in {folder}: {first_line(error)}\n"
            f"The last good one is {last_good or 'none'}."
        ) from None


def _read_latest(run_dir: str | os.PathLike, read: Callable[[str], None]) -> int:
    """Reads the newest checkpoint that is not damaged, naming those that are, and returns its step."""
    complaints = []
    for step in reversed(checkpoint_files.steps(run_dir)):
        try:
            checkpoint_files.check_readable(run_dir, step)
            read(checkpoint_files.path_of(run_dir, step))
        except _Damaged as error:
            complaints.append(str(error))
            continue
        for complaint in complaints:
            print(f"warning: {complaint}; resuming from step {step}", file=sys.stderr)
        return step
    raise UserError(complaints[0] + (f", nor any of the {len(complaints) - 1} before it" if complaints[1:] else ""))


def _parts(path: str) -> set[str]:
    """What a checkpoint holds: the first words of its variables' names.

    Raises:
      _Damaged: where it cannot be read.
    """
    try:
        return {name.split("/")[0] for name, _ in tf.train.list_variables(path)}
    except Exception as error:  # as in `_read`
        raise _Damaged(_complaint(path, error)) from None


def _complaint(path: str, error: Exception) -> str:
    return f"cannot read the checkpoint {path}: {first_line(error)}"


def _read(checkpoint: tf.train.Checkpoint, path: str) -> None:
    """Reads a checkpoint.

    Raises:
      _Damaged: where it cannot be read. UserError: where it does not fit, or there is no memory for it.
    """
    try:
        status = checkpoint.read(path).expect_partial()  # first: it complains of what is left over when it fails, too
        status.assert_existing_objects_matched()
    except (ValueError, AssertionError, *_PASSING) as error:
        raise UserError(_complaint(path, error)) from None
    except Exception as error:  # TensorFlow's readers raise OpError, IndexError, ... as the damage lies
        raise _Damaged(_complaint(path, error)) from None
