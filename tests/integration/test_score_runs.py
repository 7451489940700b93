"""Runs as Karras et al. 2022 and Song & Ermon 2019 have them, from training to SavedModel."""

import numpy as np
import pytest
import tensorflow as tf

from export import saved_model
from tests.support.tiny import make_tiny_config
from tf_ddpm import config as config_lib
from tf_ddpm.config import plans
from tf_ddpm.errors import UserError
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

KINDS = {
    "edm": {
        "diffusion__prediction": "edm",
        "diffusion__sigma_data": 0.7,
        "train__level_sampling": "lognormal",
        "train__level_mean": -0.4,
        "train__nearest_noise": 2,
        "sample__sampler": "heun",
        "sample__spacing": "karras",
        "sample__steps": 3,
        "sample__churn": 2.0,
    },
    "ve": {
        "diffusion__schedule": "ve",
        "sample__sampler": "annealed_langevin",
        "sample__steps": 3,
        "sample__langevin_steps": 2,
    },
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    """A run, and its configuration."""
    config, path = make_tiny_config(**KINDS[request.param]), tmp_path_factory.mktemp("runs") / request.param
    loop.run(config, path)
    return path, config


def test_it_goes_on_to_the_same_weights(trained, tmp_path):
    run_dir, config = trained
    loop.run(config_lib.with_values(config, {"train.steps": 4}), tmp_path / "parts")
    loop.run(config, tmp_path / "parts")
    whole, parts = load_run(run_dir), load_run(tmp_path / "parts")
    assert whole.checkpoint_step == parts.checkpoint_step == 8
    for a, b in zip(whole.network.weights, parts.network.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_its_export_draws_as_it_does_each_image_from_its_seed_alone(trained, tmp_path):
    run_dir, config = trained
    run = load_run(run_dir)
    images = run.sample(range(3))
    assert np.any(images[0] != images[1])
    np.testing.assert_array_equal(run.sample([2]), images[2:])
    version = saved_model.export_run(run, tmp_path, plans.parse(plans.own(config), config))
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    drawn = served(seed=tf.constant([0, 1, 2], tf.int64))["image"].numpy()
    np.testing.assert_allclose(drawn.astype(int), images, atol=1)


def test_a_setting_of_another_sampler_is_refused_where_it_is_asked_for(trained):
    run = load_run(trained[0])
    wrong = {"churn": 1.0} if run.config.sample.sampler == "annealed_langevin" else {"snr": 0.3}
    with pytest.raises(UserError, match=f"{next(iter(wrong))} has no effect here: it is of sample.sampler="):
        run.sample([0], **wrong)
