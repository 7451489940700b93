"""Classes and guidance, from the equation to the command line."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.small_networks import small
from tests.support.tiny import make_tiny_config
from tf_ddpm.diffusion import guidance, schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.parametrisation import PARAMETRISATIONS
from tf_ddpm.errors import UserError
from tf_ddpm.networks.unet import UNet
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

CLASSES = {"model__classes": 10, "model__null_class": True, "train__label_dropout": 0.25}


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "conditional"
    loop.run(make_tiny_config(**CLASSES, train__steps=30, train__learning_rate=5e-3), path)
    return path


def labelled(x, level, condition):
    """An output that is known: the label, whose class -1 is without one, times x; the variance the time."""
    scale = tf.reshape(tf.cast(condition["label"], x.dtype), [-1, 1, 1, 1])
    return tf.concat([scale * x, tf.ones_like(x) * tf.reshape(tf.cast(level.time, x.dtype), [-1, 1, 1, 1])], axis=-1)


def null_of(condition):
    return {name: tf.fill(part.shape, -1) for name, part in condition.items()}


def test_guidance_is_eq_6_for_each_image_with_its_own_weight_in_one_call():
    calls = []

    def network(x, level, condition):
        calls.append(x.shape[0])
        return labelled(x, level, condition)

    x = tf.random.stateless_normal([4, 2, 2, 1], [0, 0])
    level = Chain(schedules.betas("linear", 10)).levels.at(tf.constant([1, 2, 3, 4]), x)
    condition, g = {"label": tf.constant([3, 3, 5, 0])}, tf.constant([0.0, 1.0, 2.5, 1.0])
    output = guidance.guided(network, condition, null_of(condition), g, learns_variance=True)(x, level)
    expected = (-1 + g * (tf.cast(condition["label"], tf.float32) + 1))[:, None, None, None] * x
    np.testing.assert_allclose(output[..., :1], expected, rtol=1e-5)
    np.testing.assert_array_equal(output[..., 1:], labelled(x, level, condition)[..., 1:])
    assert calls == [8]


def test_guidance_of_v_is_guidance_of_eps():
    x = tf.random.stateless_normal([2, 2, 2, 1], [0, 0], dtype=tf.float64)
    level = Chain(schedules.betas("linear", 10)).levels.at(tf.constant([2, 7]), x)
    eps = tf.random.stateless_normal([4, 2, 2, 1], [1, 0], dtype=tf.float64)  # of both under the label, and without
    condition, found = {"label": tf.constant([4, 4])}, []
    for parametrisation in PARAMETRISATIONS.values():

        def network(x, level, condition, parametrisation=parametrisation):
            return parametrisation.target(level.x_0(x, eps), eps, level)

        bound = guidance.guided(network, condition, null_of(condition), tf.constant([2.0, 3.0]))
        found.append(Denoiser(bound, parametrisation).eps(x, level))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-9)


def test_the_network_takes_labels_exactly_if_it_has_classes():
    network = UNet(small(classes=3, null_class=True), 1)
    plain = UNet(small(), 1)
    x, t = tf.ones([2, 4, 4, 1]), tf.constant([1, 2])
    with pytest.raises(ValueError, match="expected label, got none"):
        network(x, t)
    with pytest.raises(ValueError, match="expected no condition, got label"):
        plain(x, t, label=tf.constant([0, 1]))
    assert network.label_embedding.table.shape == (4, 32)
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.normal(0, 0.2, weight.shape))
    outputs = [network(x[:1], t[:1], label=tf.constant([label])).numpy() for label in (-1, 0, 1, 2)]
    assert all(np.abs(a - b).max() > 1e-4 for i, a in enumerate(outputs) for b in outputs[:i])


def test_labels_reach_training_and_a_share_of_them_is_dropped(conditional_run):
    run = load_run(conditional_run)
    table = run.network.label_embedding.table.numpy()
    fresh = make_tiny_config(**CLASSES)
    assert table.shape == (11, 32) and run.config.model.classes == fresh.model.classes
    tf.keras.utils.set_random_seed(0)
    from tf_ddpm import build

    start = build.network(run.config, "float32").label_embedding.table.numpy()
    assert np.all(np.abs(table - start).max(axis=1) > 1e-3)  # every class, and the null class, was seen


def test_an_image_is_a_function_of_its_seed_label_and_guidance_alone(conditional_run):
    run = load_run(conditional_run)
    together = run.sample(range(4), label=[3, 3, 5, -1], guidance=2.0)
    np.testing.assert_array_equal(together[2:3], run.sample([2], label=5, guidance=2.0))
    np.testing.assert_array_equal(run.sample(range(12)), run.sample(range(12), label=[*range(10), 0, 1]))
    assert np.any(run.sample([0], label=3) != run.sample([0], label=5))
    assert np.any(run.sample([0], label=3) != run.sample([0], label=3, guidance=3.0))
    np.testing.assert_allclose(run.sample([0], label=-1), run.sample([0], label=3, guidance=0.0).astype(int), atol=1)
    np.testing.assert_allclose(
        run.sample([1], label=3, guidance=1.0), run.sample([1], label=3, guidance=1.0 + 1e-6).astype(int), atol=1
    )


@pytest.mark.parametrize("label", [10, -2, 1.5, "three", [1, 2]])
def test_wrong_labels_are_refused(conditional_run, label):
    with pytest.raises(UserError, match="label"):
        load_run(conditional_run).sample([0], label=label)


def test_the_export_takes_label_and_guidance(conditional_run, tmp_path):
    from export import saved_model
    from tf_ddpm.config import plans

    run = load_run(conditional_run, guidance=1.5, steps=4)
    version = saved_model.export_run(run, tmp_path, plans.parse("ddpm-4", run.config))
    served = tf.saved_model.load(str(version)).signatures
    inputs = {
        "seed": tf.constant([5, 6], tf.int64),
        "label": tf.constant([1, -1]),
        "guidance": tf.constant([3.0, 1.0]),
    }
    image = served["serving_default"](**inputs)["image"].numpy().astype(int)
    np.testing.assert_allclose(image[:1], run.sample([5], label=1, guidance=3.0), atol=1)
    np.testing.assert_allclose(image[1:], run.sample([6], label=-1, guidance=1.0), atol=1)
    x_t, t = tf.ones([1, 8, 8, 1]), tf.constant([3])
    answer = served["denoise"](x_t=x_t, t=t, label=tf.constant([2]), guidance=tf.constant([1.0]))
    np.testing.assert_allclose(answer["eps"], run.denoiser(x_t, t, [2]), atol=1e-5)


def test_a_set_with_another_number_of_labels_is_refused(tmp_path):
    config = make_tiny_config(**CLASSES | {"model__classes": 7})
    with pytest.raises(UserError, match=r"expected model\.classes=10"):
        loop.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_guidance_without_a_null_class_is_refused(tmp_path):
    with pytest.raises(UserError, match="is unconditional"):
        make_tiny_config(sample__guidance=2.0)
    with pytest.raises(UserError, match="no null class"):
        make_tiny_config(sample__guidance=2.0, model__classes=10)
    with pytest.raises(UserError, match="null_class=true"):
        make_tiny_config(train__label_dropout=0.1, model__classes=10)
