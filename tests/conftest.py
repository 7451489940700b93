"""Four logical CPU devices, and one tiny trained run that many tests look at."""

import importlib.util
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A home of its own, where nothing of the user's is and what tests decode is kept.
os.environ["HOME"] = tempfile.mkdtemp(prefix="tf_ddpm-home-")

import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration() for _ in range(4)]
)

from tests.support.tiny import make_tiny_config

# Comparisons with diffusers are collected only where requirements-peers.txt is installed: elsewhere
# `pytest -m peers` ends with "no tests ran", and not with a skip that looks like a success.
if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
    collect_ignore_glob = ["peers/*"]

KINDS = ("peers", "processes")  # folders whose tests carry their name as a marker


def pytest_collection_modifyitems(items):
    """Marks the tests of a folder with its name."""
    for item in items:
        if item.path.parent.name in KINDS:
            item.add_marker(item.path.parent.name)


@pytest.fixture
def tiny_config():
    """A function of changed keys that gives the configuration of a run of seconds."""
    return make_tiny_config


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """The directory of a tiny run trained on the digits."""
    from tf_ddpm.training import loop

    path = tmp_path_factory.mktemp("runs") / "tiny"
    loop.run(make_tiny_config(), path)
    return path
