"""The program that serves, built once, and exports run by Python without delay."""

import pytest
import tensorflow as tf

from tests.support.cpp.build import build


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The program that loads and asks a model, built against TensorFlow's own wheel."""
    return build(tmp_path_factory.mktemp("cpp"))


@pytest.fixture
def graphs_as_they_are():
    """Python runs what was exported without the optimiser, which takes seconds for each signature."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False} | before)
