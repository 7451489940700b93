"""A training state that no update has touched yet."""

from tf_ddpm import build
from tf_ddpm.training.optimizers import make_optimizer
from tf_ddpm.training.state import TrainState


def fresh_state(config):
    """The state of a run of `config`, in the scope of whatever strategy there is."""
    train = config.train
    network = lambda: build.network(config, "float32", train.jit != "off", train.remat)  # noqa: E731
    return TrainState(network, make_optimizer(train), build.level_sampler(config))
