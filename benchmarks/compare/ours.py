"""This project's side: the forward pass, the update and the sampling loop that its users run."""

import json
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks.compare.side import serve
from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import Config, presets
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.runtime import devices
from tf_ddpm.sampling.run import Run
from tf_ddpm.training.optimizers import make_optimizer
from tf_ddpm.training.state import TrainState
from tf_ddpm.training.update import make_update, make_updates

SHAPES = {"cifar10": (32, 32, 3), "fashion_mnist": (28, 28, 1)}


def configuration(model: str, precision: str, batch: int) -> Config:
    """The preset of that name, at this batch and precision."""
    height, width, channels = SHAPES[model]
    values = {
        "data.image_size": (height, width),
        "data.channels": channels,
        "train.batch_size": batch,
        "train.precision": precision,
        "sample.batch_size": batch,
        "sample.precision": precision,
    }
    return config_lib.with_values(presets.preset(model), values)


def forward(config: Config, precision: str, batch: int) -> Callable[[], None]:
    """A forward pass of the configuration's network, as a function to call again and again."""
    network = build.network(config, "float32")
    if precision != "float32":
        network = build.recast(network, precision)
    x, t = tf.random.normal([batch, *config.data.image_size, config.data.channels]), tf.range(batch)
    call = tf.function(network, autograph=False)
    return lambda: call(x, t).numpy()


def update(
    config: Config, precision: str, batch: int, strategy: tf.distribute.Strategy | None = None
) -> Callable[[], None]:
    """A training step of the configuration, as a function to call again and again."""
    train, strategy = config.train, strategy or devices.strategy()
    with strategy.scope():
        make = lambda: build.network(config, precision, xla=True)  # noqa: E731
        state = TrainState(make, make_optimizer(train), build.level_sampler(config))
    values = {"train.batch_size": batch, "train.jit": devices.best_jit()}
    step = make_update(state, config_lib.with_values(config, values), strategy)
    shape = (*config.data.image_size, config.data.channels)
    bytes_ = np.random.default_rng(0).integers(0, 256, (1000, *shape), np.uint8)
    images = ImageSet(bytes_, np.zeros(1000, np.int32), ("all",))
    shards = strategy.num_replicas_in_sync
    batches = strategy.distribute_datasets_from_function(lambda _: batch_dataset(images, batch, 0, 0, True, shards))
    batches = iter(batches)
    steps, one = make_updates(step), tf.constant(1)
    return lambda: steps(batches, one)[0]["loss"].numpy()


def sample(config: Config, precision: str, batch: int, steps: int) -> Callable[[], None]:
    """A complete sampling loop (DDIM) of the configuration, as a function to call again and again."""
    network = build.network(config, "float32")
    if precision != "float32":
        network = build.recast(network, precision)
    run = Run(config, network, 0)
    return lambda: run.sample(range(batch), sampler="ddim", steps=steps)


def _product(precision: str, side: int) -> Callable[[], None]:
    a, b = (tf.cast(tf.random.normal([side, side]), precision) for _ in range(2))
    call = tf.function(tf.matmul, autograph=False)
    return lambda: tf.reduce_sum(call(a, b)).numpy()


def main(work: str, model: str, precision: str, batch: int, steps: int, side: int) -> None:
    """Serves one kind of work."""
    if work == "product":
        serve(lambda: _product(precision, side))
        return
    config = configuration(model, precision, batch)
    if work == "sample":
        serve(lambda: sample(config, precision, batch, steps))
    else:
        made = {"forward": forward, "train": update}[work]
        serve(lambda: made(config, precision, batch), warm_up=3)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
