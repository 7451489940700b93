"""The program that serves, built once."""

import pytest

from tests.support.cpp.build import build


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The program that loads and asks a model, built against TensorFlow's own wheel."""
    return build(tmp_path_factory.mktemp("cpp"))
