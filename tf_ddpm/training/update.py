"""One update of the training state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import tensorflow as tf

from tf_ddpm.codecs.codec import Codec
from tf_ddpm.config import Config, TrainConfig
from tf_ddpm.diffusion import objectives
from tf_ddpm.networks import averaging
from tf_ddpm.training import autoencoding, denoising, distilling
from tf_ddpm.training.state import METRICS, TrainState, network_variables, unflatten_into


def make_update(
    state: TrainState,
    config: Config,
    strategy: tf.distribute.Strategy,
    objective: objectives.Objective | None = None,
    codec: Codec | None = None,
    lesson: distilling.Lesson | None = None,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """The compiled `train_step`: of a network that denoises (Ho et al. 2020, algorithm 1), or of an autoencoder.

    The result does not depend on the number of replicas: levels, noise and dropout are functions of the row's address
    (and of the history of losses, where that draws the levels), the loss is the mean over the global batch, and the
    gradient is clipped after the sum over replicas.

    Args:
      objective: `(denoiser, x_0, level, eps) -> [B]`, from `objectives`; None: as the configuration says.
      codec: of a run that diffuses latents; None: pixels.
      lesson: of a student; None: the run learns from data alone.

    Returns:
      A function of a distributed batch (`datasets.batches`) that updates `state` and returns the float32 scalars
      `loss` and `gradient_norm`.
    """
    if config.autoencoder.trained:
        differentiate = autoencoding.make_differentiate(state, config)
    else:
        differentiate = denoising.make_differentiate(state, config, objective, codec, lesson)
    change_weights = _change_weights(state, strategy, config.train)

    @tf.function(autograph=False)
    def train_step(batch: dict) -> dict[str, tf.Tensor]:
        gradient, norm, totals, seen = strategy.run(differentiate, args=(batch,))
        norm = strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None)
        totals = strategy.reduce(tf.distribute.ReduceOp.SUM, totals, axis=None)
        loss = totals[0]

        def change() -> tf.Tensor:
            change_weights(gradient, norm)
            sampler = state.level_sampler
            if sampler is not None and sampler.learns:
                step, losses = tf.unstack(strategy.experimental_local_results(seen)[0])
                sampler.record(tf.cast(step, tf.int64), losses)
            return state.add_metrics(norm, totals)

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
                ended = tf.timestamp()
            # (Both are ready at the same moment, and a single thread might make the update first.)
            with tf.control_dependencies([ended]):
                return made + 1, waited + (ended - began), update(batch)

        with tf.device("CPU:0"):
            never = tf.zeros([], tf.float64)
        none = (tf.constant(0), never, dict.fromkeys(METRICS, tf.zeros([])))
        _, waited, metrics = tf.while_loop(lambda made, *_: made < count, step, none, parallel_iterations=1)
        return metrics, waited

    return train_steps


def _change_weights(
    state: TrainState, strategy: tf.distribute.Strategy, train: TrainConfig
) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """The update of the weights and of their average from a gradient [N] and its norm, on every device's own copy."""
    clip_norm = float("inf") if train.clip_norm is None else train.clip_norm
    optimizer = state.optimizer

    def change(gradient: tf.Tensor, norm: tf.Tensor) -> None:
        scale = tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-12))
        count = state.step if state.previous is None else optimizer.updates  # of the stage
        decay = averaging.decay(count, train.ema_decay, train.ema_warmup)
        share = 1.0 - decay
        power_shares = [averaging.power_share(state.step, width) for width in train.averages]
        state.initial_share.assign(state.initial_share * decay)

        def on_device(
            weights: tf.Variable,
            gradient: tf.Tensor,
            averaged: tf.Variable,
            power_averages: list[tf.Variable],
            slots: list[tf.Variable],
            apart: list[tf.Variable],
        ) -> None:
            optimizer.apply(weights, gradient, scale, slots)
            unflatten_into(weights, apart)
            # average -= share * (average - weights), with one vector in between
            for average, own in zip((averaged, *power_averages), (share, *power_shares), strict=True):
                tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=own, delta=average - weights)

        parts = (gradient, state.average, state.power_averages, optimizer.slots, network_variables(state.network))
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
