"""What every codec must be."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm.codecs.pixels import Pixels

# Name -> (codec, whether it gives every byte back).
CODECS = {"pixels": (Pixels(), True)}


@pytest.fixture(params=CODECS)
def case(request):
    return CODECS[request.param]


def images(shape=(3, 16, 16, 3)):
    return tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def test_what_is_diffused_has_the_shape_that_it_says_and_is_float32(case):
    codec, _ = case
    for shape in ((16, 16, 3), (8, 24, 1)):
        x = codec.encode(images((2, *shape)))
        assert tuple(x.shape[1:]) == tuple(codec.state_shape(shape)) and x.dtype == tf.float32
        assert codec.decode(x).shape == (2, *shape) and codec.decode(x).dtype == tf.uint8


def test_images_come_back(case):
    codec, exact = case
    given = images()
    again = codec.decode(codec.encode(given)).numpy()
    unrounded = codec.decode_unrounded(codec.encode(given)).numpy()
    assert unrounded.dtype == np.float32 and unrounded.min() >= 0 and unrounded.max() <= 255
    np.testing.assert_array_equal(np.round(unrounded), again)
    if exact:
        np.testing.assert_array_equal(again, given)
        every = tf.constant(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1))
        np.testing.assert_array_equal(codec.decode(codec.encode(every)), every)


def test_a_row_depends_on_itself_alone(case):
    codec, _ = case
    given = images()
    for row in range(3):
        part = slice(row, row + 1)
        np.testing.assert_allclose(codec.encode(given[part])[0], codec.encode(given)[row], atol=1e-6)
        x = codec.encode(given)
        np.testing.assert_array_equal(codec.decode(x[part])[0], codec.decode(x)[row])


def test_numbers_out_of_range_are_held_in_it(case):
    codec, _ = case
    x = 100.0 * tf.random.stateless_normal([1, *codec.state_shape((16, 16, 3))], [0, 0])
    assert set(np.unique(codec.decode(x))) <= set(range(256))
    assert np.all(np.isfinite(codec.decode_unrounded(x)))
