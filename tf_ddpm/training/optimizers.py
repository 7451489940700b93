"""Update rules. They change all weights at once, as one vector: an operation or two
instead of several for each weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_ddpm.config import TrainConfig

Rate = Callable[[tf.Tensor], tf.Tensor]


def warmup_cosine(learning_rate: float, warmup_steps: int, decay_steps: int) -> Rate:
    """A linear rise over `warmup_steps`, then constant, or a half cosine that reaches 0 at `decay_steps`.

    Returns:
      A function of the updates made before, int or scalar tensor, that gives the learning rate float32 [].
    """

    def rate(updates: tf.Tensor) -> tf.Tensor:
        step = tf.cast(updates, tf.float32)
        risen = learning_rate * tf.minimum((step + 1.0) / max(warmup_steps, 1), 1.0)
        if not decay_steps:
            return risen
        done = (step - warmup_steps) / (decay_steps - warmup_steps)
        return risen * 0.5 * (1.0 + tf.cos(3.141592653589793 * tf.clip_by_value(done, 0.0, 1.0)))

    return rate


class Optimizer(tf.Module):
    """What every rule has.

    Attributes:
      updates: int64 [], how many were made. slots: float32 vectors of the size of the weights, from `build` on.
    """

    slot_names: tuple[str, ...] = ()

    def __init__(self, rate: Rate):
        super().__init__()
        self.rate = rate
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self.slots: list[tf.Variable] = []

    def build(self, size: int) -> None:
        """Makes the slots, each [size]."""
        self.slots = [tf.Variable(tf.zeros([size]), trainable=False, name=name) for name in self.slot_names]

    def apply(self, weights: tf.Variable, gradient: tf.Tensor, scale: tf.Tensor, slots: Sequence[tf.Variable]) -> None:
        """One update of one device's `weights` [N] and `slots` from scale * gradient [N]; `updates` is not yet it."""
        raise NotImplementedError


class SGD(Optimizer):
    """weights -= rate * gradient."""

    def apply(self, weights: tf.Variable, gradient: tf.Tensor, scale: tf.Tensor, slots: Sequence[tf.Variable]) -> None:
        """See `Optimizer`."""
        weights.assign_sub(self.rate(self.updates) * scale * gradient)


class Adam(Optimizer):
    """Kingma & Ba 2015, in the form of their section 2's last paragraph (epsilon beside the uncorrected root)."""

    slot_names = ("mean", "square")

    def __init__(self, rate: Rate, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8):
        super().__init__(rate)
        self._betas, self._epsilon = (beta_1, beta_2), epsilon

    def apply(self, weights: tf.Variable, gradient: tf.Tensor, scale: tf.Tensor, slots: Sequence[tf.Variable]) -> None:
        """See `Optimizer`."""
        mean, square = slots
        count = tf.cast(self.updates + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=weights.handle,
            m=mean.handle,
            v=square.handle,
            beta1_power=self._betas[0] ** count,
            beta2_power=self._betas[1] ** count,
            lr=self.rate(self.updates),
            beta1=self._betas[0],
            beta2=self._betas[1],
            epsilon=self._epsilon,
            grad=scale * gradient,
        )


def make_optimizer(train: TrainConfig, decay_steps: int | None = None) -> Optimizer:
    """Adam as Ho et al. 2020 use it (beta 0.9 and 0.999, epsilon 1e-8), or plain SGD.

    Args:
      decay_steps: instead of `train.decay_steps`.
    """
    decay_steps = train.decay_steps if decay_steps is None else decay_steps
    rate = warmup_cosine(train.learning_rate, train.warmup_steps, decay_steps)
    return {"adam": Adam, "sgd": SGD}[train.optimizer](rate)
