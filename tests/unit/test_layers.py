"""Each layer against its definition."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.networks import embeddings, group_norm, layers, primitives


def test_embedding_is_sines_then_cosines_at_hos_frequencies():
    t, width = 37.0, 8
    frequency = [10_000 ** (-i / 3) for i in range(4)]
    expected = [np.sin(t * f) for f in frequency] + [np.cos(t * f) for f in frequency]
    np.testing.assert_allclose(embeddings.sinusoidal_embedding(tf.constant([t]), width)[0], expected, atol=1e-5)


def group_norm_reference(x, gamma, beta, groups, swish):
    """Written for autodiff, in float64, from the definition."""
    batch, height, width, channels = x.shape
    grouped = tf.reshape(x, [batch, height, width, groups, channels // groups])
    mean = tf.reduce_mean(grouped, axis=[1, 2, 4], keepdims=True)
    variance = tf.reduce_mean((grouped - mean) ** 2, axis=[1, 2, 4], keepdims=True)
    y = tf.reshape((grouped - mean) / tf.sqrt(variance + 1e-6), x.shape) * gamma + beta
    return y * tf.sigmoid(y) if swish else y


@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 4, 8), (3, 1, 1, 8)])
def test_group_norm_and_its_hand_written_gradient_equal_the_definition(shape, swish):
    rng = np.random.default_rng(0)
    layer = group_norm.GroupNorm(8, 2, swish=swish)
    gamma, beta = rng.normal(1, 0.3, 8), rng.normal(0, 0.3, 8)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    x, dy = rng.normal(2, 3, shape), rng.normal(size=shape)
    x32, x64 = tf.constant(x, tf.float32), tf.constant(x)
    g64, b64 = tf.constant(gamma), tf.constant(beta)
    with tf.GradientTape() as tape:
        tape.watch(x32)
        y = layer(x32)
    ours = [y, *tape.gradient(y, [x32, layer.gamma.value, layer.beta.value], tf.constant(dy, tf.float32))]
    with tf.GradientTape() as tape:
        tape.watch([x64, g64, b64])
        y = group_norm_reference(x64, g64, b64, 2, swish)
    for mine, exact in zip(ours, [y, *tape.gradient(y, [x64, g64, b64], tf.constant(dy))], strict=True):
        np.testing.assert_allclose(mine, exact, atol=2e-5 * max(1.0, np.abs(exact).max()))


@pytest.mark.parametrize("xla", [False, True])
def test_bias_and_dropout_within_group_norm_equal_their_definitions_around_it(xla):
    rng, shape = np.random.default_rng(1), (3, 4, 5, 8)
    layer = group_norm.GroupNorm(8, 2, swish=True, xla=xla)
    x, bias, dy = rng.normal(size=shape), rng.normal(0, 3, (3, 8)), rng.normal(size=shape)
    keep = rng.random(shape) < 0.7
    x32, bias32 = tf.constant(x, tf.float32), tf.constant(bias, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([x32, bias32])
        y = layer(x32, bias=bias32, keep=tf.constant(keep), inverse_keep_rate=1 / 0.7)
    ours = [y, *tape.gradient(y, [x32, bias32], tf.constant(dy, tf.float32))]
    x64, bias64, ones = tf.constant(x), tf.constant(bias), np.ones(8)
    with tf.GradientTape() as tape:
        tape.watch([x64, bias64])
        y = group_norm_reference(x64 + bias64[:, None, None], ones, 0 * ones, 2, True) * (keep / 0.7)
    for mine, exact in zip(ours, [y, *tape.gradient(y, [x64, bias64], tf.constant(dy))], strict=True):
        np.testing.assert_allclose(mine, exact, atol=2e-5 * max(1.0, np.abs(exact).max()))


def test_group_norm_survives_a_mean_far_above_the_spread():
    x = tf.random.stateless_normal([1, 8, 8, 4], [0, 1]) + 300.0
    y = group_norm.GroupNorm(4, 2)(x).numpy()
    assert abs(y.std() - 1) < 1e-2 and abs(y.mean()) < 1e-2


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_group_norm_in_bfloat16_is_as_near_to_the_definition_as_its_dtype(mean):
    rng = np.random.default_rng(0)
    layer = group_norm.GroupNorm(8, 2, swish=True, dtype="bfloat16")
    x = tf.cast(rng.normal(mean, 1, (3, 24, 20, 8)), tf.bfloat16)
    exact = group_norm_reference(tf.cast(x, tf.float64), np.ones(8), np.zeros(8), 2, True)
    error = np.abs(tf.cast(layer(x), tf.float64) - exact)
    # The mean is rounded to 2^-9 of itself, the rest to so much of what it is.
    np.testing.assert_array_less(error, 2.0**-9 * (abs(mean) + 4 * (1 + np.abs(exact))))


def test_a_dense_layer_of_every_pixel_and_its_gradients_are_those_of_the_layer():
    layer = keras.layers.Dense(5, bias_initializer="random_normal")
    x, dy = (tf.random.stateless_normal([2, 3, 4, width], [0, width]) for width in (7, 5))
    found = []
    for call in (layer, lambda x: primitives.pointwise_dense(layer, x)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x)
        found.append([y, *tape.gradient(y, [x, layer.kernel.value, layer.bias.value], dy)])
    for expected, mine in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_dropout_mask_of_a_replica_is_its_part_of_the_global_mask():
    dropout = layers.Dropout(0.3, stream=20)
    whole = dropout.keep([8, 5, 5, 3], randomness.row_address(0, 4, 0)).numpy()
    half = dropout.keep([tf.constant(4), 5, 5, 3], randomness.row_address(0, 4, 4)).numpy()
    np.testing.assert_array_equal(whole[4:], half)
    assert not np.array_equal(whole[:4], half)


def test_dropout_keeps_the_mean_drops_its_rate_and_differs_between_layers_and_steps():
    def keep(stream, step):
        return layers.Dropout(0.1, stream).keep([64, 16, 16, 4], randomness.row_address(0, step, 0)).numpy()

    mask = keep(20, 1)
    assert abs(mask.mean() - 0.9) < 0.005 and layers.Dropout(0.1, 20).inverse_keep_rate == pytest.approx(
        1 / 0.9, rel=1e-4
    )
    assert not np.array_equal(mask, keep(21, 1)) and not np.array_equal(mask, keep(20, 2))


def test_dropout_is_off_without_an_address_and_at_rate_zero():
    assert layers.Dropout(0.5, stream=20).keep([2, 4, 4, 1], None) is None
    assert layers.Dropout(0.0, stream=20).keep([2, 4, 4, 1], randomness.row_address(0, 1, 0)) is None


def test_downsampling_pads_like_tensorflow_same():
    layer = layers.Downsample(1)
    layer.conv.set_weights([np.arange(9.0).reshape(3, 3, 1, 1), np.zeros(1)])
    x = tf.reshape(tf.range(16.0), [1, 4, 4, 1])
    padded = np.pad(x.numpy(), [(0, 0), (0, 1), (0, 1), (0, 0)])[0, :, :, 0]  # one row below, one column right
    expected = [[(padded[i : i + 3, j : j + 3] * np.arange(9.0).reshape(3, 3)).sum() for j in (0, 2)] for i in (0, 2)]
    np.testing.assert_allclose(layer(x)[0, :, :, 0], expected)


def test_upsampling_is_a_convolution_of_pixels_repeated_2x2():
    layer, rng = layers.Upsample(4), np.random.default_rng(0)
    kernel, bias = (rng.normal(size=weight.shape).astype(np.float32) for weight in layer.conv.weights)
    layer.conv.set_weights([kernel, bias])
    x = tf.constant(rng.normal(size=(2, 2, 3, 4)), tf.float32)
    expected = tf.nn.conv2d(tf.constant(x.numpy().repeat(2, 1).repeat(2, 2)), kernel, 1, "SAME") + bias
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    for sides in ([2, 2, 3, 4], [None, None, None, 4]):
        np.testing.assert_allclose(tf.function(layer, input_signature=[tf.TensorSpec(sides)])(x), expected, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_scaled_products(heads):
    layer = layers.Attention(8, heads, groups=2)
    for dense in (layer.query, layer.key, layer.value, layer.out):
        dense.kernel.assign(keras.random.normal((8, 8), seed=3))
    x = tf.random.stateless_normal([2, 3, 5, 8], [1, 1])
    flat = layer.norm(x).numpy().reshape(2, 15, 8).astype(np.float64)
    q, k, v = (flat @ d.kernel.numpy() + d.bias.numpy() for d in (layer.query, layer.key, layer.value))
    mixed = np.zeros_like(q)
    for head in range(heads):
        part = slice(head * 8 // heads, (head + 1) * 8 // heads)
        scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / np.sqrt(8 / heads)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed[..., part] = weights / weights.sum(-1, keepdims=True) @ v[..., part]
    expected = x.numpy() + (mixed @ layer.out.kernel.numpy()).reshape(x.shape)
    np.testing.assert_allclose(layer(x), expected, atol=2e-4)


def test_initial_weights_are_hos():
    block = layers.ResidualBlock(64, 128, 256, groups=32, dropout=0.0, stream=20)
    fan_average = 9 * (64 + 128) / 2
    kernel = block.conv_1.kernel.numpy()
    assert kernel.std() == pytest.approx(np.sqrt(1 / fan_average), rel=0.02)
    assert np.abs(kernel).max() <= np.sqrt(3 / fan_average)
    assert np.abs(block.conv_2.kernel.numpy()).max() < 1e-6
    assert np.abs(layers.Attention(64, 1, 32).out.kernel.numpy()).max() < 1e-5
    assert all(np.all(layer.bias.numpy() == 0) for layer in (block.conv_1, block.conv_2, block.time, block.shortcut))


def test_groups_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 groups do not divide 8 channels"):
        group_norm.GroupNorm(8, 3)
