"""Autoencoders and their losses against closed forms."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from export import codec_comparison
from tests.support.small_networks import randomised
from tf_ddpm import config as config_lib
from tf_ddpm.codecs.latents import Latents
from tf_ddpm.config import AutoencoderConfig, Config
from tf_ddpm.errors import UserError
from tf_ddpm.networks import autoencoder as autoencoders
from tf_ddpm.networks.autoencoder import AUTOENCODERS, AutoencoderKL, VQModel
from tf_ddpm.networks.layers import Downsample
from tf_ddpm.runs import latents
from tf_ddpm.sampling import first_stage
from tf_ddpm.training import autoencoding

SMALL = AutoencoderConfig(kind="kl", widths=(8, 16), groups=4, latent_channels=2)
_RNG = np.random.default_rng(0)


def test_a_level_is_halved_with_a_pixel_of_padding_right_and_bottom_and_none_left_and_top():
    """A kernel of ones counts the pixels that it sees: 3x3, and 3x2 at the last row and column."""
    layer = Downsample(1, "after")
    layer.conv.kernel.assign(np.ones((3, 3, 1, 1)))
    for side, count in ((6, 3), (7, 3)):  # of an odd side the last pixel has a whole window
        seen = layer(tf.ones([1, side, side, 1])).numpy()[0, ..., 0]
        expected = np.full((count, count), 9.0)
        if side % 2 == 0:
            expected[-1], expected[:, -1], expected[-1, -1] = 6.0, 6.0, 4.0
        np.testing.assert_array_equal(seen, expected)
    impulse = np.zeros((1, 6, 6, 1), np.float32)
    impulse[0, 0, 0] = 1.0  # the first pixel is the first that the first window sees
    layer.conv.kernel.assign(np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1))
    assert layer(impulse).numpy()[0, 0, 0, 0] == 0.0
    impulse[0, 0, 0], impulse[0, 2, 2] = 0.0, 1.0
    assert layer(impulse).numpy()[0, 0, 0, 0] == 8.0


def test_the_epsilon_of_a_normalisation_is_seen_where_a_group_is_nearly_constant():
    """Of x = +-d the normalised value is d / sqrt(d^2 + eps)."""
    d = 1e-3
    for epsilon in (1e-6, 1e-5):
        network = AutoencoderKL(dataclasses.replace(SMALL, norm_epsilon=epsilon), 1)
        block = network.encoder.down_0_0
        x = np.full((1, 2, 2, 8), d, np.float32)
        x[0, :, 0] = -d
        z = d / np.sqrt(d * d + epsilon)
        expected = np.where(x > 0, z, -z)
        np.testing.assert_allclose(block.norm_1(x), expected / (1 + np.exp(-expected)), rtol=1e-4)


def test_the_divergence_of_a_known_gaussian_is_its_closed_form():
    mean, std = _RNG.normal(size=(3, 2, 2, 2)), np.exp(_RNG.normal(size=(3, 2, 2, 2)))
    found = autoencoders.kl_divergence(tf.constant(mean), tf.constant(2 * np.log(std)))
    expected = (mean**2 + std**2 - 1 - 2 * np.log(std)).sum(axis=(1, 2, 3)) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(autoencoders.kl_divergence(tf.zeros([1, 2, 2, 1]), tf.zeros([1, 2, 2, 1])), 0.0)


def test_the_log_variance_is_held_between_its_bounds():
    network = randomised(AutoencoderKL(SMALL, 1), scale=20.0)
    _, log_variance = network.moments(100.0 * tf.random.stateless_normal([2, 8, 8, 1], [0, 0]))
    assert log_variance.numpy().min() == -30.0 and log_variance.numpy().max() == 20.0


def codebook(codes=16):
    network = VQModel(dataclasses.replace(SMALL, kind="vq", codes=codes), 1)
    network.codebook.assign(_RNG.normal(size=network.codebook.shape))
    return network


def test_codes_are_the_nearest_ones():
    network, h = codebook(), _RNG.normal(size=(2, 3, 5, 2)).astype(np.float32)
    book = network.codebook.numpy().astype(np.float64)
    distances = np.linalg.norm(h[..., None, :].astype(np.float64) - book, axis=-1)
    np.testing.assert_array_equal(network.nearest(h), distances.argmin(axis=-1))
    np.testing.assert_array_equal(network.quantised(h), network.codebook.numpy()[distances.argmin(axis=-1)])


def test_of_two_codes_equally_far_a_row_alone_and_in_a_batch_takes_the_same():
    network = codebook()
    h = np.repeat(_RNG.normal(size=(1, 64, 64, 2)).astype(np.float32), 7, axis=0)
    network.codebook.assign(np.tile(network.codebook.numpy()[:8], (2, 1)))  # each code twice
    alone = network.nearest(h[:1]).numpy()
    np.testing.assert_array_equal(network.nearest(h), np.repeat(alone, 7, axis=0))


def test_a_code_passes_its_gradient_straight_to_the_latent():
    h, book = tf.constant([[1.0, 2.0]]), tf.constant([[5.0, 5.0]])
    with tf.GradientTape() as tape:
        tape.watch([h, book])
        out = autoencoders.straight_through(h, book)
        loss = tf.reduce_sum(out * tf.constant([[3.0, 4.0]]))
    np.testing.assert_array_equal(out, book)
    of_latent, of_code = tape.gradient(loss, [h, book])
    np.testing.assert_array_equal(of_latent, [[3.0, 4.0]])
    assert of_code is None


def test_the_multiscale_distance_is_numpys():
    x, y = (_RNG.normal(size=(2, 8, 16, 3)).astype(np.float32) for _ in range(2))

    def distance(scale):
        area = lambda a: a.reshape(2, 8 // scale, scale, 16 // scale, scale, 3).mean(axis=(2, 4))  # noqa: E731
        return np.abs(area(x) - area(y)).mean(axis=(1, 2, 3))

    expected = np.mean([distance(scale) for scale in (2, 4, 8)], axis=0)
    np.testing.assert_allclose(autoencoding.multiscale_l1(x, y), expected, rtol=1e-5)
    odd = tf.constant(x[:, :7])
    np.testing.assert_array_equal(autoencoding.multiscale_l1(odd, 0.5 * odd), 0.0)  # no scale divides its sides


def test_the_scale_of_latents_is_numpys_mean_and_deviation_and_brings_them_to_0_and_1():
    network = randomised(AutoencoderKL(SMALL, 1))
    images = _RNG.integers(0, 256, (70, 8, 8, 1), np.uint8)
    scale = first_stage.estimate(network, [images[:32], images[32:]], 5)
    found = network.encode(tf.constant(images / 127.5 - 1.0, tf.float32)).numpy().astype(np.float64).reshape(-1, 2)
    np.testing.assert_allclose(scale.shift, found.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale.scale, 1 / found.std(axis=0), rtol=1e-5)
    assert (scale.images, scale.checkpoint_step) == (70, 5)
    own = randomised(VQModel(dataclasses.replace(SMALL, kind="vq"), 1))
    one = first_stage.estimate(own, [images], 5)
    size = np.sqrt(np.square(own.encode(tf.constant(images / 127.5 - 1.0, tf.float32)).numpy()).mean())
    assert one.shift == (0.0, 0.0) and len(set(one.scale)) == 1 and np.isclose(one.scale[0], 1 / size, rtol=1e-4)
    x = Latents(network, scale.shift, scale.scale).encode(tf.constant(images)).numpy()
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1.0, atol=1e-4)


def test_the_scale_survives_its_file_and_a_damaged_file_is_one_line(tmp_path):
    scale = config_lib.LatentScale((0.1, -2.0), (0.5, 1 / 3), 1000, 7)
    latents.write(tmp_path, scale)
    assert latents.read(tmp_path) == scale and latents.read(tmp_path / "elsewhere") is None
    for text in ("{", "[]", '{"shift": [1], "scale": [0], "images": 1, "checkpoint_step": 1}'):
        (tmp_path / latents.FILE).write_text(text)
        with pytest.raises(UserError, match="cannot be read; remove it"):
            latents.read(tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"autoencoder.widths": (8, 16)}, "autoencoder.widths is of autoencoders: autoencoder.kind=kl"),
        ({"autoencoder.kind": "kl", "model.channels": 64}, "model.channels is of networks that denoise"),
        ({"autoencoder.kind": "kl", "train.min_snr_gamma": 5.0}, "train.min_snr_gamma is of networks that denoise"),
        ({"autoencoder.kind": "kl", "sample.steps": 5}, "sample.steps: this run is an autoencoder"),
        ({"autoencoder.kind": "kl", "codec.run": "runs/a"}, "codec.run is of networks that denoise"),
        ({"autoencoder.kind": "kl", "autoencoder.codes": 5}, "autoencoder.codes is for autoencoder.kind=vq, not kl"),
        ({"autoencoder.kind": "vq", "autoencoder.kl_weight": 1.0}, "kl_weight is for autoencoder.kind=kl, not vq"),
        ({"autoencoder.kind": "tiny", "autoencoder.groups": 4}, "autoencoder.groups is for autoencoder.kind=kl or vq"),
        ({"autoencoder.kind": "kl", "autoencoder.widths": (12, 16)}, "does not divide a width of 12 channels"),
        ({"autoencoder.kind": "kl", "autoencoder.attention_levels": (3,)}, "the last level is 2"),
        (
            {"autoencoder.kind": "kl", "data.image_size": (10, 8)},
            "an autoencoder of 3 levels needs sides divisible by 4",
        ),
        ({"autoencoder.kind": "kl", "train.crop": 6}, "needs sides divisible by 4, for example 8"),
        ({"autoencoder.kind": "kl", "train.crop": 64, "data.image_size": (32, 32)}, "at most its smaller side"),
        ({"autoencoder.kind": "kl", "sample.precision": "bfloat16"}, "encodes and decodes in float32"),
        ({"codec.run": "runs/a"}, "latents have no range to be kept in; expected sample.clip=none"),
        ({"codec.factor": 2}, "codec.factor and codec.channels are of runs that diffuse latents"),
        (
            {"codec.run": "runs/a", "sample.clip": "none", "codec.factor": 4, "data.image_size": (12, 12)},
            "2 levels on latents need sides divisible by 8",
        ),
        (
            {"codec.run": "runs/a", "sample.clip": "none", "model.condition": "low_res"},
            "it does not go with codec.run",
        ),
    ],
)
def test_keys_that_do_not_fit_together_are_refused_with_what_would(values, words):
    with pytest.raises(UserError) as error:
        config_lib.validated(config_lib.with_values(Config(), values))
    assert words in str(error.value)


def test_clip_is_none_by_default_where_latents_are_diffused():
    config = config_lib.with_settings(Config(), ["codec.run=runs/a"])
    assert config.sample.clip == "none" and config_lib.validated(config) is config
    with pytest.raises(UserError, match="latents have no range"):
        config_lib.validated(config_lib.with_settings(Config(), ["codec.run=runs/a", "sample.clip=static"]))


def test_a_portable_configuration_names_no_path_of_an_autoencoder():
    config = config_lib.with_settings(Config(), ["codec.run=/home/me/runs/a", "data.image_size=8", "data.channels=1"])
    text = config_lib.to_json(config_lib.portable(config))
    assert "/home/me" not in text and config_lib.from_json(text).codec.run == "-"


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_what_is_logged_of_an_update_has_a_name_for_each_part(kind):
    assert len(autoencoding.further_metrics(AutoencoderConfig(kind=kind))) == 3
    assert len(autoencoding.further_metrics(AutoencoderConfig(kind=kind, adversarial=0.5))) == 5


def test_the_judges_gradient_is_as_strong_at_the_last_layer_as_the_loss_and_its_weight_say():
    own = dataclasses.replace(SMALL, adversarial=0.5, adversarial_channels=8)
    network = AutoencoderKL(own, 1, judged=True)
    sizes = [int(np.prod(weight.shape)) for weight in network.weights]
    gradient, deceit = (tf.constant(_RNG.normal(size=sum(sizes)), tf.float32) for _ in range(2))
    place = next(i for i, weight in enumerate(network.weights) if weight is network.last_layer.kernel)
    last = slice(sum(sizes[:place]), sum(sizes[: place + 1]))
    judge = autoencoding._Judge(network, own)
    for size in (1e-2, 1e2):
        found = judge.together(gradient, size * deceit).numpy() - gradient
        norms = [np.linalg.norm(part[last]) for part in (found, gradient.numpy())]
        np.testing.assert_allclose(norms[0], 0.5 * norms[1], rtol=1e-2)
        np.testing.assert_allclose(found / np.linalg.norm(found), deceit / np.linalg.norm(deceit), atol=1e-4)
    assert (
        np.abs(judge.together(gradient, 1e-30 * deceit) - gradient).max() < 1e-5
    )  # what says nothing is not blown up


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_an_export_that_encodes_or_decodes_otherwise_than_its_autoencoder_is_told_by_the_signature(kind):
    own = dataclasses.replace(SMALL, kind=kind, codes=16)
    codec = Latents(randomised(AUTOENCODERS[kind](own, 1)), (0.5, -0.5), (2.0, 3.0))
    asked = codec_comparison.requests(codec, (4, 6, 1), 2)
    images, x = (
        tf.constant(asked[name][key]) for name, key in (("encode_image", "image"), ("decode_latent", "latent"))
    )
    assert images.shape == (2, 4, 6, 1) and x.shape == (2, 2, 3, 2)
    answers = {
        "encode_image/latent": codec.encode(images).numpy(),
        "decode_latent/image_float": codec.images(x).numpy(),
    }
    codec_comparison.check(codec, asked, answers)
    if kind == "vq":  # codes themselves, which rounding keeps
        np.testing.assert_allclose(
            codec.first_stage.quantised(x / codec.scale + codec.shift), x / codec.scale + codec.shift, atol=1e-6
        )
    for name, value in answers.items():
        wrong = value.copy()
        wrong[1, 0, 0, 0] += 1e-3 * np.abs(value).max()
        with pytest.raises(UserError, match=f"answers {name} differently: 0.001 of the largest value"):
            codec_comparison.check(codec, asked, answers | {name: wrong})
