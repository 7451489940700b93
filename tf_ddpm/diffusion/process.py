"""The diffusion process: what noise does to an image, and what a denoiser says about the way back.

Glossary (Ho et al. 2020; [B, ...] is a batch of images in [-1, 1]):
  x_0         a clean image              x_t         the image after t steps of noise
  eps         the standard normal noise in x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps
  beta        variance added by a step   alpha_bar   share of the image's variance left after t steps
  v           sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022, appendix D)
  t           index 0..T-1; the papers count 1..T, so our t is their t-1
  q           the fixed forward process  p           the learned reverse process
  output      what the denoiser returns: the prediction of eps, x_0 or v, and behind it, where the variance is
              learned, as many channels again that stand for the variance

Tables are float64 and are cast once, to the dtype of the images, where they are looked up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion import schedules


class Gaussian(NamedTuple):
    """A diagonal normal distribution: `mean` [B, ...] and `log_variance`, which broadcasts against it."""

    mean: tf.Tensor
    log_variance: tf.Tensor


class DiffusionProcess:
    """A chain of T steps, or a shorter one that visits some of its timesteps.

    Args:
      betas: [S] float64, the variances of the chain's own steps.
      timesteps: [S] int, the timestep by which the denoiser knows each step; default 0..S-1.
      prediction: what the denoiser outputs: `eps`, `x_0` or `v`.
      variance: of p(x_{t-1} | x_t): `fixed_small` (beta_tilde), `fixed_large` (beta), `learned` (the output is its
        logarithm) or `learned_range` (the output interpolates between the two logarithms: Nichol & Dhariwal 2021,
        eq. 15).

    Raises:
      ValueError: for betas outside (0, 1], or an unknown prediction or variance.
    """

    def __init__(
        self,
        betas: np.ndarray,
        timesteps: np.ndarray | None = None,
        prediction: str = "eps",
        variance: str = "fixed_large",
    ):
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or not np.all((betas > 0) & (betas <= 1)):
            raise ValueError("betas must be one row of numbers in (0, 1]")
        if prediction not in ("eps", "x_0", "v"):
            raise ValueError(f"unknown prediction {prediction!r}: expected eps, x_0 or v")
        if variance not in ("fixed_small", "fixed_large", "learned", "learned_range"):
            raise ValueError(
                f"unknown variance {variance!r}: expected fixed_small, fixed_large, learned or learned_range"
            )
        self.betas = betas
        self.timesteps = np.arange(len(betas)) if timesteps is None else np.asarray(timesteps, np.int64)
        self.prediction = prediction
        self.variance = variance

        self.alpha_bar = schedules.alpha_bars(betas)
        self.alpha_bar_prev = np.concatenate([[1.0], self.alpha_bar[:-1]])
        # Ho et al. 2020, eq. 7: beta_tilde, and the two weights of the posterior mean.
        self.posterior_variance = betas * (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar)
        self.posterior_weight_x_0 = betas * np.sqrt(self.alpha_bar_prev) / (1.0 - self.alpha_bar)
        self.posterior_weight_x_t = np.sqrt(1.0 - betas) * (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar)
        # beta_tilde is 0 at the first step; its logarithm takes the second step's value there.
        first = self.posterior_variance[1:2] if len(betas) > 1 else betas[:1]
        small = np.log(np.concatenate([first, self.posterior_variance[1:]]))
        large = np.log(np.concatenate([first, betas[1:]]))
        self.posterior_log_variance = small
        self.fixed_log_variance = large if variance == "fixed_large" else small

    def __len__(self) -> int:
        return len(self.betas)

    def respaced(self, steps: np.ndarray) -> DiffusionProcess:
        """The shorter chain over `steps` ([S] increasing indices into this one), with the same alpha_bar."""
        return DiffusionProcess(
            schedules.respaced_betas(self.betas, steps), self.timesteps[steps], self.prediction, self.variance
        )

    def q_mean_variance(self, x_0: tf.Tensor, t: tf.Tensor) -> Gaussian:
        """q(x_t | x_0) (Ho et al. 2020, eq. 4). x_0 [B, ...], t int [B]."""
        return Gaussian(
            lookup(np.sqrt(self.alpha_bar), t, x_0) * x_0,
            lookup(np.log(1.0 - self.alpha_bar), t, x_0),
        )

    def q_sample(self, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """x_t for the noise `eps` (Ho et al. 2020, eq. 4, reparametrised). x_0, eps [B, ...], t int [B]."""
        return lookup(np.sqrt(self.alpha_bar), t, x_0) * x_0 + lookup(np.sqrt(1.0 - self.alpha_bar), t, x_0) * eps

    def q_posterior(self, x_0: tf.Tensor, x_t: tf.Tensor, t: tf.Tensor) -> Gaussian:
        """q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 6 and 7). x_0, x_t [B, ...], t int [B]."""
        mean = lookup(self.posterior_weight_x_0, t, x_0) * x_0 + lookup(self.posterior_weight_x_t, t, x_0) * x_t
        return Gaussian(mean, lookup(self.posterior_log_variance, t, x_0))

    def p_step(self, x_0: tf.Tensor, x_t: tf.Tensor, t: tf.Tensor, output: tf.Tensor) -> Gaussian:
        """p(x_{t-1} | x_t) for the predicted image `x_0` (Ho et al. 2020, eq. 11).

        The variance is that of Ho et al. 2020, section 3.2, or read from the `output` of the denoiser.
        """
        return Gaussian(self.q_posterior(x_0, x_t, t).mean, self.p_log_variance(t, output))

    @property
    def learned_variance(self) -> bool:
        """Whether the denoiser's output has the variance behind the prediction."""
        return self.variance in ("learned", "learned_range")

    def parts(self, output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The prediction, and what stands for the variance (None where it is fixed), each [B, ...]."""
        if not self.learned_variance:
            return output, None
        prediction, spread = tf.split(output, 2, axis=-1)
        return prediction, spread

    def p_log_variance(self, t: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
        """log variance of p(x_{t-1} | x_t); broadcasts against an image, and is one where it is learned."""
        prediction, spread = self.parts(output)
        if self.variance == "learned":
            return spread
        if self.variance == "learned_range":  # Nichol & Dhariwal 2021, eq. 15, with the share (v + 1) / 2
            share = (spread + 1.0) / 2.0
            return share * lookup(np.log(self.betas), t, spread) + (1.0 - share) * lookup(
                self.posterior_log_variance, t, spread
            )
        return lookup(self.fixed_log_variance, t, prediction)

    def x_0_from_eps(self, x_t: tf.Tensor, t: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) (Ho et al. 2020, eq. 9 and 15)."""
        return (x_t - lookup(np.sqrt(1.0 - self.alpha_bar), t, x_t) * eps) / lookup(np.sqrt(self.alpha_bar), t, x_t)

    def eps_from_x_0(self, x_t: tf.Tensor, t: tf.Tensor, x_0: tf.Tensor) -> tf.Tensor:
        """eps = (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar), the inverse of `x_0_from_eps`."""
        return (x_t - lookup(np.sqrt(self.alpha_bar), t, x_t) * x_0) / lookup(np.sqrt(1.0 - self.alpha_bar), t, x_t)

    def x_0_from_v(self, x_t: tf.Tensor, t: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (Salimans & Ho 2022, appendix D)."""
        return lookup(np.sqrt(self.alpha_bar), t, x_t) * x_t - lookup(np.sqrt(1.0 - self.alpha_bar), t, x_t) * v

    def v_from(self, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022, appendix D)."""
        return lookup(np.sqrt(self.alpha_bar), t, x_0) * eps - lookup(np.sqrt(1.0 - self.alpha_bar), t, x_0) * x_0

    def target(self, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """What the denoiser should output for x_t = q_sample(x_0, t, eps)."""
        return {"eps": lambda: eps, "x_0": lambda: x_0, "v": lambda: self.v_from(x_0, t, eps)}[self.prediction]()

    def x_0_from_output(self, x_t: tf.Tensor, t: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
        """The image [B, ...] that the denoiser's `output` stands for."""
        prediction, _ = self.parts(output)
        if self.prediction == "eps":
            return self.x_0_from_eps(x_t, t, prediction)
        if self.prediction == "v":
            return self.x_0_from_v(x_t, t, prediction)
        return prediction

    def eps_from_output(self, x_t: tf.Tensor, t: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
        """The noise [B, ...] that the denoiser's `output` stands for."""
        if self.prediction == "eps":
            return self.parts(output)[0]
        return self.eps_from_x_0(x_t, t, self.x_0_from_output(x_t, t, output))

    def score(self, t: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """grad log q(x_t) = -eps / sqrt(1 - alpha_bar) (Song et al. 2021, "Score-based", and Vincent 2011)."""
        return -eps / lookup(np.sqrt(1.0 - self.alpha_bar), t, eps)

    def denoiser_timesteps(self, t: tf.Tensor) -> tf.Tensor:
        """The names int32 [B] by which the denoiser knows the steps `t` int [B] of this chain."""
        return tf.gather(tf.constant(self.timesteps, tf.int32), t)


def lookup(table: np.ndarray, t: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """table[t] as [B, 1, 1, ...] in the dtype of `like` [B, ...]; a scalar t gives a scalar."""
    values = tf.gather(tf.constant(table, like.dtype), t)
    if values.shape.rank == 0:
        return values
    return tf.reshape(values, [-1] + [1] * (like.shape.rank - 1))
