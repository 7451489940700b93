"""Figures: each is drawn from a tiny run, and what it shows is what it says."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_ddpm import build, datasets
from tf_ddpm import config as config_lib
from tf_ddpm.diffusion import samplers
from tf_ddpm.errors import UserError
from tf_ddpm.figures import FIGURES, catalogue, experiments, lossy_coding, sweeps
from tf_ddpm.figures.catalogue import FigureContext
from tf_ddpm.sampling.run import Run, load_run


@pytest.fixture(scope="module")
def run(run_dir):
    return load_run(run_dir)


@pytest.fixture(scope="module")
def real(run, run_dir):
    return FigureContext(run, run_dir).some(4)


@pytest.fixture
def with_classes(tiny_config):
    """A run of a random network with classes."""
    words = {"data__name": "digits", "data__image_size": (8, 8), "data__channels": 1}
    config = tiny_config(**words, model__classes=10, model__null_class=True)
    tf.keras.utils.set_random_seed(0)
    network = build.network(config, "float32")
    for weight in network.weights:  # a fresh network's blocks change nothing
        weight.assign(weight + 0.1 * tf.random.stateless_normal(weight.shape, [0, 1]))
    return Run(config, network, 0)


LACKING = ("sweep", "guidance", "cascade", "reconstruction", "latent", "steps")  # of an unconditional run of pixels


def test_the_catalogue_has_every_figure():
    assert list(catalogue.FIGURES) == list(FIGURES)


def test_every_figure_is_drawn_from_a_run_and_what_it_lacks_is_said(run, run_dir, tmp_path, capsys):
    paths = catalogue.draw("all", FigureContext(run, tmp_path, num_images=4))
    assert [path.stem for path in paths] == [name for name in FIGURES if name not in LACKING]
    for path in paths:
        width, height = Image.open(path).size
        assert 300 <= width <= 1500 and 250 <= height <= 1500, path
        assert np.std(Image.open(path).convert("L")) > 5
    said = capsys.readouterr().out
    assert "sweep: there is no" in said and "measure a sweep over sampling_steps" in said and "guidance: " in said
    with pytest.raises(UserError, match="null class"):
        catalogue.draw("guidance", FigureContext(run, tmp_path))
    assert not (tmp_path / "figures" / "guidance.png").exists()


def test_a_sweep_is_drawn_from_what_was_measured(run, tmp_path):
    fractions = {str(sigma): {"kid": {"value": sigma}} for sigma in (0.3, 0.8)}
    (tmp_path / "sweep_sigma.json").write_text(json.dumps(fractions))
    assert sweeps.draw(tmp_path / "sweep_sigma.json").exists()
    rows = {str(steps): {"fid": {"value": 100.0 / steps}, "kid": {"value": 0.1}} for steps in (10, 20, 50)}
    (tmp_path / "sweep_sampling_steps.json").write_text(json.dumps(rows))
    (path,) = catalogue.draw("sweep", FigureContext(run, tmp_path), tmp_path / "curve.png")
    assert path == tmp_path / "curve.png" and Image.open(path).size[0] > 500
    for wrong in ("[", "[]", '{"10": 3}', "{}"):
        (tmp_path / "sweep_sampling_steps.json").write_text(wrong)
        with pytest.raises(UserError, match="cannot read"):
            catalogue.draw("sweep", FigureContext(run, tmp_path))


def test_guidance_shows_each_class_by_each_weight(with_classes, tmp_path):
    (path,) = catalogue.draw("guidance", FigureContext(with_classes, tmp_path))
    assert path.exists()
    drawn = experiments.guided(with_classes, (0.0, 1.0, 3.0), 6, seed=5)
    assert drawn.shape == (3, 6, 8, 8, 1)
    np.testing.assert_array_equal(drawn[1, 4], with_classes.sample([9], label=4)[0])
    assert (drawn[0] != drawn[1]).any() and (drawn[1] != drawn[2]).any()


def test_a_run_with_classes_has_the_other_figures_too(with_classes, tmp_path):
    for name in ("shared_prefix", "variation", "inpainting", "interpolation", "progressive"):
        assert catalogue.draw(name, FigureContext(with_classes, tmp_path))[0].exists()


def test_samples_that_share_the_last_but_one_step_are_one_image_and_others_are_not(run):
    drawn = experiments.sharing(run, [19, 10, 0], 3, seed=0)
    spread = np.std(drawn.astype(float), axis=1).mean(axis=(1, 2, 3))
    assert spread[0] > spread[1] > 1.0
    assert (drawn[2] == drawn[2, :1]).all()  # the last step adds no noise


def test_the_batch_size_changes_no_figure(run, real):
    few = Run(config_lib.with_values(run.config, {"sample.batch_size": 5}), run.network, run.checkpoint_step)
    for make in (
        lambda run: experiments.sharing(run, [19, 10, 0], 3, seed=0),
        lambda run: experiments.variations(run, real.images, real.labels, [0, 10, 19], seed=0),
    ):
        assert np.abs(make(run).astype(int) - make(few)).max() <= 1


def test_variations_from_little_noise_are_near_the_image_and_from_all_of_it_are_samples(run, real):
    drawn = experiments.variations(run, real.images, real.labels, [0, 10, 19], seed=0)
    apart = np.abs(drawn.astype(float) - real.images[:, None]).mean(axis=(0, 2, 3, 4))
    assert apart[0] < 0.5 * apart[1] and apart[1] < apart[2]


@pytest.mark.parametrize("classes", [False, True])
def test_the_ends_of_an_interpolation_are_the_decoded_images(run, with_classes, real, classes):
    run, labels = (with_classes, np.array([3, 7])) if classes else (run, real.labels[::2])
    ways = experiments.interpolations(run, real.images, labels, 5)
    assert ways.shape == (2, 5, 8, 8, 1)
    steps = run.chain  # of 20 steps: the figure takes all of them
    denoiser = run.bound_denoiser(tf.constant(np.repeat(labels, 2), tf.int32))
    latents = samplers.ddim_inversion(steps, denoiser, run.codec.encode(tf.constant(real.images)))
    decoded, _ = samplers.sample_loop(samplers.DDIM(steps, clip="none"), denoiser, latents, lambda _: 0.0)
    decoded = run.codec.decode(decoded).numpy().astype(int)
    assert np.abs(ways[:, 0].astype(int) - decoded[::2]).max() <= 1
    assert np.abs(ways[:, -1].astype(int) - decoded[1::2]).max() <= 1


def test_samples_are_as_many_as_asked_for_and_the_rest_of_the_sheet_is_blank(run, tmp_path):
    sizes = [Image.open(catalogue.draw("samples", FigureContext(run, tmp_path, n))[0]).size for n in (4, 5, 6)]
    assert sizes[0] != sizes[1] == sizes[2]


def test_an_interpolation_of_fewer_images_than_the_sheet_holds(run, tmp_path):
    few = datasets.load(run.config.data)
    few = dataclasses.replace(few, images=few.images[:5], labels=few.labels[:5])
    subject = FigureContext(run, tmp_path)
    subject.__dict__["images"] = few
    assert catalogue.draw("interpolation", subject)[0].exists()


def test_a_great_circle_keeps_the_length_and_its_ends():
    a, b = (np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32) for seed in (0, 1))
    a, b = 3.0 * a / np.linalg.norm(a), 3.0 * b / np.linalg.norm(b)
    way = experiments.great_circle(a, b, 7)
    np.testing.assert_array_equal(way[0], a)
    np.testing.assert_array_equal(way[-1], b)
    np.testing.assert_allclose(np.linalg.norm(way.reshape(7, -1), axis=1), 3.0, rtol=1e-6)
    steps = [np.sum(way[i] * way[i + 1]) for i in range(6)]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)  # equal angles
    np.testing.assert_allclose(experiments.great_circle(a, 2.0 * a, 3)[1], 1.5 * a, rtol=1e-6)


def test_inpainting_leaves_the_kept_pixels_unchanged(run, real):
    keep = np.ones([8, 8])
    keep[4:] = 0
    drawn = experiments.inpainted(run, real.images, real.labels, keep, 2, seed=0)
    np.testing.assert_array_equal(drawn[:, :4], real.images[:, :4])
    assert (drawn[:, 4:] != real.images[:, 4:]).mean() > 0.3


def test_noise_grows_along_the_forward_chain_and_is_that_of_q(run, real):
    drawn = experiments.noised(run, real.images, [0, 5, 10, 19], seed=3)
    apart = np.abs(drawn.astype(float) - real.images[:, None]).mean(axis=(0, 2, 3, 4))
    assert (np.diff(apart) > 0).all()
    eps = experiments._noise(tf.range(3, 7, dtype=tf.int64), 0, (8, 8, 1))
    x_0 = run.codec.encode(tf.constant(real.images))
    x_t = run.chain.levels.at(tf.constant(10), x_0).noised(x_0, eps)
    np.testing.assert_array_equal(drawn[:, 2], run.codec.decode(x_t))


def test_coding_sends_more_bits_for_less_distortion(run, run_dir):
    bits = FigureContext(run, run_dir, num_images=64).bits
    rates, distortions = lossy_coding.rate_and_distortion(bits)
    assert len(rates) == len(distortions) == 20
    assert (np.diff(rates) >= 0).all() and (np.diff(distortions) <= 0.02 * distortions[:-1]).all()
    assert rates[-1] + bits["terms"]["L_0"] == pytest.approx(bits["value"], rel=1e-6)
    assert 0 < distortions[-1] < distortions[0] / 4


def test_a_folder_that_cannot_be_written_is_named(run, run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / "figures").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*figures"):
        catalogue.draw("schedules", FigureContext(run, copy))


@pytest.mark.parametrize("count", [1, 3])
def test_all_figures_of_a_small_set_are_those_that_it_can_give(run, tmp_path, monkeypatch, count, capsys):
    few = datasets.load(run.config.data)
    few = datasets.ImageSet(few.images[:count], few.labels[:count], few.label_names)
    monkeypatch.setattr(catalogue.datasets, "load", lambda data: few)
    paths = {path.stem for path in catalogue.draw("all", FigureContext(run, tmp_path))}
    said = capsys.readouterr().out
    assert all(name in paths or f"{name}: " in said for name in FIGURES)
    assert {"schedules", "samples", "progressive"} <= paths
