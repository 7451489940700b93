"""Four logical CPU devices, and one tiny trained run that many tests look at."""

import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration() for _ in range(4)]
)

from tf_ddpm import config as config_lib

# Comparisons with diffusers are collected only where requirements-peers.txt is installed: elsewhere
# `pytest -m peers` ends with "no tests ran", and not with a skip that looks like a success.
if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
    collect_ignore_glob = ["test_peers_*.py"]

TINY = {
    "model.channels": 8,
    "model.groups": 2,
    "model.middle": "none",  # less to trace; test_unet.py has the middle
    "diffusion.timesteps": 20,
    "diffusion.schedule": "cosine",
    "train.steps": 8,
    "train.batch_size": 16,
    "train.warmup_steps": 2,
    "train.log_every": 2,
    "train.checkpoint_every": 4,
    "train.preview_every": 8,
    "train.jit": "off",  # XLA compiles longer than a tiny run trains; test_train_state.py compares
}


# Files that take minutes. Begun last, each would end alone while the other processes have nothing left to do.
_LONG = ("test_workers", "test_resume", "test_train_state", "test_quality", "test_serving", "test_train_faults")


def pytest_collection_modifyitems(items):
    """The long files first (with --no-loadscope-reorder, files are shared out in this order)."""
    items.sort(key=lambda item: item.path.stem not in _LONG)


def mirrored(devices):
    """A MirroredStrategy of logical CPUs, as often as wanted in one process.

    With its default reduction TensorFlow numbers the collective operations of every strategy from 100 on, and
    those of two strategies over the same devices collide.
    """
    names = [f"/cpu:{i}" for i in range(devices)]
    return tf.distribute.MirroredStrategy(names, cross_device_ops=tf.distribute.ReductionToOneDevice())


@pytest.fixture
def tiny_config():
    """A function of changed keys that gives the configuration of a run of seconds."""
    return make_tiny_config


def make_tiny_config(**changes):
    """Keys are written with __ for the dot."""
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return config_lib.validated(config_lib.with_values(config_lib.Config(), values))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """The directory of a tiny run trained on the digits."""
    from tf_ddpm.training import loop

    path = tmp_path_factory.mktemp("runs") / "tiny"
    loop.run(make_tiny_config(), path)
    return path
