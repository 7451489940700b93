"""What every codec must be."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.small_networks import randomised
from tf_ddpm.codecs.latents import Latents
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.config import AutoencoderConfig
from tf_ddpm.networks.autoencoder import AUTOENCODERS


def of_autoencoder(kind):
    small = {"kl": {"groups": 4}, "vq": {"groups": 4, "codes": 16}, "tiny": {}}[kind]
    own = AutoencoderConfig(kind=kind, widths=(8, 16), latent_channels=3, **small)
    return Latents(randomised(AUTOENCODERS[kind](own, 3)), (0.1, -0.2, 0.3), (0.5, 1.0, 2.0))


# Name -> (how it is made, whether it gives every byte back).
CODECS = {"pixels": (Pixels, True)} | {
    f"latents, {kind}": (lambda kind=kind: of_autoencoder(kind), False) for kind in AUTOENCODERS
}


@pytest.fixture(scope="module", params=CODECS)
def case(request):
    make, exact = CODECS[request.param]
    return make(), exact


def images(shape=(3, 16, 16, 3)):
    return tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def test_what_is_diffused_has_the_shape_that_it_says_and_is_float32(case):
    codec, exact = case
    for shape in ((16, 16, 3), (8, 24, 1 if exact else 3)):
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
    codec, exact = case
    given = images()
    x = codec.encode(given)
    for row in range(3):
        part = slice(row, row + 1)
        np.testing.assert_allclose(codec.encode(given[part])[0], x[row], atol=1e-6 if exact else 1e-4)
        apart = np.abs(codec.decode(x[part])[0].numpy().astype(int) - codec.decode(x)[row].numpy())
        assert apart.max() <= (0 if exact else 1)


def test_the_moments_of_an_animation_are_decoded_as_images_are(case):
    codec, exact = case
    moments = tf.stack([codec.encode(images()), 2.0 * codec.encode(images())])
    decoded = tf.function(codec.decode, autograph=False)(moments)
    assert decoded.shape == (2, 3, 16, 16, 3)
    for moment, found in zip(moments, decoded, strict=True):
        assert np.abs(codec.decode(moment).numpy().astype(int) - found).max() <= (0 if exact else 1)


def test_numbers_out_of_range_are_held_in_it(case):
    codec, _ = case
    x = 100.0 * tf.random.stateless_normal([1, *codec.state_shape((16, 16, 3))], [0, 0])
    assert set(np.unique(codec.decode(x))) <= set(range(256))
    assert np.all(np.isfinite(codec.decode_unrounded(x)))
