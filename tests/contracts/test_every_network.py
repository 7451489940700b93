"""What every network must be: one that is added here is tested by these alone."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.small_networks import randomised, saved_and_loaded, small
from tf_ddpm import build
from tf_ddpm.config import DiffusionConfig
from tf_ddpm.diffusion.levels import Levels
from tf_ddpm.networks.unet import UNet

# Name -> (dtype policy -> a network that sees images [H, W, 2], with random weights).
NETWORKS = {
    "unet": lambda dtype: UNet(small(widths=(8, 16), attention_levels=(1,)), 2, dtype=dtype),
    "unet, as Nichol & Dhariwal's": lambda dtype: UNet(
        small(widths=(8, 16), injection="scale_shift", downsample_padding="symmetric", embedding_order="cos_sin"),
        2,
        4,
        dtype=dtype,
    ),
    "unet, as Dhariwal & Nichol's": lambda dtype: UNet(
        small(widths=(8, 16), injection="scale_shift", resampling="residual", attention_levels=(1,)), 2, dtype=dtype
    ),
    "unet with classes": lambda dtype: UNet(small(classes=3, null_class=True), 2, dtype=dtype),
    # Of the two channels of X the second is the image that it is shown.
    "unet that enlarges": lambda dtype: UNet(small(condition="low_res", factor=2), 1, dtype=dtype),
}
X, TIME = tf.random.stateless_normal([3, 8, 8, 2], [0, 1]), tf.constant([3.0, 700.0, 41.5])


@pytest.fixture(params=NETWORKS)
def make(request):
    return lambda dtype="float32": randomised(NETWORKS[request.param](dtype))


def condition_of(network, rows=3):
    """A condition for each row, the last of them none."""
    label = tf.constant([*range(rows - 1), -1])
    return dict.fromkeys(network.conditions, label)


def output(network, x=X, time=TIME, condition=None):
    condition = condition_of(network) if condition is None else condition
    return network.forward(x, network.modulation(network.embed_time(time), condition)).numpy()


def test_its_three_parts_are_the_whole_and_the_output_is_float32_of_the_images_size(make):
    network = make()
    whole = network(X, TIME, **condition_of(network))
    assert whole.dtype == tf.float32 and whole.shape[:3] == X.shape[:3]
    np.testing.assert_allclose(output(network), whole, atol=1e-5)
    assert np.std(whole) > 0.05


def test_a_row_depends_on_its_own_image_time_and_condition_alone(make):
    network = make()
    together, condition = output(network), condition_of(network)
    for row in range(3):
        part = slice(row, row + 1)
        alone = output(network, X[part], TIME[part], {name: value[part] for name, value in condition.items()})
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_the_time_and_every_condition_are_heard(make):
    network, condition = make(), condition_of(make())
    assert np.abs(output(network) - output(network, time=TIME + 100.0)).max() > 1e-3
    for name, value in condition.items():
        null = network.null(name, value)
        optional = null is not value
        without = condition | {name: null if optional else value + 100}
        changed = np.abs(output(network) - output(network, condition=without)).max(axis=(1, 2, 3))
        assert changed[0] > 1e-4 and (changed[-1] == 0 or not optional)  # the last row had none before


def test_a_condition_too_many_or_too_few_is_refused(make):
    network = make()
    with pytest.raises(ValueError, match="expected"):
        output(network, condition={"unheard of": TIME})
    if network.conditions:
        with pytest.raises(ValueError, match="expected"):
            output(network, condition={})


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_saved_as_keras_and_loaded_it_is_the_same_network(make, dtype, tmp_path):
    network = make(dtype)
    loaded = saved_and_loaded(network, tmp_path)
    assert loaded.dtype_policy.name == dtype
    np.testing.assert_array_equal(output(loaded), output(network))


def test_its_configuration_goes_there_and_back(make):
    network = make()
    again = type(network).from_config(network.get_config())
    assert again.get_config() == network.get_config()
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in network.weights]


def test_bfloat16_computes_near_float32_with_weights_of_float32(make):
    exact, fast = make(), make("mixed_bfloat16")
    y, z = output(exact), output(fast)
    assert all(weight.dtype == "float32" for weight in fast.weights)
    assert 0 < np.linalg.norm(y - z) / np.linalg.norm(y) < 0.06


def test_what_a_loop_takes_out_of_its_steps_gives_what_the_network_gives(make):
    network = make()
    levels = Levels(np.ones(4), np.ones(4), np.array([0, 7, 13.5, 999]))
    x, shown = X[..., : network.image_channels], X[..., network.image_channels :]
    condition = condition_of(network) | dict.fromkeys(network.image_conditions, shown)
    denoiser = build.denoiser(DiffusionConfig(), network, condition, levels=levels)
    step = tf.constant([3, 0, 2])
    expected = output(network, time=tf.gather(tf.constant(levels.time, tf.float32), step))
    np.testing.assert_allclose(denoiser.output(x, levels.at(step, x)).prediction, expected, atol=1e-5)
