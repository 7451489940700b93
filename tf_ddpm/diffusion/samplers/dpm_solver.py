"""DPM-Solver++ (Lu et al. 2022b)."""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import lookup
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class DPMSolverPP(Sampler):
    """DPM-Solver++ and SDE-DPM-Solver++, multistep (Lu et al. 2022b, algorithm 2 and appendix): in data prediction.

    Each step is a linear combination of x_t and the last `order` predictions, so all that the paper derives is a
    table of coefficients. The first steps have fewer predictions and a lower order; so has the last, which goes
    to alpha_bar = 1, where log-SNR is infinite and the combination is the prediction itself.

    Args:
      order: 1 (which is DDIM of the same eta), 2 (midpoint) or 3.
      third_order: `diffusers` takes half of the second derivative's term, as the reference implementation does, and
        is of order 2; `taylor` takes the whole and is of order 3.
      lower_order_final: on chains of fewer than 15 steps, fall back to order 2 in the last step but one.
      eta: 0 follows the ODE, 1 the SDE (SDE-DPM-Solver++); each step draws eta times the noise anew that the ancestral
        chain of the small variance does.
    """

    def __init__(
        self,
        chain: Chain,
        clip: str = "static",
        order: int = 2,
        third_order: str = "diffusers",
        lower_order_final: bool = True,
        eta: float = 0.0,
    ):
        super().__init__(chain, clip)
        if order not in (1, 2, 3):
            raise ValueError(f"order={order}: expected 1, 2 or 3")
        if third_order not in ("diffusers", "taylor"):
            raise ValueError(f"unknown third_order {third_order!r}: expected diffusers or taylor")
        self.order = order
        self.draws = 1 if eta > 0 else 0
        tables = [_multistep_weights(chain, p, third_order, lower_order_final, eta) for p in range(1, order + 1)]
        self.weight_x_t, self.weights, self.sigma = tables[-1]
        # [order, order, S]: the weights of each order up to this one, in which a row's first steps are made.
        self._weights_by_order = np.stack([np.pad(w, ((0, order - len(w)), (0, 0))) for _, w, _ in tables])
        self._steps: tf.Tensor | None = None  # that each row makes; None: all

    def memory(self, x_T: tf.Tensor) -> SolverState:
        """The predictions of the steps before, the latest first."""
        return (tf.zeros_like(x_T),) * (self.order - 1)

    def entered(self, steps: tf.Tensor) -> DPMSolverPP:
        """Each row begins with a step of order 1, as the chain does."""
        sampler = copy.copy(self)
        sampler._steps = steps
        return sampler

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} = w x_t + sum_i w_i x_0 predicted i steps ago + sigma noise."""
        x_0 = self.predicted_x_0(denoiser, x_t, self.chain.levels.at(step, x_t))
        predictions = (x_0, *memory)
        x_prev = lookup(self.weight_x_t, step, x_t) * x_t
        for i, prediction in enumerate(predictions):
            x_prev += self._weight(i, step, x_t) * prediction
        if self.draws:
            x_prev += lookup(self.sigma, step, x_t) * noise(0)
        return x_prev, x_0, predictions[: self.order - 1]

    def _weight(self, i: int, step: tf.Tensor, x_t: tf.Tensor) -> tf.Tensor:
        """Of the x_0 predicted i steps ago: a scalar, or [B, 1, ...] where each row began at a step of its own."""
        if self._steps is None:
            return lookup(self.weights[i], step, x_t)
        order = tf.clip_by_value(self._steps - step, 1, self.order)
        table = tf.constant(self._weights_by_order[:, i], x_t.dtype)
        return tf.reshape(tf.gather(tf.gather(table, step, axis=1), order - 1), [-1] + [1] * (x_t.shape.rank - 1))


def _multistep_weights(
    chain: Chain, order: int, third: str, lower_order_final: bool, eta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables [S], [order, S] and [S] of a DPM-Solver++ chain (Lu et al. 2022b, eq. 9 and appendix B), float64.

    The reverse chain is dx = [f x - (1 + e) / 2 g^2 score] dt + sqrt(e) g dw, whose e in a step is that of the noise
    that `eta` wants there. The step leaves exp(-e h) of what the ODE's leaves of x_t, and in the weights of x_0 the
    paper's h becomes (1 + e) h.
    """
    steps = len(chain)
    log_snr = 0.5 * (np.log(chain.alpha_bar) - np.log1p(-chain.alpha_bar))  # the paper's lambda
    weight_x_t, weights, sigma = np.zeros(steps), np.zeros((order, steps)), np.zeros(steps)
    for t in range(steps):
        if t == 0:  # the last step: to x_0 itself
            weights[0, t] = 1.0
            continue
        taken = steps - 1 - t  # steps before this one
        p = min(order, taken + 1)
        if lower_order_final and steps < 15 and t == 1:
            p = min(p, 2)
        sigma_ratio = np.sqrt((1 - chain.alpha_bar[t - 1]) / (1 - chain.alpha_bar[t]))
        alpha, h = np.sqrt(chain.alpha_bar[t - 1]), log_snr[t - 1] - log_snr[t]
        fresh = eta**2 * -np.expm1(-2.0 * h)  # share of the variance that is drawn anew
        far = h - 0.5 * np.log1p(-fresh)
        phi_1 = np.expm1(-far)
        weight_x_t[t] = sigma_ratio * np.sqrt(1.0 - fresh)
        sigma[t] = np.sqrt((1 - chain.alpha_bar[t - 1]) * fresh)
        d_0 = np.array([1.0, 0.0, 0.0])
        combination = -alpha * phi_1 * d_0
        if p >= 2:
            r_0 = (log_snr[t] - log_snr[t + 1]) / h
            d_1_0 = np.array([1.0, -1.0, 0.0]) / r_0
            if p == 2:
                combination += -0.5 * alpha * phi_1 * d_1_0
            else:
                r_1 = (log_snr[t + 1] - log_snr[t + 2]) / h
                d_1_1 = np.array([0.0, 1.0, -1.0]) / r_1
                d_1 = d_1_0 + r_0 / (r_0 + r_1) * (d_1_0 - d_1_1)
                d_2 = (d_1_0 - d_1_1) / (r_0 + r_1) * (2.0 if third == "taylor" else 1.0)
                combination += alpha * (phi_1 / far + 1.0) * d_1 - alpha * ((phi_1 + far) / far**2 - 0.5) * d_2
        weights[:, t] = combination[:order]
    return weight_x_t, weights, sigma
