"""The program that serves, built once, a teacher, and exports run by Python without delay."""

import pytest
import tensorflow as tf

from tests.support.cpp.build import build


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The program that loads and asks a model, built against TensorFlow's own wheel."""
    return build(tmp_path_factory.mktemp("cpp"))


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory):
    """A run with classes that predicts v, and its checkpoint after half of the updates."""
    from tests.support.students import train_teacher

    path = tmp_path_factory.mktemp("runs") / "teacher"
    train_teacher(path)
    return path


@pytest.fixture
def graphs_as_they_are():
    """Python runs what was exported without the optimiser, which takes seconds for each signature."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False} | before)
