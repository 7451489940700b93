"""The gradient of an update of a network that denoises."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_ddpm import build
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.config import Config
from tf_ddpm.diffusion import noising, objectives
from tf_ddpm.diffusion.levels import Level
from tf_ddpm.errors import required
from tf_ddpm.networks.backbone import Condition
from tf_ddpm.training import accumulation, conditions, distilling
from tf_ddpm.training.state import QUARTERS, TrainState, flattened, network_variables


def make_differentiate(
    state: TrainState,
    config: Config,
    objective: objectives.Objective | None = None,
    codec: Codec | None = None,
    lesson: distilling.Lesson | None = None,
) -> Callable[[dict], tuple]:
    """A replica's part of the loss and its gradient.

    Args:
      objective, codec, lesson: see `update.make_update`.

    Gives the gradient [N] of the global batch and its norm, this replica's share of [loss, summed losses of each
    quarter of the chain, how many they are], and, where the losses draw the levels, every replica's steps and losses
    [2, B].
    """
    train, timesteps = config.train, config.diffusion.timesteps
    codec = codec or Pixels()
    from_data = objective or build.objective(config, build.chain(config.diffusion))
    level_sampler = required(state.level_sampler, "the sampler of levels")

    def of_rows(
        x_0: tf.Tensor, level: Level, weight: tf.Tensor, eps: tf.Tensor, condition: Condition, address: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """This replica's share of the gradient and of the loss; its losses [B]."""
        with tf.GradientTape() as tape:
            denoiser = build.denoiser(config.diffusion, state.network, condition, address=address)
            minimised = from_data if lesson is None else lesson.objective(condition, x_0)
            losses = minimised(denoiser, x_0, level, eps)
            loss = tf.reduce_sum(weight * losses) / train.batch_size
        # (The sparse gradient of the table of labels becomes a dense one here.)
        return flattened(tape.gradient(loss, network_variables(state.network))), loss, losses

    further = [] if lesson is None else lesson.further(train.batch_size)
    if train.jit == "step":
        of_rows = tf.function(of_rows, jit_compile=True, autograph=False)

    def differentiate(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        x_0, condition = conditions.of_batch(config, state.network.conditions, codec, batch)
        address, rows = batch["address"], tf.shape(x_0)[0]
        level, weight = level_sampler.draw(address, x_0)
        # Out of what XLA compiles: it would draw other numbers.
        eps = noising.drawn(address, x_0, train.nearest_noise)
        weight = tf.broadcast_to(weight, [rows])
        parts = (x_0, level, weight, eps, condition)
        gradient, loss, losses = accumulation.in_parts(of_rows, train.accumulate, parts, address)
        context = tf.distribute.get_replica_context()
        gradient = context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
        quarter = required(level.step, "the step") * QUARTERS // timesteps
        by_quarter = [tf.math.unsorted_segment_sum(part, quarter, QUARTERS) for part in (losses, tf.ones_like(losses))]
        seen = tf.zeros([])
        if level_sampler.learns:
            own = tf.stack([tf.cast(level.step, tf.float32), losses])
            seen = accumulation.of_all_replicas(own, address, train.batch_size)
        norm = tf.sqrt(2.0 * tf.nn.l2_loss(gradient))  # with no gradient * gradient in between
        others = [share(level, address) for share in further]
        return gradient, norm, tf.concat([loss[None], *others, *by_quarter], axis=0), seen

    return differentiate
