"""What every autoencoder must be: one that is added here is tested by these alone."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.small_networks import randomised, saved_and_loaded
from tf_ddpm.config import AutoencoderConfig
from tf_ddpm.networks.autoencoder import AUTOENCODERS

_SMALL = {"widths": (8, 16), "groups": 4, "latent_channels": 3}
# Name -> what it is beside that.
KINDS = {
    "kl": {"kind": "kl"},
    "kl with attention and without 1x1 convolutions": {
        "kind": "kl",
        "attention_levels": (0,),
        "middle_attention": False,
        "quant_conv": False,
        "post_quant_conv": False,
    },
    "kl with a light decoder": {"kind": "kl", "decoder": "light"},
    "vq": {"kind": "vq", "codes": 16, "code_channels": 2},
    "tiny": {"kind": "tiny"},
}
X = tf.random.stateless_uniform([3, 8, 12, 2], [0, 1], -1.0, 1.0)


@pytest.fixture(params=KINDS)
def make(request):
    config = AutoencoderConfig(**_SMALL | KINDS[request.param])
    return lambda dtype="float32", **more: randomised(AUTOENCODERS[config.kind](config, 2, dtype=dtype, **more))


def test_latents_and_images_have_the_shapes_that_the_configuration_says_and_are_float32(make):
    for dtype in ("float32", "mixed_bfloat16"):
        network = make(dtype)
        latents = network.encode(X)
        assert latents.shape == (3, 4, 6, network.autoencoder.state_channels) and latents.dtype == tf.float32
        assert network.factor == 2 and network.decode(latents).shape == X.shape
        assert network.decode(latents).dtype == tf.float32
        np.testing.assert_allclose(network(X), network.decode(latents), rtol=1e-5, atol=1e-5)
        assert np.std(latents) > 1e-2 and np.std(network.decode(latents)) > 1e-2


def test_a_row_depends_on_itself_alone(make):
    network = make()
    latents, images = network.encode(X), network(X)
    for row in range(3):
        part = X[row : row + 1]
        np.testing.assert_allclose(network.encode(part)[0], latents[row], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(network(part)[0], images[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_saved_as_keras_and_loaded_it_is_the_same_network(make, dtype, tmp_path):
    network = make(dtype)
    loaded = saved_and_loaded(network, tmp_path)
    assert loaded.dtype_policy.name == dtype
    np.testing.assert_array_equal(loaded(X), network(X))


def test_the_network_that_judges_it_adds_weights_behind_its_own_and_changes_nothing_else(make):
    alone, judged = make(), make(judged=True)
    for own, same in zip(alone.weights, judged.weights, strict=False):
        assert own.shape == same.shape
        same.assign(own)
    assert len(judged.weights) > len(alone.weights)
    np.testing.assert_array_equal(judged(X), alone(X))
    assert judged.discriminator(X).shape == (3, 1, 2, 1)


def test_every_weight_but_the_codebooks_is_taught_by_what_comes_back(make):
    network = make()
    with tf.GradientTape() as tape:
        # (Codes are passed by: see `straight_through`.)
        again = network.decode_codes(network.encode(X)) if hasattr(network, "codebook") else network(X)
        loss = tf.reduce_mean(tf.square(again - X))
    gradients = tape.gradient(loss, network.trainable_variables)
    untaught = [w.path for w, g in zip(network.trainable_variables, gradients, strict=True) if g is None]
    assert all("codebook" in path for path in untaught)
