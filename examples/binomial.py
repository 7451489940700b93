"""The binomial chain (Sohl-Dickstein et al. 2015, section 2.2 and appendix B): sequences of bits, flipped to noise.

    python -m examples.binomial [--out=binomial.png]        (a minute on a CPU)

The data is the paper's heartbeat: a 1 in every fifth place, so that there are five sequences and the best possible
bound is log2 5 = 2.32 bits. A step forgets each bit with probability beta_t and draws it anew with a coin. The
posterior, the KL divergence and so each term of the bound have closed forms.
"""

import time
from collections.abc import Callable

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from absl import app, flags

from tf_ddpm.networks.embeddings import sinusoidal_embedding

FLAGS = flags.FLAGS

LENGTH, PERIOD, STEPS, BATCH = 20, 5, 100, 256
_SMALLEST = 1e-9  # of a probability whose logarithm is taken

Denoiser = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (x_t [B, L] of 0 and 1, t int [B]) -> p(x_0 = 1 | x_t) [B, L]


def heartbeats(length: int = LENGTH, period: int = PERIOD) -> np.ndarray:
    """All sequences float64 [period, length]: a 1 in every place that leaves the same remainder."""
    return np.array([[float(place % period == first) for place in range(length)] for first in range(period)])


class BinomialChain:
    """x_t = x_{t-1} with probability 1 - beta_t, and a coin otherwise, for each bit.

    Args:
      steps: T; beta_t = 1 / (T - t + 1), t = 1..T, forgets the same share of the beginning in each step (appendix B).

    Attributes:
      alpha_bar: [T] float64, the share of bits that no step up to t = 1..T has forgotten.
    """

    def __init__(self, steps: int):
        self.betas = 1.0 / (steps - np.arange(1, steps + 1) + 1.0)
        self.alpha_bar = np.cumprod(1.0 - self.betas)
        self._before = np.concatenate([[1.0], self.alpha_bar[:-1]])

    def __len__(self) -> int:
        return len(self.betas)

    def q(self, x_0: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """q(x_t = 1 | x_0) of bits, or of probabilities that they are 1, [B, L]; t int [B] from 0."""
        return _towards_half(x_0, _of(self.alpha_bar, t, x_0))

    def posterior(self, x_0: tf.Tensor, x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """q(x_{t-1} = 1 | x_t, x_0) of bits [B, L]: Bayes' rule for a bit that is 1 or 0 before the step."""
        before, beta = _towards_half(x_0, _of(self._before, t, x_0)), _of(self.betas, t, x_0)
        if_one = before * tf.where(x_t > 0.5, 1.0 - beta / 2, beta / 2)
        if_zero = (1.0 - before) * tf.where(x_t > 0.5, beta / 2, 1.0 - beta / 2)
        return if_one / (if_one + if_zero)

    def p_step(self, p_0: tf.Tensor, x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """p(x_{t-1} = 1 | x_t) where the network takes x_0 for 1 with probability p_0 [B, L]: the posterior's mean."""
        one, zero = (self.posterior(value * tf.ones_like(x_t), x_t, t) for value in (1.0, 0.0))
        return p_0 * one + (1.0 - p_0) * zero

    def term(self, denoiser: Denoiser, x_0: tf.Tensor, x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) of sequences, bits [B]; at t = 0 it is -log2 p(x_0 | x_1)."""
        p = self.p_step(denoiser(x_t, t), x_t, t)
        q = self.posterior(x_0, x_t, t)
        return tf.reduce_sum(_kl(q, p), axis=1) / np.log(2.0)

    def prior_term(self, x_0: tf.Tensor) -> tf.Tensor:
        """KL(q(x_T | x_0) || coins), bits [B]: 0 where the last step forgets everything."""
        last = tf.fill([len(x_0)], len(self) - 1)
        return tf.reduce_sum(_kl(self.q(x_0, last), tf.constant(0.5, x_0.dtype)), axis=1) / np.log(2.0)


def _towards_half(x: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    return share * x + 0.5 * (1.0 - share)


def _of(table: np.ndarray, t: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.gather(tf.constant(table, like.dtype), t)[:, None]


def _kl(q: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
    """Between coins, nats."""
    return tf.math.xlogy(q, q / tf.maximum(p, _SMALLEST)) + tf.math.xlogy(
        1 - q, (1 - q) / tf.maximum(1 - p, _SMALLEST)
    )


class MLP(keras.Model):
    """(x_t [B, L], t [B]) -> p(x_0 = 1 | x_t) [B, L]."""

    def __init__(self, length: int, width: int = 128):
        super().__init__()
        self.hidden = [keras.layers.Dense(width, "swish") for _ in range(3)]
        self.out = keras.layers.Dense(length, "sigmoid")

    def call(self, x: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """The probabilities float32 [B, L]."""
        h = tf.concat([2.0 * x - 1.0, sinusoidal_embedding(1000.0 / STEPS * tf.cast(t, tf.float32), 32)], axis=1)
        for layer in self.hidden:
            h = layer(h)
        return self.out(h)


def train(chain: BinomialChain, steps: int, seed: int) -> tuple[MLP, list[float]]:
    """The trained network, and the bound in bits a sequence, averaged over each tenth of the updates."""
    keras.utils.set_random_seed(seed)
    data, network = tf.constant(heartbeats(), tf.float32), MLP(LENGTH)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps))

    @tf.function
    def update() -> tf.Tensor:
        x_0 = tf.gather(data, tf.random.uniform([BATCH], 0, len(data), tf.int32))
        t = tf.random.uniform([BATCH], 0, len(chain), tf.int32)
        x_t = tf.cast(tf.random.uniform(x_0.shape) < chain.q(x_0, t), tf.float32)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(chain.term(network, x_0, x_t, t))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return len(chain) * loss

    network(data, tf.zeros([len(data)]))
    optimizer.build(network.trainable_variables)
    losses = [update() for _ in range(steps)]
    return network, [float(np.mean(part)) for part in np.array_split(losses, 10)]


def bound(chain: BinomialChain, denoiser: Denoiser, x_0: np.ndarray, rounds: int, seed: int) -> float:
    """The bound of the sequences x_0 [N, L] in bits, a mean over so many draws of each step's x_t."""
    total, data = 0.0, tf.constant(x_0, tf.float32)
    for t in range(len(chain)):
        times = tf.fill([len(x_0)], t)
        for k in range(rounds):
            u = tf.random.stateless_uniform(data.shape, [seed, t * rounds + k])
            x_t = tf.cast(u < chain.q(data, times), tf.float32)
            total += float(tf.reduce_mean(chain.term(denoiser, data, x_t, times))) / rounds
    return total + float(tf.reduce_mean(chain.prior_term(data)))


def reverse(chain: BinomialChain, denoiser: Denoiser, count: int, seed: int) -> list[np.ndarray]:
    """x_T, ..., x_0 of `count` sequences drawn by ancestral sampling."""
    step = tf.function(lambda x, t, u: tf.cast(u < chain.p_step(denoiser(x, t), x, t), tf.float32))
    uniform = tf.random.stateless_uniform([len(chain) + 1, count, LENGTH], [seed, 1])
    path = [tf.cast(uniform[0] < 0.5, tf.float32)]
    for t in reversed(range(len(chain))):
        path.append(step(path[-1], tf.fill([count], t), uniform[t + 1]))
    return [x.numpy() for x in path]


def right(sequences: np.ndarray) -> float:
    """The share of the sequences that are heartbeats."""
    known = {tuple(row) for row in heartbeats()}
    return float(np.mean([tuple(row) in known for row in sequences]))


def draw(chain: BinomialChain, network: MLP, seed: int) -> plt.Figure:
    """Sequences on their way to noise, and noise on its way back."""
    figure, axes = plt.subplots(2, 4, figsize=(9, 4.5), layout="constrained")
    x_0 = tf.constant(np.tile(heartbeats(), (5, 1)), tf.float32)
    path = reverse(chain, network, len(x_0), seed)
    for column, done in enumerate((0, STEPS // 4, STEPS // 2, STEPS)):
        noised = x_0
        if done:
            noised = tf.random.stateless_uniform(x_0.shape, [seed, 2]) < chain.q(x_0, tf.fill([len(x_0)], done - 1))
        axes[0, column].imshow(np.asarray(noised, np.float32), cmap="gray_r", aspect="auto")
        axes[1, column].imshow(path[STEPS - done], cmap="gray_r", aspect="auto")
        axes[0, column].set_title(f"t = {done}" + {0: " (data)", STEPS: " (coins)"}.get(done, ""))
    for row, name in enumerate(("q: data to noise", "p: noise to data")):
        axes[row, 0].set_ylabel(name)
        for axis in axes[row]:
            axis.set(xticks=[], yticks=[])
    return figure


def main(_: list[str]) -> None:
    """Trains, measures, draws, and says how it went."""
    began, chain = time.perf_counter(), BinomialChain(STEPS)
    network, losses = train(chain, FLAGS.steps, FLAGS.seed)
    print("bound, bits a sequence, by tenth of the updates:", " ".join(f"{loss:.2f}" for loss in losses))
    measured = bound(chain, network, np.tile(heartbeats(), (200, 1)), 4, FLAGS.seed)
    print(f"bound {measured:.3f} bits a sequence; the data has log2 5 = {np.log2(5):.3f}")
    print(f"{right(reverse(chain, network, 2000, FLAGS.seed)[-1]):.1%} of 2,000 drawn sequences are heartbeats")
    draw(chain, network, FLAGS.seed).savefig(FLAGS.out, dpi=100)
    print(f"wrote {FLAGS.out} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    flags.DEFINE_string("out", "binomial.png", "Where the picture goes.")
    flags.DEFINE_integer("steps", 4000, "Updates.", lower_bound=10)
    flags.DEFINE_integer("seed", 0, "Of the weights and the noise.")
    app.run(main)
