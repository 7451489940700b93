"""Guidance by a worse network, and where there is guidance: from the equation to the export."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.gaussian import denoiser_of
from tests.support.small_networks import small
from tests.support.tiny import make_tiny_config, mirrored
from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import DiffusionConfig, SampleConfig, plans
from tf_ddpm.diffusion import samplers, schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.guidance import Autoguided, Interval, guided
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import provenance
from tf_ddpm.figures import catalogue, plots
from tf_ddpm.figures.catalogue import FigureContext
from tf_ddpm.networks.unet import UNet
from tf_ddpm.runs import checkpoint_files, configuration
from tf_ddpm.sampling import guide as guides
from tf_ddpm.sampling import run as run_module
from tf_ddpm.sampling.run import Run, load_run, open_run
from tf_ddpm.sampling.source import facts_of
from tf_ddpm.training import loop

CHAIN = Chain(schedules.betas("linear", 1000))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run without classes, and its checkpoint after a quarter of the updates."""
    path = tmp_path_factory.mktemp("runs") / "plain"
    loop.run(make_tiny_config(train__steps=40, train__learning_rate=5e-3, train__guide_at=(0.25,)), path)
    return path


def linear(slope, prediction="x_0"):
    return denoiser_of(lambda x, level: slope * x, prediction)


def test_autoguidance_goes_on_from_the_guide_for_each_image_with_its_own_weight():
    x, w = tf.constant([[1.0], [2.0], [-1.0]], tf.float64), tf.constant([0.0, 1.0, 2.5])
    level = CHAIN.levels.at(tf.constant([5, 300, 900]), x)
    found = Autoguided(linear(0.7), linear(0.4), w)(x, level)
    np.testing.assert_allclose(found.x_0, (0.4 + w.numpy()[:, None] * 0.3) * x, rtol=1e-6)
    guided_eps = Autoguided(linear(0.7), linear(0.4), w).eps(x, level)
    np.testing.assert_allclose(level.x_0(x, guided_eps), found.x_0, rtol=1e-9)


def test_with_weight_1_the_noise_is_that_of_the_network_however_little_there_is():
    x, chain = tf.constant([[1.0], [0.3]], tf.float32), build.chain(DiffusionConfig(schedule="ve", sigma_min=1e-4))
    level, main = chain.levels.at(tf.constant(0), x), denoiser_of(lambda x, level: 0.3 * x, "eps")
    found = Autoguided(main, linear(0.4), tf.constant([1.0, 1.0])).eps(x, level)
    np.testing.assert_array_equal(found, 0.3 * x)


def test_a_level_that_is_the_border_of_the_interval_is_within_it_for_any_rounding():
    for border in np.random.default_rng(0).uniform(0.1, 50.0, 300).round(2):
        levels = CHAIN.at_sigmas(np.array([0.05, border])).levels
        highest = levels.at(tf.constant(1), tf.zeros([1, 1]))
        assert Interval(0.0, border).contains(highest) and not Interval(border, 100.0).contains(highest), border


def test_a_guide_may_predict_something_else():
    x, w = tf.constant([[1.0], [2.0]], tf.float64), tf.constant([2.0, 3.0])
    level = CHAIN.levels.at(tf.constant([50, 600]), x)
    of_v = denoiser_of(lambda x, level: (level.alpha * x - 0.4 * x) / level.sigma, "v")  # x_0 = 0.4 x
    expected = Autoguided(linear(0.7), linear(0.4), w)(x, level).x_0
    np.testing.assert_allclose(Autoguided(linear(0.7), of_v, w)(x, level).x_0, expected, rtol=1e-9)


def test_guidance_is_inside_its_interval_and_outside_the_guide_is_not_asked():
    asked, interval = [], Interval(0.5, 3.0)
    sigma = CHAIN.levels.relative_sigma
    guide = denoiser_of(
        lambda x, level: tf.numpy_function(lambda s: asked.append(float(s)) or 0.0, [level.sigma], tf.float64) * x,
        "x_0",
    )
    denoiser = Autoguided(linear(0.7), guide, tf.constant([2.0]), interval)
    short = CHAIN.respaced(schedules.strided_timesteps(1000, 50))
    x_T = tf.constant([[0.3]], tf.float64)
    tf.function(lambda x: samplers.sample_loop(samplers.DDIM(short, "none"), denoiser, x, lambda k: None)[0])(x_T)
    inside = (short.levels.relative_sigma > 0.5) & (short.levels.relative_sigma <= 3.0)
    np.testing.assert_allclose(sorted(asked), short.levels.sigma[inside])
    # Each row by itself, where they have levels of their own; the borders are (low, high].
    borders = Interval(sigma[100], sigma[300])
    x, level = (
        tf.ones([4, 1], tf.float64),
        CHAIN.levels.at(tf.constant([100, 101, 300, 301]), tf.ones([4, 1], tf.float64)),
    )
    found = Autoguided(linear(0.7), linear(0.4), tf.constant([3.0] * 4), borders)(x, level).x_0
    np.testing.assert_allclose(found[:, 0], [0.7, 1.3, 1.3, 0.7], rtol=1e-9)


def test_classifier_free_guidance_has_the_interval_too():
    calls = []

    def network(x, level, condition):
        tf.numpy_function(lambda n: calls.append(int(n)) or np.int64(0), [tf.shape(x)[0]], tf.int64)
        return tf.cast(condition["label"], x.dtype)[:, None] * tf.ones_like(x)

    condition, null = {"label": tf.constant([3])}, {"label": tf.constant([-1])}
    bound = guided(network, condition, null, tf.constant([2.0]), interval=Interval(0.5, 3.0))
    call = tf.function(lambda x, step: bound(x, CHAIN.levels.at(step, x)))
    x = tf.ones([1, 1])
    found = [call(x, tf.constant(step)).numpy().item() for step in (50, 300, 900)]
    assert found == [3.0, 7.0, 3.0] and calls == [1, 2, 1]


def test_a_guide_of_another_chain_is_told_its_own_time_of_the_same_noise():
    main, other = DiffusionConfig(), DiffusionConfig(schedule="cosine", prediction="v", timesteps=500)
    network = UNet(small(), 1)
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.normal(0, 0.2, weight.shape))
    whole = build.chain(main)
    x, guide = tf.random.stateless_normal([2, 4, 4, 1], [0, 1]), build.Guide(network, other)
    levels = whole.respaced(np.array([100, 600])).levels
    main_network = UNet(small(), 1)
    denoiser = build.denoiser(main, main_network, {}, tf.constant([0.0, 0.0]), levels, guide=guide)
    level = levels.at(tf.constant([0, 1]), x)
    times = build.chain(other).levels.of_sigmas(levels.relative_sigma).time
    output = network(x, tf.constant(times, tf.float32))
    np.testing.assert_allclose(denoiser(x, level).x_0, level.alpha * x - level.sigma * output, rtol=1e-4, atol=1e-5)
    # And where every step of the table may be asked for.
    anywhere = build.denoiser(main, main_network, {}, tf.constant([0.0, 0.0]), guide=guide)
    same = whole.levels.at(tf.constant([100, 600]), x)
    np.testing.assert_allclose(anywhere(x, same).x_0, denoiser(x, level).x_0, rtol=1e-4, atol=1e-5)


def test_a_run_is_guided_by_its_own_early_checkpoint(run_dir):
    settings = {"sampler": "dpmpp", "steps": 5}
    plain, early = load_run(run_dir), load_run(run_dir, guide="10", guidance=2.0)
    assert early.guide.checkpoint_step == 10 and early.checkpoint_step == 40
    same = load_run(run_dir, guide="10").sample(range(4), **settings)
    np.testing.assert_array_equal(same, plain.sample(range(4), **settings))
    guided_images = early.sample(range(4), **settings)
    assert np.abs(guided_images.astype(int) - same).max() > 2
    np.testing.assert_array_equal(early.sample([2], **settings), guided_images[2:3])
    # With weight 0 it is the guide alone, whose network differs.
    alone = Run(early.guide.config, early.guide.network, 10).sample(range(4), **settings)
    np.testing.assert_allclose(early.sample(range(4), guidance=0.0, **settings).astype(int), alone, atol=1)
    assert np.any(alone != same)
    # Where no level is inside the interval it is the run itself.
    nowhere = load_run(run_dir, guide="10", guidance=2.0, guidance_min=1e5)
    np.testing.assert_array_equal(nowhere.sample(range(4), **settings), same)


def test_a_run_that_is_taken_further_keeps_its_guide(tmp_path, capsys):
    settings = {"train__guide_at": (0.25,), "train__keep": 1, "train__checkpoint_every": 4}
    loop.run(make_tiny_config(train__steps=8, **settings), tmp_path)
    assert checkpoint_files.steps(tmp_path) == [2, 8]
    loop.run(make_tiny_config(train__steps=16, **settings), tmp_path)
    assert checkpoint_files.steps(tmp_path) == [2, 16]  # of 16 steps it would be 4, which was not kept then
    for steps in (20, 24):  # the configuration that names 2 is gone
        loop.run(make_tiny_config(train__steps=steps, **settings), tmp_path)
        assert checkpoint_files.steps(tmp_path) == [2, steps]
    assert "past step 6" in capsys.readouterr().err


def test_what_is_said_of_a_guide_tells_it_from_others_of_its_configuration_and_names_the_guided_weights(run_dir):
    plain, early, late = (load_run(run_dir, guide=guide) for guide in (None, "10", str(run_dir)))
    said = [facts_of(run, run.config.sample)["guide"] for run in (early, late)]
    assert said[0]["weights_sha256"] != said[1]["weights_sha256"] == provenance.weights_digest(plain)
    assert provenance.weights_digest(plain) == provenance.weights_digest(early) == provenance.weights_digest(late)


def test_workers_agree_on_the_guide(run_dir, monkeypatch):
    agreed = {}
    monkeypatch.setattr(run_module, "agree", lambda _, **facts: agreed.update(facts))
    config = configuration.used(configuration.read(run_dir), [], {"guide": "10", "guidance": 2.0})
    open_run(run_dir, config, mirrored(2)).agree("words")
    assert agreed["flags"] == ("words",)
    assert agreed["guide"] == load_run(run_dir, guide="10", guidance=2.0).guide.facts()


def test_another_run_guides_where_it_fits(run_dir, tmp_path):
    other = load_run(run_dir, guide=str(run_dir), guidance=3.0)
    same = other.sample(range(2), sampler="ddim", steps=4)
    plain = load_run(run_dir).sample(range(2), sampler="ddim", steps=4)
    np.testing.assert_allclose(same.astype(int), plain, atol=1)  # guided by itself
    loop.run(make_tiny_config(data__image_size=(4, 4), train__steps=1), tmp_path / "smaller")
    with pytest.raises(UserError, match="draws images of 4x4x1"):
        load_run(run_dir, guide=str(tmp_path / "smaller"))
    with pytest.raises(UserError, match="no checkpoint of that step; it has 10, 32, 36, 40"):
        load_run(run_dir, guide="11")
    with pytest.raises(UserError, match=r"guide=.*no run in .* expected a step of this run"):
        load_run(run_dir, guide=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="chosen when the run is loaded"):
        load_run(run_dir).sample([0], guide="10")
    for step in ("40", "36"):
        with pytest.raises(UserError, match=f"guide={step}: it guides this run's step 36; expected an earlier one"):
            open_run(run_dir, configuration.used(configuration.read(run_dir), [], {"guide": step}), step=36)


def test_a_guide_is_asked_at_no_level_that_it_does_not_know(run_dir, tmp_path):
    loop.run(make_tiny_config(diffusion__schedule="ve", diffusion__sigma_max=5.0, train__steps=1), tmp_path)
    run = load_run(run_dir, guide=str(tmp_path), guidance=2.0, guidance_max=5.0)
    run.settings(guidance_max=4.0)
    with pytest.raises(UserError, match=r"and is asked from .* to 80"):
        run.sample([0], guidance_max=80.0)


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
    """A run with a null class, and its checkpoint after a quarter of the updates."""
    path = tmp_path_factory.mktemp("runs") / "classes"
    known = {"model__classes": 10, "model__null_class": True, "train__label_dropout": 0.1}
    loop.run(make_tiny_config(train__steps=40, train__learning_rate=5e-3, train__guide_at=(0.25,), **known), path)
    return path


def test_a_run_with_classes_is_guided_by_its_past_under_the_same_label(of_classes, tmp_path):
    from export import saved_model

    run, early = load_run(of_classes, guide="10", guidance=3.0), load_run(of_classes, guide=None)
    labels, seeds = np.array([3, 8]), np.array([5, 6])
    x = tf.random.stateless_normal([2, 8, 8, 1], [0, 1])
    level = run.chain.levels.at(tf.constant([9, 4]), x)
    own = early.bound_denoiser(tf.constant(labels))(x, level).x_0
    worse = Run(run.guide.config, run.guide.network, 10).bound_denoiser(tf.constant(labels))(x, level).x_0
    found = run.bound_denoiser(tf.constant(labels), tf.constant([3.0, 3.0]))(x, level).x_0
    np.testing.assert_allclose(found, worse + 3.0 * (own - worse), atol=1e-5)
    # Each row of an export by itself, inside of the interval and outside.
    inside = load_run(of_classes, guide="10", guidance=3.0, guidance_min=0.5, guidance_max=3.0)
    version = saved_model.export_run(inside, tmp_path, plans.parse("ddim-4", inside.config))
    served = tf.saved_model.load(str(version)).signatures
    images = inside.sample(seeds, label=labels, sampler="ddim", steps=4).astype(int)
    rows = {"label": tf.constant(labels, tf.int32), "guidance": tf.constant([3.0, 3.0])}
    drawn = served["ddim_4"](seed=tf.constant(seeds), **rows)["image"].numpy().astype(int)
    np.testing.assert_allclose(drawn, images, atol=1)
    sigmas = inside.chain.levels.relative_sigma
    t = tf.constant([int(np.argmin(np.abs(sigmas - 1.0))), len(sigmas) - 1])
    asked = served["denoise"](x_t=x, t=t, **rows)["x_0"].numpy()
    whole = run.bound_denoiser(tf.constant(labels), tf.constant([3.0, 1.0]))(x, run.chain.levels.at(t, x)).x_0
    np.testing.assert_allclose(asked, whole, rtol=1e-3, atol=1e-3)


def test_the_weight_of_the_null_class_is_not_taken_for_that_of_a_guide(of_classes):
    saved = config_lib.with_values(configuration.read(of_classes), {"sample.guidance": 2.0})
    with pytest.raises(UserError, match=r"the run's own guidance, 2, is of its null class; .* --guidance=W"):
        configuration.used(saved, [], {"guide": "10"})
    assert configuration.used(saved, [], {"guide": "10", "guidance": 2.0}).sample.guidance == 2.0


def test_a_setting_that_is_none_is_unset_when_a_run_is_loaded(of_classes, tmp_path):
    path = tmp_path / "few"
    shutil.copytree(of_classes, path)
    saved = config_lib.with_values(configuration.read(path), {"sample.sampler": "ddim", "sample.steps": 5})
    (path / "config.json").write_text(config_lib.to_json(saved))
    assert load_run(path).config.sample.steps == 5
    assert load_run(path, steps=None).config.sample.steps is None


def test_a_guide_whose_labels_mean_something_else_is_refused(of_classes, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(of_classes, other)
    for folder, names in ((of_classes, "abcdefghij"), (other, "bacdefghij")):
        known = json.loads((folder / "data.json").read_text())
        (folder / "data.json").write_text(json.dumps(known | {"labels": list(names)}))
    with pytest.raises(UserError, match="its labels have other names than this run's"):
        load_run(of_classes, guide=str(other), guidance=2.0)


def test_what_does_not_fit_a_guide_is_named():
    images = {"data__image_size": (8, 8), "data__channels": 1}
    plain, classes = make_tiny_config(**images), make_tiny_config(model__classes=10, **images)
    config = make_tiny_config(model__classes=10, model__null_class=True, train__label_dropout=0.1, **images)
    guides.check(config, plain, "a run without classes")
    with pytest.raises(UserError, match="expected 10 classes and the null class"):
        guides.check(config, classes, "G")
    with pytest.raises(UserError, match="knows other labels"):
        guides.check(plain, config, "G")
    student = config_lib.with_values(plain, {"distill.method": "consistency"})
    for pair in ((plain, student), (student, plain)):
        with pytest.raises(UserError, match="is a consistency student, which says where a path ends"):
            guides.check(*pair, "G")
    halved = config_lib.with_values(plain, {"distill.method": "progressive", "distill.steps": 4})
    with pytest.raises(UserError, match="knows the levels of its own 4 steps alone; expected a network"):
        guides.check(plain, halved, "G")
    guides.check(halved, plain, "a network that knows more levels")
    sharper = config_lib.with_values(plain, {"distill.guidance": 2.0})
    with pytest.raises(UserError, match="draws with its teacher's guidance, 2, and no worse network"):
        guides.check(plain, sharper, "G")
    short = make_tiny_config(diffusion__schedule="ve", diffusion__sigma_max=5.0, diffusion__prediction="v", **images)
    with pytest.raises(
        UserError, match=r"goes from sigma/alpha 0\.01 to 5, and is asked from 0\.0898 to 80; .*interval=0"
    ):
        guides.check(plain, short, "G")
    guides.check(config_lib.with_values(plain, {"sample.guidance_max": 5.0}), short, "G")
    # Of v the image is bounded beyond the guide's levels, of eps it is not.
    beyond = make_tiny_config(diffusion__schedule="ve", diffusion__sigma_max=500.0, **images)
    for prediction, refused in (("v", False), ("eps", True)):
        usual = make_tiny_config(
            diffusion__schedule="ve", diffusion__sigma_max=100.0, diffusion__prediction=prediction, **images
        )
        with pytest.raises(UserError, match="is asked from") if refused else contextlib.nullcontext():
            guides.check(beyond, usual, "G")


def test_the_paths_of_a_guide_stay_on_the_machine():
    config = config_lib.with_values(config_lib.Config(), {"sample.guide": "/runs/guide"})
    assert "/runs" not in config_lib.to_json(config_lib.portable(config))
    early = config_lib.with_values(config_lib.Config(), {"sample.guide": "600"})
    assert config_lib.portable(early).sample.guide == "600"
    assert "guide" not in config_lib.to_json(config_lib.Config())


def test_both_networks_stand_in_one_export_and_each_row_has_its_own_weight(run_dir, tmp_path):
    from export import saved_model

    run = load_run(run_dir, guide="10", guidance=2.0, guidance_min=0.1, guidance_max=50.0)
    version = saved_model.export_run(run, tmp_path, plans.parse("dpmpp-4,ddim-3", run.config))
    served = tf.saved_model.load(str(version)).signatures
    seeds, weights = tf.constant([5, 6, 7], tf.int64), tf.constant([2.0, 1.0, 0.0])
    images = served["dpmpp_4"](seed=seeds, guidance=weights)["image"].numpy().astype(int)
    settings = {"sampler": "dpmpp", "steps": 4}
    live = run.sample([5, 6, 7], **settings)
    np.testing.assert_allclose(images[:1], live[:1], atol=1)
    plain = load_run(run_dir).sample([5, 6, 7], **settings)
    np.testing.assert_allclose(images[1:2], plain[1:2], atol=1)
    np.testing.assert_allclose(images[2:], run.sample([7], guidance=0.0, **settings), atol=1)
    for row in range(3):
        alone = served["dpmpp_4"](seed=seeds[row : row + 1], guidance=weights[row : row + 1])["image"].numpy()
        np.testing.assert_allclose(alone.astype(int), images[row : row + 1], atol=1)
    assert np.abs(images[2:] - plain[2:]).max() > 1
    x_t, t = tf.random.stateless_normal([2, 8, 8, 1], [0, 0]), tf.constant([3, 6])
    known = served["denoise"](x_t=x_t, t=t, guidance=tf.constant([1.0, 2.0]))
    level = run.chain.levels.at(t, x_t)
    denoiser = run.bound_denoiser(None, tf.constant([1.0, 2.0]))
    np.testing.assert_allclose(known["x_0"], denoiser(x_t, level).x_0, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(known["eps"], denoiser.eps(x_t, level), rtol=1e-3, atol=1e-3)
    info = json.loads((version / "assets.extra" / "model_info.json").read_text())
    assert info["guided"] and info["guide"]["checkpoint_step"] == 10


def test_the_figure_of_guidance_is_drawn_of_a_run_without_classes_that_has_a_guide(run_dir, tmp_path, monkeypatch):
    words, sheet = {}, plots.sheet
    monkeypatch.setattr(plots, "sheet", lambda images, **named: words.update(named) or sheet(images, **named))
    run = load_run(run_dir, guide="10", guidance=2.0, sampler="ddim", steps=3)
    (path,) = catalogue.draw("guidance", FigureContext(run, tmp_path))
    assert Image.open(path).size[0] > 100
    assert len(words["rows"]) == 4 and not words["columns"]  # numbers above digits would read as their classes


def test_the_configuration_says_where_there_is_guidance():
    assert build.guidance_interval(SampleConfig()).whole
    narrowed = dataclasses.replace(SampleConfig(), guidance_min=0.28, guidance_max=2.9)
    assert build.guidance_interval(narrowed) == Interval(0.28, 2.9)


def test_a_receipt_names_the_guide_and_says_nothing_of_what_is_not_used(run_dir):
    settings = {"guidance": 2.0, "guidance_min": 0.3}
    run = load_run(run_dir, guide="10", **settings)
    facts = facts_of(run, run.config.sample)
    assert facts["guide"]["checkpoint_step"] == 10 and facts["guidance_min"] == 0.3
    assert "guidance_max" not in facts and "churn" not in facts and facts["sampler"] == "ddpm"
    plain = load_run(run_dir)
    assert "guide" not in facts_of(plain, plain.config.sample)
    assert len(run.networks) == 2 and len(run.all_weights) == 2 * len(plain.all_weights)
