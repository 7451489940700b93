"""The network as a whole."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import small_networks
from tests.support.small_networks import randomised
from tests.support.tiny import DENOISERS, denoiser_preset
from tf_ddpm import build, randomness
from tf_ddpm import config as config_lib
from tf_ddpm.config import presets
from tf_ddpm.networks import embeddings, layers
from tf_ddpm.networks.unet import UNet


def small(image_channels=2, dtype="float32", **changes):
    model = small_networks.small(**{"widths": (8, 16, 16), "attention_levels": (1,)} | changes)
    return UNet(model, image_channels, dtype=dtype)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [  # published: 312, 309 and 280 million
        ("imagenet256_sr", 311_795_910),
        ("imagenet512_sr", 308_835_270),
        ("imagenet256_sr_iddpm", 279_792_390),
    ],
)
def test_upsamplers_have_the_published_number_of_parameters_and_the_second_embedding(preset, parameters):
    config = presets.preset(preset)
    with keras.StatelessScope(initialize_variables=False):
        network = build.network(config, "float32")
        size = lambda weights: sum(math.prod(weight.shape) for weight in weights)  # noqa: E731
        second = size(network.augmentation_embedding.weights)
        assert (size(network.weights) - second, second) == (parameters, 192 * 768 + 768 * 768 + 2 * 768)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("cifar10", 35_746_307), ("celebahq256", 113_673_219), ("cifar10_iddpm", 52_546_438)]
)
def test_paper_presets_have_the_published_number_of_parameters(preset, parameters):
    with keras.StatelessScope(initialize_variables=False):  # nothing is allocated
        network = build.network(presets.preset(preset), "float32")
        assert sum(math.prod(weight.shape) for weight in network.weights) == parameters


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [  # published: LDM-4 274 million, LDM-8 294 million; Stable Diffusion's KL-f8 is of the same layout
        ("autoencoder_celebahq256", 55_322_782),
        ("ldm_celebahq256", 274_056_163),
        ("autoencoder_churches256", 83_653_863),
        ("ldm_churches256", 294_966_916),
    ],
)
def test_presets_of_latent_diffusion_have_the_published_number_of_parameters(preset, parameters):
    config = presets.preset(preset)
    if config.codec.run is not None:
        first = presets.preset(config.codec.run.removeprefix("runs/")).autoencoder
        values = {"codec.factor": first.factor, "codec.channels": first.state_channels}
        config = config_lib.validated(config_lib.with_values(config, values))
    with keras.StatelessScope(initialize_variables=False):  # nothing is allocated
        make = build.autoencoder if config.autoencoder.trained else build.network
        assert sum(math.prod(weight.shape) for weight in make(config, "float32").weights) == parameters


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (16, 4)])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_shape_that_the_levels_can_halve_keep_it(size, channels):
    network = small(image_channels=channels)
    x = tf.zeros([3, *size, channels])
    assert network(x, tf.constant([0, 1, 2])).shape == x.shape


def test_the_network_is_traced_once_for_every_batch_and_size():
    network = small()
    traced = tf.function(
        lambda x, t: network(x, t),
        input_signature=[tf.TensorSpec([None, None, None, 2]), tf.TensorSpec([None], tf.int32)],
    )
    for shape in ([1, 8, 8, 2], [3, 4, 12, 2]):
        x, t = tf.random.stateless_normal(shape, [0, 0]), tf.range(shape[0])
        np.testing.assert_allclose(traced(x, t), network(x, t), atol=1e-5)


def test_sizes_and_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="divisible by 4 and 2 channels"):
        small()(tf.zeros([1, 6, 8, 2]), tf.constant([0]))
    with pytest.raises(ValueError, match="divisible by 4 and 2 channels"):
        small()(tf.zeros([1, 8, 8, 3]), tf.constant([0]))


@pytest.mark.parametrize("preset", DENOISERS)
def test_every_residual_blocks_output_changes_with_t(preset):
    config = denoiser_preset(preset, data__channels=1)
    with keras.StatelessScope(initialize_variables=False):  # nothing is allocated
        network = build.network(config, "float32")
        blocks = [layer for layer in network.layers if isinstance(layer, layers.ResidualBlock)]
        shapes = {tuple(block.conv_1.kernel.shape[2:]) for block in blocks}
    channels, groups = config.model.channels, config.model.groups
    embedding = randomised(embeddings.TimeEmbedding(channels, 4 * channels), scale=channels**-0.5)
    near, far = (tf.nn.silu(embedding(tf.constant([t]))) for t in (10, 900))
    levels, between = len(config.model.multipliers), config.model.resampling == "residual"
    assert len(blocks) == levels * (2 * config.model.blocks + 1) + 2 + 2 * (levels - 1) * between
    for width_in, width in shapes:
        block = randomised(layers.ResidualBlock(width_in, width, 4 * channels, groups, 0.0, 20), scale=width**-0.5)
        x = tf.random.stateless_normal([1, 4, 4, width_in], [0, 1])
        change = tf.reduce_max(tf.abs(block(x, block.time(near)) - block(x, block.time(far))))
        assert change > 0.05, (preset, width_in, width, change)


def test_one_channel_a_group_erases_the_time_embedding():
    block = layers.ResidualBlock(8, 8, 32, groups=8, dropout=0.0, stream=20)
    rng = np.random.default_rng(0)
    for weight in block.weights:
        weight.assign(rng.normal(0, 0.1, weight.shape))
    x, time = tf.random.stateless_normal([1, 8, 8, 8], [0, 1]), tf.ones([1, 32])
    np.testing.assert_allclose(block(x, block.time(time)), block(x, block.time(-3 * time)), atol=1e-4)


def test_skips_meet_blocks_by_position_even_where_widths_repeat():
    # Two levels of equal width still mean one halving and one doubling.
    network = small(widths=(8, 8))
    assert len(network.downsample) == len(network.upsample) == 1
    assert network(tf.zeros([1, 6, 6, 2]), tf.constant([0])).shape == (1, 6, 6, 2)


def test_every_weight_has_a_gradient():
    network = randomised(small(dropout=0.1))
    x, t = tf.random.stateless_normal([2, 8, 8, 2], [0, 1]), tf.constant([3, 700])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(x, t, address=randomness.row_address(0, 0, 0)) ** 2)
    gradients = tape.gradient(loss, network.trainable_variables)
    dead = [w.path for w, g in zip(network.trainable_variables, gradients, strict=True) if np.abs(g).max() < 1e-6]
    # A constant added to every key of the four attentions changes no softmax, and so has no gradient.
    assert len(dead) == 4 and all(path.endswith("key/bias") for path in dead), dead


def test_dropout_acts_only_when_an_address_is_given():
    network = randomised(small(dropout=0.5))
    x, t = tf.random.stateless_normal([2, 8, 8, 2], [0, 1]), tf.constant([3, 700])
    np.testing.assert_array_equal(network(x, t), network(x, t))
    dropped = network(x, t, address=randomness.row_address(0, 0, 0))
    np.testing.assert_array_equal(dropped, network(x, t, address=randomness.row_address(0, 0, 0)))
    assert not np.allclose(dropped, network(x, t))
    assert not np.allclose(dropped, network(x, t, address=randomness.row_address(0, 1, 0)))


def test_an_untrained_network_outputs_zero():
    assert np.abs(small()(tf.ones([1, 8, 8, 2]), tf.constant([5]))).max() < 1e-3
