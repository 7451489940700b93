"""One update of the training state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import tensorflow as tf

from tf_ddpm import build, randomness
from tf_ddpm.config import Config, TrainConfig
from tf_ddpm.diffusion import objectives
from tf_ddpm.diffusion.levels import Level
from tf_ddpm.errors import required
from tf_ddpm.networks import averaging
from tf_ddpm.networks.backbone import Condition
from tf_ddpm.training import conditions
from tf_ddpm.training.state import METRICS, QUARTERS, TrainState, flattened, network_variables, unflatten_into


def make_update(
    state: TrainState,
    config: Config,
    strategy: tf.distribute.Strategy,
    objective: objectives.Objective | None = None,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """The compiled `train_step` (Ho et al. 2020, algorithm 1).

    The result does not depend on the number of replicas: levels, noise and dropout are functions of the row's address
    (and of the history of losses, where that draws the levels), the loss is the mean over the global batch, and the
    gradient is clipped after the sum over replicas.

    Args:
      objective: `(denoiser, x_0, level, eps) -> [B]`, from `objectives`; None: as the configuration says.

    Returns:
      A function of a distributed batch (`datasets.batches`) that updates `state` and returns the float32 scalars
      `loss` and `gradient_norm`.
    """
    differentiate = _differentiate(state, config, objective or build.objective(config, build.chain(config.diffusion)))
    change_weights = _change_weights(state, strategy, config.train)

    @tf.function(autograph=False)
    def train_step(batch: dict) -> dict[str, tf.Tensor]:
        gradient, norm, totals, seen = strategy.run(differentiate, args=(batch,))
        norm = strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None)
        totals = strategy.reduce(tf.distribute.ReduceOp.SUM, totals, axis=None)
        loss, quarter_losses, quarter_counts = tf.split(totals, [1, QUARTERS, QUARTERS])
        loss = loss[0]

        def change() -> tf.Tensor:
            change_weights(gradient, norm)
            if state.level_sampler.learns:
                step, losses = tf.unstack(strategy.experimental_local_results(seen)[0])
                state.level_sampler.record(tf.cast(step, tf.int64), losses)
            for name, value in zip(METRICS, (loss, norm), strict=True):
                state.sums[name].assign_add(value)
            state.quarter_losses.assign_add(quarter_losses)
            state.quarter_counts.assign_add(quarter_counts)
            return state.summed.assign_add(1)

        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        if config.train.max_bad_steps:
            tf.cond(finite, change, lambda: tf.convert_to_tensor(state.summed))
        else:  # a branch would make a GPU wait for its condition; the run stops, and this state is not saved
            change()
        _count_bad(state, finite, config.train.max_bad_steps)
        state.step.assign_add(1)
        return dict(zip(METRICS, (loss, norm), strict=True))

    return train_step


def make_updates(
    update: Callable[[dict], dict[str, tf.Tensor]], timed: bool = True
) -> Callable[[Iterator[dict], tf.Tensor], tuple[dict[str, tf.Tensor], tf.Tensor]]:
    """Several updates in one call: the host has nothing to do between them.

    Args:
      update: from `make_update`.
      timed: False where TensorFlow lets nothing but deterministic operations run; the seconds are 0 then.

    Returns:
      A function of the iterator of the batches and of how many updates to make, an int32 scalar of at least 1. It
      gives the metrics of the last one, and the seconds float64 for which batches were waited for.
    """

    @tf.function(autograph=False)
    def train_steps(batches: Iterator[dict], count: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        def step(made: tf.Tensor, waited: tf.Tensor, _: dict) -> tuple:
            if not timed:
                return made + 1, waited, update(next(batches))
            with tf.device("CPU:0"):
                began = tf.timestamp()
            with tf.control_dependencies([began]):
                batch = next(batches)
            with tf.device("CPU:0"), tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited += tf.timestamp() - began
            return made + 1, waited, update(batch)

        with tf.device("CPU:0"):
            never = tf.zeros([], tf.float64)
        none = (tf.constant(0), never, dict.fromkeys(METRICS, tf.zeros([])))
        _, waited, metrics = tf.while_loop(lambda made, *_: made < count, step, none, parallel_iterations=1)
        return metrics, waited

    return train_steps


def _differentiate(state: TrainState, config: Config, objective: objectives.Objective) -> Callable[[dict], tuple]:
    """A replica's part of the loss and its gradient.

    Gives the gradient [N] of the global batch and its norm, this replica's share of [loss, summed losses of each
    quarter of the chain, how many they are], and, where the losses draw the levels, every replica's steps and losses
    [2, B].
    """
    train, codec, timesteps = config.train, build.codec(config), config.diffusion.timesteps

    def of_rows(
        x_0: tf.Tensor, level: Level, weight: tf.Tensor, eps: tf.Tensor, condition: Condition, address: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """This replica's share of the gradient and of the loss; its losses [B]."""
        with tf.GradientTape() as tape:
            denoiser = build.denoiser(config.diffusion, state.network, condition, address=address)
            losses = objective(denoiser, x_0, level, eps)
            loss = tf.reduce_sum(weight * losses) / train.batch_size
        # (The sparse gradient of the table of labels becomes a dense one here.)
        return flattened(tape.gradient(loss, network_variables(state.network))), loss, losses

    if train.jit == "step":
        of_rows = tf.function(of_rows, jit_compile=True, autograph=False)

    def differentiate(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        x_0, condition = conditions.of_batch(config, state.network.conditions, codec, batch)
        address, rows = batch["address"], tf.shape(x_0)[0]
        level, weight = state.level_sampler.draw(address, x_0)
        # Out of what XLA compiles: it would draw other numbers.
        eps = randomness.row_normal(address, randomness.NOISE, rows, x_0.shape[1:].as_list())
        weight = tf.broadcast_to(weight, [rows])
        parts = (x_0, level, weight, eps, condition)
        gradient, loss, losses = _in_parts(of_rows, train.accumulate, parts, address)
        context = tf.distribute.get_replica_context()
        gradient = context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
        quarter = required(level.step, "the step") * QUARTERS // timesteps
        by_quarter = [tf.math.unsorted_segment_sum(part, quarter, QUARTERS) for part in (losses, tf.ones_like(losses))]
        seen = tf.zeros([])
        if state.level_sampler.learns:
            # Every replica's rows in their places, so that all know what the whole batch has shown.
            first = tf.cast(address[2], tf.int32)
            seen = tf.stack([tf.cast(level.step, tf.float32), losses])
            seen = tf.pad(seen, [[0, 0], [first, train.batch_size - first - rows]])
            seen = context.all_reduce(tf.distribute.ReduceOp.SUM, seen)
        norm = tf.sqrt(2.0 * tf.nn.l2_loss(gradient))  # with no gradient * gradient in between
        return gradient, norm, tf.concat([loss[None], *by_quarter], axis=0), seen

    return differentiate


def _in_parts(
    of_rows: Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]], parts: int, rows: tuple, address: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`of_rows` of all rows, so many at a time: sums of its gradients and losses, and the losses side by side."""
    if parts == 1:
        return of_rows(*rows, address)
    each = tf.shape(rows[0])[0] // parts

    def of_part(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        first = i * each
        moved = address + tf.stack([0, 0, tf.cast(first, tf.int64)])
        return of_rows(*tf.nest.map_structure(lambda part: part[first : first + each], rows), moved)

    def body(i: tf.Tensor, gradient: tf.Tensor, loss: tf.Tensor, losses: tf.TensorArray) -> tuple:
        more = of_part(i)
        return i + 1, gradient + more[0], loss + more[1], losses.write(i, more[2])

    first = of_part(tf.constant(0))
    losses = tf.TensorArray(first[2].dtype, size=parts, element_shape=first[2].shape).write(0, first[2])
    _, gradient, loss, losses = tf.while_loop(
        lambda i, *_: i < parts, body, (1, first[0], first[1], losses), parallel_iterations=1
    )
    return gradient, loss, losses.concat()


def _change_weights(
    state: TrainState, strategy: tf.distribute.Strategy, train: TrainConfig
) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """The update of the weights and of their average from a gradient [N] and its norm, on every device's own copy."""
    clip_norm = float("inf") if train.clip_norm is None else train.clip_norm
    optimizer = state.optimizer

    def change(gradient: tf.Tensor, norm: tf.Tensor) -> None:
        scale = tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-12))
        decay = averaging.decay(state.step, train.ema_decay, train.ema_warmup)
        share = 1.0 - decay
        state.initial_share.assign(state.initial_share * decay)

        def on_device(
            weights: tf.Variable,
            gradient: tf.Tensor,
            averaged: tf.Variable,
            slots: list[tf.Variable],
            apart: list[tf.Variable],
        ) -> None:
            optimizer.apply(weights, gradient, scale, slots)
            unflatten_into(weights, apart)
            # average -= share * (average - weights), with one vector in between
            tf.raw_ops.ResourceApplyGradientDescent(var=averaged.handle, alpha=share, delta=averaged - weights)

        parts = (gradient, state.average, optimizer.slots, network_variables(state.network))
        strategy.extended.update(state.weights, on_device, args=parts)
        optimizer.updates.assign_add(1)

    return change


def _count_bad(state: TrainState, finite: tf.Tensor, most: int) -> None:
    bad = tf.cast(~finite, tf.int64)
    in_row = (state.bad_in_row + 1) * bad
    state.bad_in_row.assign(in_row)
    state.skipped.assign_add(bad)
    first = (in_row > most) & (state.bad_step < 0)
    state.bad_step.assign(tf.where(first, state.step + 1, state.bad_step))
