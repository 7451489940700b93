"""What a network's output stands for: eps, x_0, v, or Karras et al.'s F."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm.diffusion.levels import Level


class Parametrisation:
    """The map between what a network sees and gives, and the clean image. Tensors are [B, ...]."""

    def network_input(self, x: tf.Tensor, level: Level) -> tf.Tensor:
        """What the network is given of x."""
        return x

    def x_0(self, x: tf.Tensor, level: Level, output: tf.Tensor) -> tf.Tensor:
        """The clean image that the output stands for."""
        raise NotImplementedError

    def eps(self, x: tf.Tensor, level: Level, output: tf.Tensor) -> tf.Tensor:
        """The noise that the output stands for."""
        return level.eps(x, self.x_0(x, level, output))

    def target(self, x_0: tf.Tensor, eps: tf.Tensor, level: Level) -> tf.Tensor:
        """What the network should give for x = alpha x_0 + sigma eps."""
        raise NotImplementedError

    def error_scale(self, snr: tf.Tensor) -> tf.Tensor:
        """The squared error of the output, as a multiple of the squared error of x_0 that it comes to."""
        raise NotImplementedError


class EpsPrediction(Parametrisation):
    """The noise (Ho et al. 2020, section 3.2)."""

    def x_0(self, x: tf.Tensor, level: Level, output: tf.Tensor) -> tf.Tensor:
        """(x - sigma eps) / alpha."""
        return level.x_0(x, output)

    def eps(self, x: tf.Tensor, level: Level, output: tf.Tensor) -> tf.Tensor:
        """The output itself."""
        return output

    def target(self, x_0: tf.Tensor, eps: tf.Tensor, level: Level) -> tf.Tensor:
        """The noise."""
        return eps

    def error_scale(self, snr: tf.Tensor) -> tf.Tensor:
        """SNR."""
        return snr


class X0Prediction(Parametrisation):
    """The clean image."""

    def x_0(self, x: tf.Tensor, level: Level, output: tf.Tensor) -> tf.Tensor:
        """The output itself."""
        return output

    def target(self, x_0: tf.Tensor, eps: tf.Tensor, level: Level) -> tf.Tensor:
        """The clean image."""
        return x_0

    def error_scale(self, snr: tf.Tensor) -> tf.Tensor:
        """1."""
        return tf.ones_like(snr)


class VPrediction(Parametrisation):
    """v = alpha eps - sigma x_0 (Salimans & Ho 2022, appendix D), for alpha^2 + sigma^2 = 1."""

    def x_0(self, x: tf.Tensor, level: Level, output: tf.Tensor) -> tf.Tensor:
        """alpha x - sigma v."""
        return level.alpha * x - level.sigma * output

    def target(self, x_0: tf.Tensor, eps: tf.Tensor, level: Level) -> tf.Tensor:
        """alpha eps - sigma x_0."""
        return level.alpha * eps - level.sigma * x_0

    def error_scale(self, snr: tf.Tensor) -> tf.Tensor:
        """SNR + 1."""
        return snr + 1.0


class EDMPrediction(Parametrisation):
    """F of D = c_skip x + c_out F(c_in x) (Karras et al. 2022, eq. 7 and table 1), whose x and sigma are x / alpha and
    sigma / alpha here.

    With sigma_data = 1 it is -v.

    Args:
      sigma_data: standard deviation of the images.
    """

    def __init__(self, sigma_data: float):
        self.sigma_data = sigma_data

    def _variance(self, level: Level) -> tf.Tensor:
        """Of x: alpha^2 (sigma_data^2 + their sigma^2)."""
        return tf.square(level.alpha * self.sigma_data) + tf.square(level.sigma)

    def _skip(self, level: Level) -> tf.Tensor:
        """c_skip / alpha, by which x is multiplied."""
        return level.alpha * self.sigma_data**2 / self._variance(level)

    def _out(self, level: Level) -> tf.Tensor:
        """c_out."""
        return level.sigma * self.sigma_data / tf.sqrt(self._variance(level))

    def network_input(self, x: tf.Tensor, level: Level) -> tf.Tensor:
        """x with variance 1."""
        return x / tf.sqrt(self._variance(level))

    def x_0(self, x: tf.Tensor, level: Level, output: tf.Tensor) -> tf.Tensor:
        """c_skip x + c_out F."""
        return self._skip(level) * x + self._out(level) * output

    def target(self, x_0: tf.Tensor, eps: tf.Tensor, level: Level) -> tf.Tensor:
        """(x_0 - c_skip x) / c_out, written so that it is exact where c_out is near 0: it has variance 1."""
        signal, noise = level.sigma * x_0 / self.sigma_data, level.alpha * self.sigma_data * eps
        return (signal - noise) / tf.sqrt(self._variance(level))

    def error_scale(self, snr: tf.Tensor) -> tf.Tensor:
        """1 / c_out^2 = SNR + 1 / sigma_data^2."""
        return snr + 1.0 / self.sigma_data**2


PARAMETRISATIONS: dict[str, Parametrisation] = {"eps": EpsPrediction(), "x_0": X0Prediction(), "v": VPrediction()}
