"""Diffusion in its oldest form (Sohl-Dickstein et al. 2015): a swiss roll, forty steps, learned mean and variance.

    python -m examples.swiss_roll [--out=swiss_roll.png]        (a minute on a CPU)

The chain, the objective and the sampler are those of the images; only the denoiser is another: an MLP that sees a
point and t. It is trained on the bound itself (L_vlb), so that it learns the variance of every reverse step too. The
picture is the paper's figure 1: the data on its way to noise, noise on its way back, and where the mean of each
reverse step moves the points.
"""

import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from absl import app, flags
from sklearn.datasets import make_swiss_roll

from tf_ddpm.diffusion import objectives, samplers, schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.parametrisation import PARAMETRISATIONS
from tf_ddpm.networks.embeddings import sinusoidal_embedding

FLAGS = flags.FLAGS

STEPS = 40
BATCH = 1024


def swiss_roll(count: int, seed: int) -> np.ndarray:
    """Points float32 [count, 2] on a rolled band, within [-1, 1]."""
    points, _ = make_swiss_roll(count, noise=0.3, random_state=seed)
    return (points[:, [0, 2]] / 16.0).astype(np.float32)


class MLP(keras.Model):
    """(x [B, 2], t [B]) -> [B, 4]: the prediction of v, and what stands for the variance."""

    def __init__(self, width: int = 256):
        super().__init__()
        self.hidden = [keras.layers.Dense(width, "swish") for _ in range(3)]
        self.out = keras.layers.Dense(4, kernel_initializer="zeros")

    def call(self, x: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """The output float32 [B, 4]."""
        h = tf.concat([2.0 * x, sinusoidal_embedding(1000.0 / STEPS * tf.cast(t, tf.float32), 32)], axis=1)
        for layer in self.hidden:
            h = layer(h)
        return self.out(h)


def chain() -> Chain:
    """Forty steps that end in noise; the reverse variance is learned between its two bounds."""
    return Chain(schedules.betas("cosine", STEPS), variance="learned_range")


def denoiser_of(network: MLP) -> Denoiser:
    """The network as the equations see it."""
    call = lambda x, level: network(x, tf.broadcast_to(level.time, [len(x)]))  # noqa: E731
    return Denoiser(call, PARAMETRISATIONS["v"], learns_variance=True)


def train(whole: Chain, steps: int, seed: int) -> tuple[Denoiser, list[float]]:
    """The trained denoiser, and the bound in bits/dim, averaged over each tenth of the updates."""
    keras.utils.set_random_seed(seed)
    data, network = tf.constant(swiss_roll(50_000, seed)), MLP()
    denoiser, objective = denoiser_of(network), objectives.vlb_loss(whole)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps), global_clipnorm=1.0)

    @tf.function
    def update() -> tf.Tensor:
        x_0 = tf.gather(data, tf.random.uniform([BATCH], 0, len(data), tf.int32))
        level = whole.levels.at(tf.random.uniform([BATCH], 0, STEPS, tf.int32), x_0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(objective(denoiser, x_0, level, tf.random.normal(x_0.shape)))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return STEPS * loss  # the sum of the terms, L_T aside

    network(data[:1], tf.zeros([1]))
    optimizer.build(network.trainable_variables)
    losses = [update() for _ in range(steps)]
    return denoiser, [float(np.mean(part)) for part in np.array_split(losses, 10)]


def reverse(whole: Chain, denoiser: Denoiser, count: int, seed: int) -> list[np.ndarray]:
    """x_T, ..., x_0 of `count` points drawn by ancestral sampling."""
    sampler = samplers.Ancestral(whole, clip="none")
    step = tf.function(lambda x, t, noise: sampler.step(denoiser, x, t, lambda _: noise, ())[0])
    noises = tf.random.stateless_normal([STEPS + 1, count, 2], [seed, 1])
    path = [noises[0]]
    for t in reversed(range(STEPS)):
        path.append(step(path[-1], tf.constant(t), noises[t + 1]))
    return [x.numpy() for x in path]


def draw(whole: Chain, denoiser: Denoiser, seed: int) -> plt.Figure:
    """The paper's figure 1."""
    figure, axes = plt.subplots(3, 3, figsize=(7.5, 7.5), sharex=True, sharey=True, layout="constrained")
    x_0 = tf.constant(swiss_roll(2000, seed + 1))
    eps, path = tf.random.stateless_normal(x_0.shape, [seed, 2]), reverse(whole, denoiser, 2000, seed)
    corners = np.stack(np.meshgrid(*[np.linspace(-1.1, 1.1, 17)] * 2), axis=-1).reshape(-1, 2)
    grid = tf.constant(corners, tf.float32)
    for column, done in enumerate((0, STEPS // 4, STEPS)):
        t = max(done - 1, 0)
        noised = whole.levels.at(tf.constant(t), x_0).noised(x_0, eps) if done else x_0
        axes[0, column].scatter(*np.asarray(noised).T, s=1, color="tab:blue")
        axes[1, column].scatter(*path[STEPS - done].T, s=1, color="tab:red")
        predicted = denoiser(grid, whole.levels.at(tf.constant(t), grid))
        mean = whole.p_step(predicted.x_0, grid, tf.constant(t), predicted.variance).mean
        axes[2, column].quiver(*corners.T, *(mean.numpy() - corners).T, color="tab:gray", angles="xy")
        axes[0, column].set_title(f"t = {done}" + {0: " (data)", STEPS: " (noise)"}.get(done, ""))
    for row, name in enumerate(("q: data to noise", "p: noise to data", "drift of p's mean")):
        axes[row, 0].set_ylabel(name)
        for axis in axes[row]:
            axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xticks=[], yticks=[], aspect="equal")
    return figure


def main(_: list[str]) -> None:
    """Trains, draws, and says how it went."""
    began, whole = time.perf_counter(), chain()
    denoiser, bounds = train(whole, FLAGS.steps, FLAGS.seed)
    print("bound, bits/dim, by tenth of the updates:", " ".join(f"{bound:.2f}" for bound in bounds))
    draw(whole, denoiser, FLAGS.seed).savefig(FLAGS.out, dpi=100)
    print(f"wrote {FLAGS.out} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    flags.DEFINE_string("out", "swiss_roll.png", "Where the picture goes.")
    flags.DEFINE_integer("steps", 6000, "Updates.", lower_bound=10)
    flags.DEFINE_integer("seed", 0, "Of the data, the weights and the noise.")
    app.run(main)
