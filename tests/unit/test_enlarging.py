"""What a network that enlarges is shown: smaller images, enlarged again, blurred and noised."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.support.tiny import make_tiny_config
from tf_ddpm import build, randomness
from tf_ddpm.codecs import resampling
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.diffusion import augmentation, schedules
from tf_ddpm.errors import UserError
from tf_ddpm.training import conditions


def enlarging(**changes):
    values = {"model__condition": "low_res", "model__factor": 2, "data__image_size": (8, 8), "data__channels": 1}
    return make_tiny_config(**values | changes)


ENLARGES_NOT = {"model__condition": "none", "model__factor": 4}


def batch(count=6, side=8, channels=1, seed=0, step=3):
    image = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)
    address = randomness.row_address(seed, tf.constant(step), tf.constant(0))
    return {"image": tf.constant(image), "label": tf.range(count, dtype=tf.int32), "address": address}


@pytest.mark.parametrize("factor", [2, 4])
def test_a_constant_image_stays_constant(factor):
    image = tf.fill([2, 8, 12, 3], 0.3)
    small = resampling.area_mean(image, factor)
    assert small.shape == (2, 8 // factor, 12 // factor, 3)
    for part in (small, resampling.enlarged(small, factor), resampling.blurred(small, tf.constant([0.4, 0.6]))):
        np.testing.assert_allclose(part, 0.3, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_nothing_is_shifted_an_impulse_comes_back_around_its_own_centre(factor):
    image = np.zeros((1, 32, 32, 1), np.float32)
    image[0, 16 : 16 + factor, 8 : 8 + factor] = 1.0  # one whole pixel of the smaller image
    back = resampling.enlarged(resampling.area_mean(tf.constant(image), factor), factor).numpy()
    weight = back / back.sum()
    rows, columns = np.mgrid[:32, :32]
    centre = [(weight[0, :, :, 0] * axis).sum() for axis in (rows, columns)]
    np.testing.assert_allclose(centre, [16 + (factor - 1) / 2, 8 + (factor - 1) / 2], atol=1e-4)
    np.testing.assert_allclose(back.sum(), factor**2, rtol=1e-5)


def test_enlarging_is_linear_between_the_centres_of_pixels_that_are_areas():
    ramp = tf.reshape(tf.range(4, dtype=tf.float32), [1, 1, 4, 1])
    large = resampling.enlarged(tf.repeat(ramp, 2, axis=1), 2)[0, 0, :, 0]
    np.testing.assert_allclose(large, np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3), atol=1e-6)


def test_blur_is_the_gaussian_of_each_row_on_three_by_three_pixels():
    image = np.zeros((2, 5, 5, 1), np.float32)
    image[:, 2, 2] = 1.0
    for row, std in zip(
        resampling.blurred(tf.constant(image), tf.constant([0.4, 0.6])).numpy(), (0.4, 0.6), strict=True
    ):
        line = np.exp(-0.5 * np.arange(-1, 2) ** 2 / std**2)
        expected = np.outer(line, line) / line.sum() ** 2
        np.testing.assert_allclose(row[1:4, 1:4, 0], expected, atol=1e-6)


def test_augmentation_levels_are_those_of_hos_chain_behind_the_clean_image():
    levels = augmentation.levels()
    alpha_bar = schedules.alpha_bars(schedules.betas("linear", 1000, 1e-4, 0.02))
    assert len(levels) == 1001 and levels.alpha[0] == 1.0 and levels.sigma[0] == 0.0
    np.testing.assert_allclose(levels.alpha[1:] ** 2, alpha_bar, rtol=1e-12)
    image, eps = tf.fill([2, 2, 2, 1], 0.5), tf.fill([2, 2, 2, 1], 2.0)
    found = augmentation.noised(image, tf.constant([0, 300]), eps).numpy()
    expected = 0.5 * np.sqrt(alpha_bar[299]) + 2.0 * np.sqrt(1 - alpha_bar[299])
    np.testing.assert_allclose(found[:, 0, 0, 0], [0.5, expected], rtol=1e-6)


def test_levels_are_drawn_uniformly_from_0_to_the_most_and_a_share_of_them_is_clean():
    address = randomness.row_address(0, tf.constant(1), tf.constant(0))
    drawn = augmentation.drawn(address, 200_000, 300, 0.1).numpy()
    assert drawn.min() == 0 and drawn.max() == 300
    assert abs((drawn == 0).mean() - (0.1 + 0.9 / 301)) < 0.003
    assert abs(drawn[drawn > 0].mean() - 150.5) < 1.0
    assert not augmentation.drawn(address, 100, 0, 0.0).numpy().any()


def test_a_crop_is_the_same_of_the_image_and_of_what_is_shown_and_begins_at_a_pixel_of_the_smaller_one():
    config = enlarging(train__crop=4, train__augmentation=0)
    whole, shown = conditions.of_batch(enlarging(train__augmentation=0), (), Pixels(), batch())
    part, shown_part = conditions.of_batch(config, (), Pixels(), batch())
    assert part.shape == shown_part["low_res"].shape == (6, 4, 4, 1)
    found = set()
    for i in range(6):
        places = [
            (top, left)
            for top in range(0, 5, 2)
            for left in range(0, 5, 2)
            if np.array_equal(whole[i, top : top + 4, left : left + 4], part[i])
        ]
        assert len(places) == 1
        (top, left), *_ = places
        found.add((top, left))
        expected = shown["low_res"][i, top : top + 4, left : left + 4]
        np.testing.assert_array_equal(shown_part["low_res"][i], expected)
    assert len(found) > 2


def test_a_replica_with_some_of_the_rows_gets_the_same_parts_noise_and_levels():
    config = enlarging(train__crop=4, train__blur=0.5)
    together = conditions.of_batch(config, (), Pixels(), batch())
    whole = batch()
    rows = {"image": whole["image"][4:], "label": whole["label"][4:]}
    rows["address"] = randomness.row_address(0, tf.constant(3), tf.constant(4))
    alone = conditions.of_batch(config, (), Pixels(), rows)
    for one, all_rows in zip(tf.nest.flatten(alone), tf.nest.flatten(together), strict=True):
        np.testing.assert_array_equal(one, all_rows[4:])


def test_the_network_sees_what_it_is_shown_and_how_noisy_it_is_and_at_first_ignores_the_latter():
    network = build.network(enlarging(), "float32")
    x, t = tf.random.stateless_normal([2, 8, 8, 2], [0, 1]), tf.constant([3, 3])
    kernel = network.augmentation_embedding.dense_2.kernel
    for i, weight in enumerate(network.weights):  # a fresh network answers 0
        if weight is not kernel:
            weight.assign(0.3 * tf.random.stateless_normal(weight.shape, [1, i]))
    base = network(x, t, augmentation=tf.constant([0, 0]))
    np.testing.assert_allclose(base, network(x, t, augmentation=tf.constant([0, 300])), atol=1e-5)
    kernel.assign(tf.random.stateless_normal(kernel.shape, [3, 4]))
    apart = np.abs(base - network(x, t, augmentation=tf.constant([0, 300]))).max(axis=(1, 2, 3))
    assert apart[1] > 1e-3
    shown = np.abs(base - network(tf.concat([x[..., :1], -x[..., 1:]], -1), t, augmentation=tf.constant([0, 0])))
    assert shown.max() > 1e-3
    with pytest.raises(ValueError, match="expected augmentation, got none"):
        network(x, t)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__factor": 3}, r"model\.factor=3: expected 2 or 4"),
        ({"train__crop": 3}, r"train\.crop=3: .* divisible by 2, for example 4"),
        ({"train__crop": 16}, r"train\.crop=16 is larger"),
        (
            {"model__factor": 4, "data__image_size": (10, 8)},
            r"data\.image_size=10,8: .* divisible by 4, for example 8,8",
        ),
        ({"sample__augmentation": 301}, "augmentation 301: this run was trained with up to 300"),
        ({"model__condition": "none"}, r"model\.factor is of networks that enlarge"),
        (
            {"model__condition": "none", "model__factor": 4, "train__crop": 4},
            r"train\.crop is of networks that enlarge",
        ),
        ({"train__blur": 0.5, "data__image_size": (2, 2)}, "needs smaller images of at least 2x2 pixels"),
        (
            {"model__condition": "none", "model__factor": 4, "sample__augmentation": 4},
            "this run enlarges no images; expected 0",
        ),
        ({"data__holdout": 0.1}, r"data\.holdout is for data\.name=folder"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(UserError, match=words):
        enlarging(**changes)


def test_guidance_leaves_what_is_shown_as_it_is():
    network = build.network(enlarging(model__classes=3, model__null_class=True), "float32")
    assert network.conditions == ("label", "augmentation") and network.image_conditions == ("low_res",)
    level = tf.constant([5, 6])
    assert network.null("augmentation", level) is level
    np.testing.assert_array_equal(network.null("label", level), [-1, -1])
    assert dataclasses.replace(network.model, factor=4).enlarges
