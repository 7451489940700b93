"""The reverse process: each sampler is one step, and one loop drives them all.

The network is seen only as `denoiser(x_t, t)`, randomness only as `noise(count)`. A sampler is given a chain that
already has the wanted number of steps (`DiffusionProcess.respaced`), and goes from its last step to its first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_ddpm.objectives import Denoiser
from tf_ddpm.process import DiffusionProcess, lookup

Noise = Callable[[int], tf.Tensor]  # number of the draw within the step -> standard normal [B, ...]
Memory = tuple[tf.Tensor, ...]


class Sampler:
    """One step of a reverse process over `process`.

    Args:
      clip: what holds the predicted x_0 in range: `none`; `static`, to [-1, 1] (Ho et al. 2020); `dynamic`, to
        the 99.5th percentile of each image's |x_0| if that is above 1, and divided by it (Saharia et al. 2022).
    """

    draws = 0  # standard normal tensors that a step asks for
    calls = 1  # of the denoiser in a step

    def __init__(self, process: DiffusionProcess, clip: str = "static"):
        if clip not in ("none", "static", "dynamic"):
            raise ValueError(f"unknown clip {clip!r}: expected none, static or dynamic")
        self.process = process
        self.clip = clip

    def memory(self, x_T: tf.Tensor) -> Memory:
        """What the first step finds of the steps before it: tensors whose shapes stay the same."""
        return ()

    def entered(self, steps: tf.Tensor) -> Sampler:
        """This sampler for rows that make only their last `steps` int [B]: no row looks back beyond its first step."""
        return self

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: Memory
    ) -> tuple[tf.Tensor, tf.Tensor, Memory]:
        """(x_{t-1}, predicted x_0, memory) from x_t [B, ...] at the scalar step t."""
        raise NotImplementedError

    def output(self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """The denoiser's output for x_t [B, ...] at the scalar step t."""
        return denoiser(x_t, tf.fill([tf.shape(x_t)[0]], self.process.denoiser_timesteps(t)))

    def predicted_x_0(self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """The denoiser's x_0 [B, ...] for x_t at the scalar step t, clipped."""
        return clipped(self.process.x_0_from_output(x_t, t, self.output(denoiser, x_t, t)), self.clip)


class Ancestral(Sampler):
    """Ho et al. 2020, algorithm 2; on a shorter chain Nichol & Dhariwal 2021, section 4."""

    draws = 1

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: Memory
    ) -> tuple[tf.Tensor, tf.Tensor, Memory]:
        """x_{t-1} = mean + sigma_t noise, and no noise in the last step (t = 0)."""
        output = self.output(denoiser, x_t, t)
        x_0 = clipped(self.process.x_0_from_output(x_t, t, output), self.clip)
        mean, log_variance = self.process.p_step(x_0, x_t, t, output)
        sigma = tf.where(t > 0, tf.exp(0.5 * log_variance), tf.zeros_like(log_variance))
        return mean + sigma * noise(0), x_0, memory


class DDIM(Sampler):
    """Song et al. 2021, eq. 12 and 16; eps is derived again from the clipped x_0."""

    def __init__(self, process: DiffusionProcess, clip: str = "static", eta: float = 0.0):
        super().__init__(process, clip)
        self.draws = 1 if eta > 0 else 0
        # Eq. 16. At t = 0 alpha_bar_prev is 1, so the last step has no noise.
        self.sigma = eta * np.sqrt(process.posterior_variance)
        self.direction = np.sqrt(np.maximum(1.0 - process.alpha_bar_prev - self.sigma**2, 0.0))

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: Memory
    ) -> tuple[tf.Tensor, tf.Tensor, Memory]:
        """x_{t-1} = sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev - sigma^2) eps + sigma noise."""
        x_0 = self.predicted_x_0(denoiser, x_t, t)
        eps = self.process.eps_from_x_0(x_t, t, x_0)
        x_prev = lookup(np.sqrt(self.process.alpha_bar_prev), t, x_t) * x_0 + lookup(self.direction, t, x_t) * eps
        if self.draws:
            x_prev += lookup(self.sigma, t, x_t) * noise(0)
        return x_prev, x_0, memory


class DPMSolverPP(Sampler):
    """DPM-Solver++ and SDE-DPM-Solver++, multistep (Lu et al. 2022b, algorithm 2 and appendix): in data prediction.

    Each step is a linear combination of x_t and the last `order` predictions, so all that the paper derives is a
    table of coefficients. The first steps have fewer predictions and a lower order; so has the last, which goes
    to alpha_bar = 1, where log-SNR is infinite and the combination is the prediction itself.

    Args:
      order: 1 (which is DDIM of the same eta), 2 (midpoint) or 3.
      third: `diffusers` takes half of the second derivative's term, as the reference implementation does, and
        is of order 2; `taylor` takes the whole and is of order 3.
      lower_order_final: on chains of fewer than 15 steps, fall back to order 2 in the last step but one.
      eta: 0 follows the ODE, 1 the SDE (SDE-DPM-Solver++); each step draws eta times the noise anew that the ancestral
        chain of the small variance does.
    """

    def __init__(
        self,
        process: DiffusionProcess,
        clip: str = "static",
        order: int = 2,
        third: str = "diffusers",
        lower_order_final: bool = True,
        eta: float = 0.0,
    ):
        super().__init__(process, clip)
        if order not in (1, 2, 3):
            raise ValueError(f"order={order}: expected 1, 2 or 3")
        if third not in ("diffusers", "taylor"):
            raise ValueError(f"unknown third {third!r}: expected diffusers or taylor")
        self.order = order
        self.draws = 1 if eta > 0 else 0
        tables = [_multistep_weights(process, p, third, lower_order_final, eta) for p in range(1, order + 1)]
        self.weight_x_t, self.weights, self.sigma = tables[-1]
        # [order, order, S]: the weights of each order up to this one, in which a row's first steps are made.
        self._weights_by_order = np.stack([np.pad(w, ((0, order - len(w)), (0, 0))) for _, w, _ in tables])
        self._steps: tf.Tensor | None = None  # that each row makes; None: all

    def memory(self, x_T: tf.Tensor) -> Memory:
        """The predictions of the steps before, the latest first."""
        return (tf.zeros_like(x_T),) * (self.order - 1)

    def entered(self, steps: tf.Tensor) -> DPMSolverPP:
        """Each row begins with a step of order 1, as the chain does."""
        sampler = copy.copy(self)
        sampler._steps = steps
        return sampler

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: Memory
    ) -> tuple[tf.Tensor, tf.Tensor, Memory]:
        """x_{t-1} = w x_t + sum_i w_i x_0 predicted i steps ago + sigma noise."""
        x_0 = self.predicted_x_0(denoiser, x_t, t)
        predictions = (x_0, *memory)
        x_prev = lookup(self.weight_x_t, t, x_t) * x_t
        for i, prediction in enumerate(predictions):
            x_prev += self._weight(i, t, x_t) * prediction
        if self.draws:
            x_prev += lookup(self.sigma, t, x_t) * noise(0)
        return x_prev, x_0, predictions[: self.order - 1]

    def _weight(self, i: int, t: tf.Tensor, x_t: tf.Tensor) -> tf.Tensor:
        """Of the x_0 predicted i steps ago: a scalar, or [B, 1, ...] where each row began at a step of its own."""
        if self._steps is None:
            return lookup(self.weights[i], t, x_t)
        order = tf.clip_by_value(self._steps - t, 1, self.order)
        table = tf.constant(self._weights_by_order[:, i], x_t.dtype)
        return tf.reshape(tf.gather(tf.gather(table, t, axis=1), order - 1), [-1] + [1] * (x_t.shape.rank - 1))


def _multistep_weights(
    process: DiffusionProcess, order: int, third: str, lower_order_final: bool, eta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables [S], [order, S] and [S] of a DPM-Solver++ chain (Lu et al. 2022b, eq. 9 and appendix B), float64.

    The reverse process is dx = [f x - (1 + e) / 2 g^2 score] dt + sqrt(e) g dw, whose e in a step is that of the noise
    that `eta` wants there. The step leaves exp(-e h) of what the ODE's leaves of x_t, and in the weights of x_0 the
    paper's h becomes (1 + e) h.
    """
    steps = len(process)
    log_snr = 0.5 * (np.log(process.alpha_bar) - np.log1p(-process.alpha_bar))  # the paper's lambda
    weight_x_t, weights, sigma = np.zeros(steps), np.zeros((order, steps)), np.zeros(steps)
    for t in range(steps):
        if t == 0:  # the last step: to x_0 itself
            weights[0, t] = 1.0
            continue
        taken = steps - 1 - t  # steps before this one
        p = min(order, taken + 1)
        if lower_order_final and steps < 15 and t == 1:
            p = min(p, 2)
        sigma_ratio = np.sqrt((1 - process.alpha_bar[t - 1]) / (1 - process.alpha_bar[t]))
        alpha, h = np.sqrt(process.alpha_bar[t - 1]), log_snr[t - 1] - log_snr[t]
        fresh = eta**2 * -np.expm1(-2.0 * h)  # share of the variance that is drawn anew
        far = h - 0.5 * np.log1p(-fresh)
        phi_1 = np.expm1(-far)
        weight_x_t[t] = sigma_ratio * np.sqrt(1.0 - fresh)
        sigma[t] = np.sqrt((1 - process.alpha_bar[t - 1]) * fresh)
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


class Heun(Sampler):
    """Heun's method on the probability-flow ODE (Song et al. 2021 "Score-based", eq. 13; Karras et al. 2022, alg. 1).

    In x / sqrt(alpha_bar) and s = sqrt(1 / alpha_bar - 1) the ODE is dx/ds = eps. Two network calls a step; the
    last step goes to s = 0 by Euler's method, which is the prediction itself.
    """

    calls = 2

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: Memory
    ) -> tuple[tf.Tensor, tf.Tensor, Memory]:
        """x_{t-1} by the mean of the slopes at both ends."""
        x_0 = self.predicted_x_0(denoiser, x_t, t)

        def heun() -> tf.Tensor:
            scale, s = np.sqrt(self.process.alpha_bar), np.sqrt(1.0 / self.process.alpha_bar - 1.0)
            slope = self.process.eps_from_x_0(x_t, t, x_0)
            distance = lookup(s, t - 1, x_t) - lookup(s, t, x_t)
            start, scale_prev = x_t / lookup(scale, t, x_t), lookup(scale, t - 1, x_t)
            x_euler = scale_prev * (start + distance * slope)
            x_0_prev = self.predicted_x_0(denoiser, x_euler, t - 1)
            slope_prev = self.process.eps_from_x_0(x_euler, t - 1, x_0_prev)
            return scale_prev * (start + distance * 0.5 * (slope + slope_prev))

        return tf.cond(t > 0, heun, lambda: x_0), x_0, memory


class Langevin(Sampler):
    """Ancestral steps, each followed by one annealed-Langevin correction (Song et al. 2021 "Score-based", alg. 5).

    Args:
      snr: r of the step size 2 alpha (r |noise| / |score|)^2; the norms are of each image, not of the batch, so
        that an image does not depend on its neighbours.
    """

    draws = 2
    calls = 2

    def __init__(self, process: DiffusionProcess, clip: str = "static", snr: float = 0.16):
        super().__init__(process, clip)
        self.snr = snr
        self._ancestral = Ancestral(process, clip)

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: Memory
    ) -> tuple[tf.Tensor, tf.Tensor, Memory]:
        """x_{t-1} = x + size score(x) + sqrt(2 size) noise, for the ancestral x; the last step is not corrected."""
        x_prev, x_0, _ = self._ancestral.step(denoiser, x_t, t, noise, ())

        def corrected() -> tf.Tensor:
            x_0_prev = self.predicted_x_0(denoiser, x_prev, t - 1)
            score = self.process.score(t - 1, self.process.eps_from_x_0(x_prev, t - 1, x_0_prev))
            drawn = noise(1)
            alpha = lookup(1.0 - self.process.betas, t - 1, x_t)
            size = 2.0 * alpha * tf.square(self.snr * _norms(drawn) / tf.maximum(_norms(score), 1e-12))
            return x_prev + size * score + tf.sqrt(2.0 * size) * drawn

        return tf.cond(t > 0, corrected, lambda: x_prev), x_0, memory


def clipped(x_0: tf.Tensor, clip: str) -> tf.Tensor:
    """x_0 [B, ...] held in range: see `Sampler`."""
    if clip == "static":
        return tf.clip_by_value(x_0, -1.0, 1.0)
    if clip == "dynamic":
        flat = tf.sort(tf.abs(tf.reshape(x_0, [tf.shape(x_0)[0], -1])), axis=1)
        # Linear interpolation between order statistics, as NumPy and PyTorch define a quantile.
        position = 0.995 * tf.cast(tf.shape(flat)[1] - 1, tf.float64)
        low = tf.cast(tf.floor(position), tf.int32)
        high = tf.minimum(low + 1, tf.shape(flat)[1] - 1)
        share = tf.cast(position - tf.floor(position), x_0.dtype)
        bound = (1.0 - share) * tf.gather(flat, low, axis=1) + share * tf.gather(flat, high, axis=1)
        bound = tf.reshape(tf.maximum(bound, 1.0), [-1] + [1] * (x_0.shape.rank - 1))
        return tf.clip_by_value(x_0, -bound, bound) / bound
    return x_0


def _norms(x: tf.Tensor) -> tf.Tensor:
    """Euclidean norm of each image, [B, 1, 1, ...]."""
    return tf.sqrt(tf.reduce_sum(tf.square(x), axis=list(range(1, x.shape.rank)), keepdims=True))


def ddim_inversion(process: DiffusionProcess, denoiser: Denoiser, x_0: tf.Tensor) -> tf.Tensor:
    """The latent x_T from which DDIM (eta 0) draws x_0: its ODE run backwards (Song et al. 2021, section 4.3).

    Args:
      process: the chain over which DDIM will run, `process.respaced(...)`.
      x_0: [B, ...] in [-1, 1].

    Returns:
      [B, ...], at the chain's last step. Nothing is clipped.
    """
    sampler = Sampler(process, clip="none")

    def body(t: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The slope at the step that is left; the image itself is taken for the first step's x_t.
        at = tf.maximum(t - 1, 0)
        predicted = sampler.predicted_x_0(denoiser, x, at)
        eps = process.eps_from_x_0(x, at, predicted)
        return t + 1, tf.ensure_shape(process.q_sample(predicted, t, eps), x.shape)

    _, latent = tf.while_loop(lambda t, _: t < len(process), body, (0, x_0), parallel_iterations=1)
    return latent


def sample_loop(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: tf.Tensor,
    noise: Callable[[tf.Tensor], tf.Tensor],
    num_frames: int = 0,
    first: tf.Tensor | int = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The whole reverse chain as one graph loop.

    Args:
      x_T: [B, ...], standard normal.
      noise: scalar int32 count of the draw, from 0, `sampler.draws` a step, -> [B, ...] standard normal.
      num_frames: how many of the predicted x_0, evenly spread over the chain, to return.
      first: scalar int32, how many of the chain's first steps are left out; without frames.

    Returns:
      x_0 [B, ...] and the frames [min(num_frames, steps), B, ...], of which the last is that of the last step.
    """
    steps = len(sampler.process)
    moments = np.unique(np.round(np.linspace(steps - 1, 0, max(num_frames, 1))).astype(np.int32))
    is_frame = np.zeros(steps, bool)
    is_frame[moments] = True
    frames = tf.TensorArray(x_T.dtype, size=len(moments) if num_frames else 0, element_shape=x_T.shape)

    def body(k: tf.Tensor, slot: tf.Tensor, x_t: tf.Tensor, memory: Memory, frames: tf.TensorArray) -> tuple:
        x_prev, x_0, memory = sampler.step(
            denoiser, x_t, steps - 1 - k, lambda draw: noise(k * sampler.draws + draw), memory
        )
        x_prev = tf.ensure_shape(x_prev, x_t.shape)
        if num_frames:
            now = tf.gather(is_frame, k)
            frames = tf.cond(now, lambda: frames.write(slot, x_0), lambda: frames)
            slot += tf.cast(now, tf.int32)
        return k + 1, slot, x_prev, memory, frames

    start = (first, 0, x_T, sampler.memory(x_T), frames)
    _, _, x_0, _, frames = tf.while_loop(lambda k, *_: k < steps, body, start, parallel_iterations=1)
    return x_0, frames.stack() if num_frames else tf.zeros_like(x_T)[tf.newaxis][:0]
