"""Bits/dim: every term of the bound, and the file they are written to."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import denoiser_of
from tf_ddpm import datasets, randomness
from tf_ddpm.diffusion import bounds, objectives, schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Prediction
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate, likelihood
from tf_ddpm.sampling.run import Run, load_run


def test_the_bound_of_a_tiny_chain_has_every_term_in_its_place():
    chain = Chain(schedules.betas("linear", 8, 0.01, 0.4)).respaced(np.array([0, 2, 3, 7]))
    rng = np.random.default_rng(0)
    x_0 = tf.constant(np.round(rng.uniform(0, 255, (3, 4, 4, 1))) / 127.5 - 1)
    noise = tf.constant(rng.normal(size=(4, 3, 4, 4, 1)))
    denoiser = denoiser_of(lambda x, level: x * tf.reshape(0.2 * tf.cast(level.time, x.dtype), [-1, 1, 1, 1]))
    bound = tf.function(lambda: bounds.variational_bound(chain, denoiser, x_0, lambda t: tf.gather(noise, t)))()
    assert bound.terms.shape == bound.eps_squared_error.shape == (4, 3)
    np.testing.assert_allclose(bound.prior, bounds.prior_term(chain, x_0), rtol=1e-12)
    for i, t in enumerate((0, 2, 3, 7)):
        at = tf.fill([3], i)
        level = chain.levels.at(at, x_0)
        x_t = level.noised(x_0, noise[i])
        eps = 0.2 * t * x_t
        predicted = Prediction(level.x_0(x_t, eps), None)
        np.testing.assert_allclose(bound.terms[i], bounds.bound_term(chain, predicted, x_0, x_t, at, clip=True))
        np.testing.assert_allclose(bound.eps_squared_error[i], np.mean((eps - noise[i]) ** 2, axis=(1, 2, 3)))


def bound(run_dir, metrics_file, seed=3, **settings):
    config = load_run(run_dir, **settings).config
    wanted = evaluate.EvaluationRequest(("bpd",), num_images=10, seed=seed)
    evaluate.evaluate(wanted, config, run_dir, metrics_file)
    return json.loads(metrics_file.read_text())


@pytest.fixture(scope="module")
def measured(run_dir):
    return bound(run_dir, run_dir / "metrics.json", batch_size=7)["bits_per_dim"]


def test_the_terms_add_up_and_come_with_a_receipt(measured):
    terms = measured["terms"]
    assert measured["value"] == pytest.approx(terms["L_T"] + sum(terms["L_t_minus_1"]) + terms["L_0"], rel=1e-6)
    assert len(terms["L_t_minus_1"]) == 19 and len(measured["eps_squared_error"]) == 20
    assert 0 < terms["L_T"] < 0.1 and min(terms["L_t_minus_1"]) > 0 and measured["standard_error"] > 0
    receipt = measured["receipt"]
    assert receipt["num_images"] == 10 and receipt["seed"] == 3 and receipt["steps"] == 20
    assert receipt["data"]["name"] == "digits" and receipt["checkpoint_step"] == 8 and "ema" not in receipt


def test_the_bound_is_of_the_whole_chain_whatever_levels_images_are_drawn_at(measured, run_dir, tmp_path):
    found = bound(run_dir, tmp_path / "metrics.json", spacing="karras")["bits_per_dim"]
    assert found["timesteps"] == measured["timesteps"]
    assert found["value"] == pytest.approx(measured["value"], rel=1e-5)


def test_the_receipt_names_the_width_of_an_average(run_dir):
    run = load_run(run_dir)
    sample = dataclasses.replace(run.config.sample, ema=0.05)
    averaged = Run(dataclasses.replace(run.config, sample=sample), run.network, run.checkpoint_step)
    about = likelihood._about(averaged, run.chain, likelihood.chosen_images(run, 2, 0), 0)
    assert about["weights"] == "ema" and about["ema"] == 0.05


def test_the_figure_depends_on_neither_batch_size_nor_earlier_metrics(measured, run_dir):
    path = run_dir / "metrics.json"
    path.write_text(json.dumps({"fid": {"value": 3.0}}))
    metrics = bound(run_dir, path, batch_size=64)
    assert metrics["fid"] == {"value": 3.0}
    assert metrics["bits_per_dim"]["value"] == pytest.approx(measured["value"], rel=1e-5)


def test_bits_per_dim_go_on_from_the_batches_that_are_there(measured, run_dir, tmp_path, monkeypatch):
    kept = sorted((run_dir / "evaluation").glob("bits-*/00000007-00000010.npz"))
    assert len(kept) == 1  # of batches of 7
    kept[0].unlink()
    asked, terms_of = [], likelihood._compiled_terms

    def counted(run, chain):
        terms = terms_of(run, chain)
        return lambda images, *others: asked.append(len(images)) or terms(images, *others)

    monkeypatch.setattr(likelihood, "_compiled_terms", counted)
    again = bound(run_dir, tmp_path / "metrics.json", batch_size=7)["bits_per_dim"]
    assert asked == [3]
    for part in ("value", "standard_error", "terms", "eps_squared_error", "x_0_squared_error"):
        assert again[part] == measured[part]
    bound(run_dir, tmp_path / "metrics.json", batch_size=7, seed=4)
    assert asked == [3, 7, 3]


def test_the_squared_errors_are_l_simple_of_each_t(measured, run_dir):
    run = load_run(run_dir)
    images = datasets.load(run.config.data)
    chosen = np.sort(np.random.default_rng(3).permutation(len(images))[:10])
    x_0 = run.codec.encode(images.images[chosen])
    t = 11
    eps = randomness.image_normal(tf.range(3, 13, dtype=tf.int64), t, [8, 8, 1])
    level = run.chain.levels.at(tf.fill([10], t), x_0)
    losses = objectives.simple_loss(run.bound_denoiser(None), x_0, level, eps)
    assert measured["eps_squared_error"][t] == pytest.approx(float(np.mean(losses)), rel=1e-4)


def test_a_foreign_metrics_file_is_left_alone(run_dir, tmp_path):
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(UserError, match="move it away"):
        bound(run_dir, tmp_path / "metrics.json")
    assert (tmp_path / "metrics.json").read_text() == "[1]"
