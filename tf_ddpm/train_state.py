"""What training changes (network, EMA network, optimizer, step), and one update of it."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from tf_ddpm import objectives, pixels, randomness
from tf_ddpm.process import DiffusionProcess


class TrainState(tf.Module):
    """All that a checkpoint holds, made inside the scope of the strategy that will update it.

    Args:
      make_network: called twice; the second network holds the exponential moving average of the first's weights.
      optimizer: not yet built.
    """

    def __init__(self, make_network: Callable[[], keras.Model], optimizer: keras.optimizers.Optimizer):
        super().__init__()
        self.network = make_network()
        self.ema_network = make_network()
        self.ema_network.trainable = False
        for average, weight in zip(self.ema_network.weights, self.network.weights, strict=True):
            average.assign(weight)
        self.optimizer = optimizer
        self.optimizer.build(self.network.trainable_variables)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        # The first step whose loss or gradient was not finite, -1 if none: kept in the graph, read when logging.
        self.bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False, name="bad_step")

    @property
    def updates(self) -> int:
        """How many updates have been made."""
        return int(tf.convert_to_tensor(self.step))

    @property
    def first_bad_update(self) -> int | None:
        """The first update whose loss or gradient was not finite."""
        bad = int(tf.convert_to_tensor(self.bad_step))
        return None if bad < 0 else bad

    def checkpoint(self) -> tf.train.Checkpoint:
        """The part that is saved."""
        return tf.train.Checkpoint(
            network=self.network, ema_network=self.ema_network, optimizer=self.optimizer, step=self.step
        )


def make_update(
    state: TrainState,
    process: DiffusionProcess,
    objective: objectives.Objective,
    strategy: tf.distribute.Strategy,
    batch_size: int,
    clip_norm: float,
    ema_decay: float,
    ema_warmup: bool,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """The compiled `train_step` (Ho et al. 2020, algorithm 1).

    The result does not depend on the number of replicas: timesteps, noise and dropout are functions of the row's
    address, the loss is the mean over the global batch, and the gradient is clipped after the sum over replicas.

    Args:
      objective: `(process, denoiser, x_0, t, eps) -> [B]`, from `objectives`.
      batch_size: of the global batch. clip_norm: largest norm of its gradient.
      ema_decay: constant, or with `ema_warmup` the bound of (1 + n) / (10 + n) after n updates.

    Returns:
      A function of a distributed batch (`datasets.batches`) that updates `state` and returns the float32 scalars
      `loss` and `gradient_norm`.
    """
    replicas = strategy.num_replicas_in_sync
    variables = state.network.trainable_variables

    def replica_step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        x_0, address = pixels.to_unit(batch["image"]), batch["address"]
        rows = tf.shape(x_0)[0]
        t = randomness.row_integers(address, randomness.TIMESTEPS, rows, len(process))
        eps = randomness.row_normal(address, randomness.NOISE, rows, x_0.shape[1:].as_list())
        with tf.GradientTape() as tape:
            losses = objective(process, lambda x, t: state.network(x, t, address), x_0, t, eps)
            loss = tf.reduce_sum(losses) / batch_size
        gradients = tape.gradient(loss, variables)
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients)
        # `apply` sums over the replicas once more, so each gives its share.
        scale = tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-12)) / replicas
        state.optimizer.apply([gradient * scale for gradient in gradients], variables)
        return loss, norm

    @tf.function
    def train_step(batch: dict) -> dict[str, tf.Tensor]:
        loss, norm = strategy.run(replica_step, args=(batch,))
        loss = strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)
        norm = strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None)
        _update_average(state, strategy, ema_decay, ema_warmup)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        first_bad = ~finite & (state.bad_step < 0)
        state.bad_step.assign(tf.where(first_bad, state.step + 1, state.bad_step))
        state.step.assign_add(1)
        return {"loss": loss, "gradient_norm": norm}

    return train_step


def _update_average(state: TrainState, strategy: tf.distribute.Strategy, decay: float, warmup: bool) -> None:
    """average += (1 - decay) (weight - average), on every replica's own copy."""
    updates = tf.cast(state.step, tf.float32)
    decay = tf.minimum(decay, (1.0 + updates) / (10.0 + updates)) if warmup else tf.constant(decay, tf.float32)
    share = 1.0 - decay
    for average, weight in zip(state.ema_network.weights, state.network.weights, strict=True):
        strategy.extended.update(
            average.value, lambda a, w: a.assign_add(share * (tf.convert_to_tensor(w) - a)), args=(weight.value,)
        )
