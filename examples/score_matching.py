"""Three ways to learn a score, grad log p (Hyvärinen 2005; Vincent 2011; Song et al. 2019), of a mixture in the plane.

    python -m examples.score_matching [--out=score_matching.png]        (a minute on a CPU)

Explicit score matching is told the score. Sliced score matching needs only samples: it looks at the network's
derivative along random directions. Denoising score matching needs only samples too: it learns where noise came from.
All three learn the score of the same noised mixture (denoising learns no other), so that they may be compared. The
picture shows the fields, and what Langevin dynamics draw with them.
"""

import time
from collections.abc import Callable

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from absl import app, flags

FLAGS = flags.FLAGS

BATCH, SIGMA, STD = 512, 0.25, 0.15  # noise, and standard deviation of each part of the mixture
CENTRES = np.array([[np.cos(a), np.sin(a)] for a in 2 * np.pi * np.arange(5) / 5], np.float32)

Score = Callable[[tf.Tensor], tf.Tensor]  # x [B, 2] -> [B, 2]


def mixture(count: int, seed: int) -> tf.Tensor:
    """Points float32 [count, 2] of five Gaussians on a circle."""
    rng = np.random.default_rng(seed)
    points = CENTRES[rng.integers(0, len(CENTRES), count)] + STD * rng.normal(size=(count, 2))
    return tf.constant(points, tf.float32)


def exact_score(x: tf.Tensor) -> tf.Tensor:
    """grad log of the mixture, noised with SIGMA, at x [B, 2]."""
    variance = STD**2 + SIGMA**2
    towards = CENTRES[None] - x[:, None]
    shares = tf.nn.softmax(-tf.reduce_sum(towards**2, axis=2) / (2 * variance), axis=1)
    return tf.reduce_sum(shares[..., None] * towards, axis=1) / variance


def explicit(score: Score, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """1/2 |s - grad log p|^2, [B], at noised points: for scores that are known (Hyvärinen 2005, eq. 2)."""
    noised = x + SIGMA * noise
    return 0.5 * tf.reduce_sum((score(noised) - exact_score(noised)) ** 2, axis=1)


def sliced(score: Score, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """v^T (ds/dx) v + 1/2 |s|^2, [B], of a direction v each (Song et al. 2019, with reduced variance)."""
    noised = x + SIGMA * noise
    direction = tf.sign(tf.random.normal(tf.shape(x)))  # (Rademacher: v v^T has mean 1)
    with tf.autodiff.ForwardAccumulator(noised, direction) as forward:
        found = score(noised)
    slope = forward.jvp(found)
    return tf.reduce_sum(direction * slope, axis=1) + 0.5 * tf.reduce_sum(found**2, axis=1)


def denoising(score: Score, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """1/2 |s(x + sigma eps) + eps / sigma|^2, [B] (Vincent 2011, eq. 11)."""
    return 0.5 * tf.reduce_sum((score(x + SIGMA * noise) + noise / SIGMA) ** 2, axis=1)


OBJECTIVES = {"explicit": explicit, "sliced": sliced, "denoising": denoising}


def train(objective: Callable[..., tf.Tensor], steps: int, seed: int) -> keras.Model:
    """A network x [B, 2] -> score [B, 2] that minimises the objective."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(128, "swish") for _ in range(3)]
    network = keras.Sequential([keras.Input([2]), *layers, keras.layers.Dense(2)])
    data, rate = mixture(50_000, seed), keras.optimizers.schedules.CosineDecay(2e-3, steps)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=10.0)

    @tf.function
    def update() -> None:
        x = tf.gather(data, tf.random.uniform([BATCH], 0, len(data), tf.int32))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(objective(network, x, tf.random.normal(x.shape)))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))

    optimizer.build(network.trainable_variables)
    for _ in range(steps):
        update()
    return network


def error(score: Score, seed: int) -> float:
    """The root mean square of the difference to the exact score, in units of that score's, where the points are."""
    rng = np.random.default_rng(seed)
    x = mixture(5000, seed + 1) + tf.constant(SIGMA * rng.normal(size=(5000, 2)), tf.float32)
    exact = exact_score(x)
    return float(tf.norm(score(x) - exact) / tf.norm(exact))


def langevin(score: Score, count: int, seed: int, steps: int = 500, size: float = 0.01) -> np.ndarray:
    """Points [count, 2] after Langevin dynamics from far and wide: x + size/2 s(x) + sqrt(size) noise."""
    noises = tf.random.stateless_normal([steps, count, 2], [seed, 3])
    x = 3.0 * tf.random.stateless_uniform([count, 2], [seed, 4]) - 1.5
    step = tf.function(lambda x, noise: x + 0.5 * size * score(x) + size**0.5 * noise)
    for k in range(steps):
        x = step(x, noises[k])
    return x.numpy()


def draw(scores: dict[str, Score], seed: int) -> plt.Figure:
    """Each field, and the points that it draws."""
    figure, axes = plt.subplots(2, len(scores), figsize=(2.6 * len(scores), 5.4), layout="constrained")
    corners = np.stack(np.meshgrid(*[np.linspace(-1.6, 1.6, 17)] * 2), axis=-1).reshape(-1, 2)
    for column, (name, score) in enumerate(scores.items()):
        field = np.asarray(score(tf.constant(corners, tf.float32)))
        axes[0, column].quiver(*corners.T, *field.T, color="tab:gray", angles="xy")
        axes[0, column].set_title(name)
        axes[1, column].scatter(*langevin(score, 2000, seed).T, s=1, color="tab:red")
        for axis in axes[:, column]:
            axis.set(xlim=(-2, 2), ylim=(-2, 2), xticks=[], yticks=[], aspect="equal")
    axes[0, 0].set_ylabel("score")
    axes[1, 0].set_ylabel("Langevin dynamics")
    return figure


def main(_: list[str]) -> None:
    """Trains, compares, draws."""
    began, scores = time.perf_counter(), {"exact": exact_score}
    for name, objective in OBJECTIVES.items():
        scores[name] = train(objective, FLAGS.steps, FLAGS.seed)
        print(f"{name} score matching: {error(scores[name], FLAGS.seed):.1%} from the exact score")
    draw(scores, FLAGS.seed).savefig(FLAGS.out, dpi=100)
    print(f"wrote {FLAGS.out} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    flags.DEFINE_string("out", "score_matching.png", "Where the picture goes.")
    flags.DEFINE_integer("steps", 3000, "Updates of each network.", lower_bound=10)
    flags.DEFINE_integer("seed", 0, "Of the data, the weights and the noise.")
    app.run(main)
