"""The denoiser: what every equation here knows of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_ddpm.diffusion.levels import Level
from tf_ddpm.diffusion.parametrisation import Parametrisation

Network = Callable[[tf.Tensor, Level], tf.Tensor]  # (x [B, ...], its level) -> output [B, ...]


class Output(NamedTuple):
    """A network's output in its parts.

    Attributes:
      prediction: [B, ...], of eps, x_0 or v.
      variance: [B, ...], what stands for the reverse variance; None where that is not learned.
    """

    prediction: tf.Tensor
    variance: tf.Tensor | None


class Prediction(NamedTuple):
    """What a denoiser says: the clean image [B, ...], and `Output.variance`."""

    x_0: tf.Tensor
    variance: tf.Tensor | None


class Denoiser:
    """(x, level) -> the clean image.

    Args:
      network: (x, level) -> output, with all conditions bound.
      parametrisation: what the output stands for.
      learns_variance: whether the output has, behind the prediction, as many channels again for the variance.
    """

    def __init__(self, network: Network, parametrisation: Parametrisation, learns_variance: bool = False):
        self._network, self.parametrisation, self._learns_variance = network, parametrisation, learns_variance

    def output(self, x: tf.Tensor, level: Level) -> Output:
        """What the network gives for x [B, ...]."""
        output = self._network(self.parametrisation.network_input(x, level), level)
        return Output(*tf.split(output, 2, axis=-1)) if self._learns_variance else Output(output, None)

    def prediction(self, x: tf.Tensor, level: Level, output: Output) -> Prediction:
        """What an output for x [B, ...] stands for."""
        return Prediction(self.parametrisation.x_0(x, level, output.prediction), output.variance)

    def __call__(self, x: tf.Tensor, level: Level) -> Prediction:
        """The clean image of x [B, ...]."""
        return self.prediction(x, level, self.output(x, level))

    def eps(self, x: tf.Tensor, level: Level) -> tf.Tensor:
        """The noise in x [B, ...]."""
        return self.eps_of(x, level, self.output(x, level))

    def eps_of(self, x: tf.Tensor, level: Level, output: Output) -> tf.Tensor:
        """The noise in x [B, ...] that an output stands for."""
        return self.parametrisation.eps(x, level, output.prediction)
