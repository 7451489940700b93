"""What training changes (network, EMA network, optimizer, step), and one update of it."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from tf_ddpm import objectives, pixels, randomness
from tf_ddpm.process import DiffusionProcess
from tf_ddpm.timestep_sampling import ImportanceTimesteps

METRICS = ("loss", "gradient_norm")


class TrainState(tf.Module):
    """All that a checkpoint holds, made inside the scope of the strategy that will update it.

    Args:
      make_network: called twice; the second network holds the exponential moving average of the first's weights.
      optimizer: not yet built.
      timesteps: what draws t, and learns from the losses; None: each t is as likely.
    """

    def __init__(
        self,
        make_network: Callable[[], keras.Model],
        optimizer: keras.optimizers.Optimizer,
        timesteps: ImportanceTimesteps | None = None,
    ):
        super().__init__()
        self.timesteps = timesteps
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
        # Sums of the metrics since they were last logged, and of how many updates: a run may stop in between.
        self.sums = {name: tf.Variable(0.0, trainable=False, name=name) for name in METRICS}
        self.summed = tf.Variable(0, dtype=tf.int64, trainable=False, name="summed")

    @property
    def updates(self) -> int:
        """How many updates have been made."""
        return int(tf.convert_to_tensor(self.step))

    @property
    def first_bad_update(self) -> int | None:
        """The first update whose loss or gradient was not finite."""
        bad = int(tf.convert_to_tensor(self.bad_step))
        return None if bad < 0 else bad

    def take_means(self) -> dict[str, float]:
        """The mean of every metric since this was last called."""
        count = float(tf.convert_to_tensor(self.summed))
        means = {name: float(tf.convert_to_tensor(total)) / count for name, total in self.sums.items()}
        for variable in (*self.sums.values(), self.summed):
            variable.assign(tf.zeros_like(variable))
        return means

    def checkpoint(self, sums: bool = True) -> tf.train.Checkpoint:
        """The part that is saved; without the `sums` of the metrics, as earlier versions saved it."""
        parts = {
            "network": self.network,
            "ema_network": self.ema_network,
            "optimizer": self.optimizer,
            "step": self.step,
            **({"sums": self.sums, "summed": self.summed} if sums else {}),
        }
        return tf.train.Checkpoint(**parts, **({"timesteps": self.timesteps} if self.timesteps else {}))


def make_update(
    state: TrainState,
    process: DiffusionProcess,
    objective: objectives.Objective,
    strategy: tf.distribute.Strategy,
    batch_size: int,
    clip_norm: float | None,
    ema_decay: float,
    ema_warmup: bool,
    label_dropout: float = 0.0,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """The compiled `train_step` (Ho et al. 2020, algorithm 1).

    The result does not depend on the number of replicas: timesteps, noise and dropout are functions of the row's
    address (and of the history of losses, where that draws t), the loss is the mean over the global batch, and the
    gradient is clipped after the sum over replicas.

    Args:
      objective: `(process, denoiser, x_0, t, eps) -> [B]`, from `objectives`.
      batch_size: of the global batch. clip_norm: largest norm of its gradient; None: any.
      ema_decay: constant, or with `ema_warmup` the bound of (1 + n) / (10 + n) after n updates.
      label_dropout: share of the labels that are replaced by the null class.

    Returns:
      A function of a distributed batch (`datasets.batches`) that updates `state` and returns the float32 scalars
      `loss` and `gradient_norm`.
    """
    replicas = strategy.num_replicas_in_sync
    variables = state.network.trainable_variables
    clip_norm = float("inf") if clip_norm is None else clip_norm

    def replica_step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        x_0, address = pixels.to_unit(batch["image"]), batch["address"]
        rows = tf.shape(x_0)[0]
        t, weight = _timesteps(state, process, address, rows)
        eps = randomness.row_normal(address, randomness.NOISE, rows, x_0.shape[1:].as_list())
        label = _labels(state, batch, label_dropout)
        with tf.GradientTape() as tape:
            losses = objective(process, lambda x, t: state.network(x, t, label=label, address=address), x_0, t, eps)
            loss = tf.reduce_sum(weight * losses) / batch_size
        context = tf.distribute.get_replica_context()
        # The table of labels has a sparse gradient, whose norm is not that of its rows.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients)
        # `apply` sums over the replicas once more, so each gives its share.
        scale = tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-12)) / replicas
        state.optimizer.apply([gradient * scale for gradient in gradients], variables)
        if state.timesteps is None:
            return loss, norm, losses
        # Every replica's rows in their places, so that all know what the whole batch has shown.
        seen = tf.stack([tf.cast(t, tf.float32), losses])
        first = tf.cast(address[2], tf.int32)
        seen = tf.pad(seen, [[0, 0], [first, batch_size - first - rows]])
        return loss, norm, context.all_reduce(tf.distribute.ReduceOp.SUM, seen)

    @tf.function
    def train_step(batch: dict) -> dict[str, tf.Tensor]:
        loss, norm, seen = strategy.run(replica_step, args=(batch,))
        loss = strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)
        norm = strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None)
        if state.timesteps is not None:
            t, losses = tf.unstack(strategy.experimental_local_results(seen)[0])
            state.timesteps.record(tf.cast(t, tf.int64), losses)
        _update_average(state, strategy, ema_decay, ema_warmup)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        first_bad = ~finite & (state.bad_step < 0)
        state.bad_step.assign(tf.where(first_bad, state.step + 1, state.bad_step))
        state.step.assign_add(1)
        metrics = dict(zip(METRICS, (loss, norm), strict=True))
        for name, total in state.sums.items():
            total.assign_add(metrics[name])
        state.summed.assign_add(1)
        return metrics

    return train_step


def _timesteps(
    state: TrainState, process: DiffusionProcess, address: tf.Tensor, rows: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """t int32 [rows], and the weights of their losses."""
    if state.timesteps is not None:
        return state.timesteps.draw(address, rows)
    return randomness.row_integers(address, randomness.TIMESTEPS, rows, len(process)), tf.ones([])


def _labels(state: TrainState, batch: dict[str, tf.Tensor], dropout: float) -> tf.Tensor | None:
    """The batch's labels, a share of them -1 (Ho & Salimans 2022, algorithm 1); None for a network without classes."""
    if not state.network.settings["classes"]:
        return None
    label, parts = batch["label"], 1 << 16
    draw = randomness.row_integers(batch["address"], randomness.LABELS, tf.shape(label)[0], parts)
    return tf.where(draw < round(dropout * parts), -1, label)


def _update_average(state: TrainState, strategy: tf.distribute.Strategy, decay: float, warmup: bool) -> None:
    """average += (1 - decay) (weight - average), on every replica's own copy."""
    updates = tf.cast(state.step, tf.float32)
    decay = tf.minimum(decay, (1.0 + updates) / (10.0 + updates)) if warmup else tf.constant(decay, tf.float32)
    share = 1.0 - decay
    for average, weight in zip(state.ema_network.weights, state.network.weights, strict=True):
        strategy.extended.update(
            average.value, lambda a, w: a.assign_add(share * (tf.convert_to_tensor(w) - a)), args=(weight.value,)
        )
