"""The chain: what noise does to an image step by step, and what a denoiser says about the way back.

Glossary (see `levels` for x_0, eps, alpha, sigma):
  beta        variance added by a step   alpha_bar   share of the image's variance left after a step
  step        index 0..S-1 of the chain; the papers count 1..T, so our step is their t-1
  q           the fixed forward process  p           the learned reverse process
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion import schedules
from tf_ddpm.diffusion.levels import Levels, lookup

VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")


class Gaussian(NamedTuple):
    """A diagonal normal distribution: `mean` [B, ...] and `log_variance`, which broadcasts against it."""

    mean: tf.Tensor
    log_variance: tf.Tensor


class Chain:
    """A chain of T steps, or a shorter one that visits some of them.

    Args:
      betas: [S] float64, the variances of the chain's own steps.
      timesteps: [S] int, the steps of the whole chain that these are; default 0..S-1.
      variance: of p(x_{t-1} | x_t): `fixed_small` (beta_tilde), `fixed_large` (beta), `learned` (the network gives its
        logarithm) or `learned_range` (it interpolates between the two logarithms: Nichol & Dhariwal 2021, eq. 15).
      time: [S], by which a network knows each step; default: its timestep.
      whole: the levels of the chain that this one is a part of; default: its own.

    Attributes:
      levels: those of its steps.
      whole: see above.

    Raises:
      ValueError: for betas outside (0, 1], or an unknown variance.
    """

    def __init__(
        self,
        betas: np.ndarray,
        timesteps: np.ndarray | None = None,
        variance: str = "fixed_large",
        time: np.ndarray | None = None,
        whole: Levels | None = None,
    ):
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or not np.all((betas > 0) & (betas <= 1)):
            raise ValueError("betas must be one row of numbers in (0, 1]")
        if variance not in VARIANCES:
            raise ValueError(f"unknown variance {variance!r}: expected {', '.join(VARIANCES)}")
        self.betas = betas
        self.timesteps = np.arange(len(betas)) if timesteps is None else np.asarray(timesteps)
        self.variance = variance

        self.alpha_bar = schedules.alpha_bars(betas)
        self.alpha_bar_prev = np.concatenate([[1.0], self.alpha_bar[:-1]])
        time = self.timesteps if time is None else time
        self.levels = Levels(np.sqrt(self.alpha_bar), np.sqrt(1.0 - self.alpha_bar), time)
        self.whole = whole or self.levels
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

    def respaced(self, steps: np.ndarray) -> Chain:
        """The shorter chain over `steps` ([S] increasing indices into this one), with the same alpha_bar."""
        betas, time = schedules.respaced_betas(self.betas, steps), self.levels.time[steps]
        return Chain(betas, self.timesteps[steps], self.variance, time, self.whole)

    def at_sigmas(self, relative_sigma: np.ndarray) -> Chain:
        """The shorter chain through the levels with these sigma / alpha ([S], increasing), between this one's ends.

        Its `timesteps` are not whole: they are as `Levels.of_sigmas` has the time.
        """
        levels = self.levels.of_sigmas(relative_sigma)
        alpha_bar = levels.alpha**2
        betas = 1.0 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
        timesteps = np.interp(np.log(relative_sigma), np.log(self.levels.relative_sigma), self.timesteps)
        return Chain(betas, timesteps, self.variance, levels.time, self.whole)

    def q_mean_variance(self, x_0: tf.Tensor, step: tf.Tensor) -> Gaussian:
        """q(x_t | x_0) (Ho et al. 2020, eq. 4). x_0 [B, ...], step int [B]."""
        return Gaussian(
            lookup(self.levels.alpha, step, x_0) * x_0,
            lookup(np.log(1.0 - self.alpha_bar), step, x_0),
        )

    def q_posterior(self, x_0: tf.Tensor, x_t: tf.Tensor, step: tf.Tensor) -> Gaussian:
        """q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 6 and 7). x_0, x_t [B, ...], step int [B]."""
        mean = lookup(self.posterior_weight_x_0, step, x_0) * x_0 + lookup(self.posterior_weight_x_t, step, x_0) * x_t
        return Gaussian(mean, lookup(self.posterior_log_variance, step, x_0))

    def p_step(self, x_0: tf.Tensor, x_t: tf.Tensor, step: tf.Tensor, variance: tf.Tensor | None = None) -> Gaussian:
        """p(x_{t-1} | x_t) for the predicted image `x_0` (Ho et al. 2020, eq. 11).

        Args:
          variance: [B, ...], what the network gives for the variance, where it is learned.
        """
        return Gaussian(self.q_posterior(x_0, x_t, step).mean, self.p_log_variance(step, x_t, variance))

    @property
    def learned_variance(self) -> bool:
        """Whether the network gives the reverse variance."""
        return self.variance in ("learned", "learned_range")

    def p_log_variance(self, step: tf.Tensor, like: tf.Tensor, variance: tf.Tensor | None = None) -> tf.Tensor:
        """log variance of p(x_{t-1} | x_t); broadcasts against images `like`, and is one where it is learned."""
        if self.variance == "learned":
            return variance
        if self.variance == "learned_range":  # Nichol & Dhariwal 2021, eq. 15, with the share (v + 1) / 2
            given: tf.Tensor = variance
            share = (given + 1.0) / 2.0
            small = lookup(self.posterior_log_variance, step, given)
            return share * lookup(np.log(self.betas), step, given) + (1.0 - share) * small
        return lookup(self.fixed_log_variance, step, like)
