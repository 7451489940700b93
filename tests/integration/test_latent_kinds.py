"""Autoencoders with a codebook and tiny ones, from pictures to SavedModel, and what is measured and shown of them."""

import dataclasses
import functools
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from export import saved_model
from tests.support.projection import Projection, take_its_place
from tests.support.served import grey
from tests.support.tiny import make_tiny_autoencoder, make_tiny_latent
from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.commands import checks
from tf_ddpm.commands.evaluate import _own_split
from tf_ddpm.datasets.pictures import Reader
from tf_ddpm.diffusers_format import folders, reading
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate, feature_metrics, likelihood, reconstruction
from tf_ddpm.evaluation.reconstruction import ReconstructionSource
from tf_ddpm.report import page
from tf_ddpm.runs import configuration, latents
from tf_ddpm.sampling import first_stage, generate
from tf_ddpm.sampling.run import load_run
from tf_ddpm.sampling.source import RunSource
from tf_ddpm.training import encoded, loop

KINDS = {
    "vq": {"autoencoder__kind": "vq", "autoencoder__codes": 16},
    "tiny": {"autoencoder__kind": "tiny", "autoencoder__groups": 8},
}
of_every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Kind -> a folder of two runs: `autoencoder` of pictures, a quarter of them held out, and `latent` of 4x4x3."""

    @functools.cache
    def made(kind):
        folder = tmp_path_factory.mktemp(kind)
        (folder / "pictures").mkdir()
        for i, image in enumerate(datasets.load(config_lib.Config().data).images[:80]):
            Image.fromarray(image[..., 0]).save(folder / "pictures" / f"{i}.png")
        data = {"data__name": "folder", "data__path": str(folder / "pictures"), "data__image_size": (8, 8)}
        data |= {"data__channels": 1, "data__holdout": 0.25, "data__cache_dir": str(folder / "cache")}
        loop.run(make_tiny_autoencoder(**KINDS[kind], **data), folder / "autoencoder")
        loop.run(make_tiny_latent(folder, sample__sampler="dpmpp"), folder / "latent")
        return folder

    return made


@of_every_kind
def test_latents_without_a_distribution_keep_their_place_and_have_a_size_of_1(folder_of, kind):
    folder = folder_of(kind)
    scale = latents.read(folder / "autoencoder")
    assert set(scale.shift) == {0.0} and len(set(scale.scale)) == 1 and len(scale.scale) == 3
    found = first_stage.open_first_stage(folder / "autoencoder")
    x = found.codec.encode(tf.constant(datasets.load(found.config.data).images)).numpy()
    assert scale.images == len(x) and np.sqrt(np.mean(np.square(x))) == pytest.approx(1.0, abs=1e-4)


@of_every_kind
def test_a_run_of_their_latents_draws_with_the_solver_of_the_presets(folder_of, kind):
    run = load_run(folder_of(kind) / "latent")
    assert run.config.sample.sampler == "dpmpp" and run.state_shape == (4, 4, 3)
    images = run.sample(range(3))
    assert images.shape == (3, 8, 8, 1) and grey(run.sample(range(1, 2))[0], images[1]) <= 1
    assert (images[0] != images[1]).any()


@pytest.mark.usefixtures("graphs_as_they_are")
def test_a_codebook_is_served_and_a_row_alone_has_the_codes_of_the_row_among_others(folder_of, tmp_path):
    found = first_stage.open_first_stage(folder_of("vq") / "autoencoder")
    version = saved_model.export_first_stage(found, tmp_path / "ddpm", 4)
    signatures = tf.saved_model.load(str(version)).signatures
    encode = lambda images: signatures["encode_image"](image=tf.constant(images))["latent"].numpy()  # noqa: E731
    decode = lambda x: signatures["decode_latent"](latent=tf.constant(x))["image_float"].numpy()  # noqa: E731
    images = datasets.load(found.config.data).images[:4]
    there = encode(images)
    np.testing.assert_allclose(there, found.codec.encode(tf.constant(images)), atol=1e-4)
    back, network = decode(there), found.network
    known = network.decode_codes(network.quantised(there / np.float32(found.scale.scale)))
    np.testing.assert_allclose(back, np.clip(known, -1, 1), atol=1e-4)
    for i in range(4):
        np.testing.assert_allclose(encode(images[i : i + 1])[0], there[i], atol=1e-4)
        np.testing.assert_allclose(decode(there[i : i + 1])[0], back[i], atol=1e-4)  # (another code is far away)


def test_a_scale_that_a_codebook_never_had_is_told_and_can_be_taken_away(folder_of, tmp_path):
    """As diffusers saves a model again whose own file names none."""
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    folders.export_first_stage(first_stage.open_first_stage(folder_of("vq") / "autoencoder"), alone)
    folders.export_run(load_run(folder_of("vq") / "latent"), whole)
    for folder, file in ((alone, alone / "config.json"), (whole, whole / "vqvae" / "config.json")):
        words = json.loads(file.read_text())
        config = reading.read_config(folder)
        assert not any("scaling_factor" in note for note in reading.notes(folder, config))
        file.write_text(json.dumps(words | {"scaling_factor": 0.18215}))
        assert sum("--scaling_factor=1" in note for note in reading.notes(folder, config)) == 1
        assert not any("scaling_factor" in note for note in reading.notes(folder, config, 1.0))
    known = folders.import_run(whole, reading.read_config(whole), tmp_path / "as it says")
    assert set(load_run(known).first_stage.scale.scale) == {0.18215}
    without = folders.import_run(whole, reading.read_config(whole), tmp_path / "without", 1.0)
    assert set(load_run(without).first_stage.scale.scale) == {1.0}
    without = folders.import_run(alone, reading.read_config(alone), tmp_path / "alone without", 1.0)
    assert set(first_stage.open_first_stage(without).scale.scale) == {1.0}
    with pytest.raises(UserError, match=r"scaling_factor=-1\.0: expected a number above 0"):
        folders.import_run(alone, reading.read_config(alone), tmp_path / "no", -1.0)
    pixels = Path(__file__).parents[2] / "pretrained" / "fashion_mnist"
    with pytest.raises(UserError, match=r"scaling_factor=1: .* has no autoencoder"):
        folders.import_run(pixels, reading.read_config(pixels), tmp_path / "no", 1.0)


def test_the_fid_of_what_comes_back_is_of_the_pictures_that_were_held_out(folder_of, tmp_path, monkeypatch):
    take_its_place(monkeypatch.setattr)
    run_dir = folder_of("tiny") / "autoencoder"
    config = configuration.read(run_dir)
    wanted = evaluate.EvaluationRequest(("fid",), reference=_own_split(config), allow_few=True)
    path = evaluate.evaluate(wanted, config, str(run_dir), tmp_path / "metrics.json")
    fid = json.loads(path.read_text())["fid"]
    images = datasets.load(datasets.unseen(config.data)).images
    found = first_stage.open_first_stage(run_dir)
    again = found.codec.decode(found.codec.encode(tf.constant(images))).numpy()
    sets = [feature_metrics.moments(Projection()(np.repeat(part, 3, axis=-1)).numpy()) for part in (again, images)]
    assert fid["value"] == pytest.approx(feature_metrics.frechet_distance(*sets), rel=1e-4)
    generated, real = fid["receipt"]["generated"], fid["receipt"]["reference"]
    assert len(images) == generated["images"] == real["images"] < 40
    assert real["split"] == generated["pictures"]["split"] == "holdout"
    assert generated["weights_sha256"] == found.sha256


@pytest.mark.parametrize(
    ("changes", "split"),
    [({}, "holdout"), ({"data.holdout": 0.0}, "train"), ({"data.split": "test"}, "test")],
)
def test_an_autoencoder_is_measured_on_what_it_has_not_seen_if_anything_is_held_out(changes, split):
    values = {"data.name": "folder", "data.path": ".", "data.image_size": (8, 8), "data.holdout": 0.1} | changes
    config = config_lib.with_values(make_tiny_autoencoder(), values)
    assert _own_split(config) == split
    denoises = config_lib.with_values(config, {"autoencoder.kind": "none"})
    assert _own_split(denoises) == denoises.data.split


@of_every_kind
def test_the_report_of_an_autoencoder_shows_what_comes_back_and_all_that_it_logs(folder_of, kind):
    run_dir = folder_of(kind) / "autoencoder"
    found = first_stage.open_first_stage(run_dir)
    real = datasets.load(found.config.data).images[:5]
    text = page.write_first_stage_report(found, run_dir, real).read_text(encoding="utf-8")
    body = text[text.index("<body>") :]
    own = {"vq": "commitment", "tiny": "latent size"}[kind]
    for words in (f'"text":"{own}"', '"text":"multiscale l1"', "4 × 4 × 3", "5 pictures, each beside what comes back"):
        assert words in body, words


def test_the_report_of_a_run_of_latents_says_what_they_are(folder_of):
    run_dir = folder_of("tiny") / "latent"
    body = page.write_report(load_run(run_dir), run_dir).read_text(encoding="utf-8")
    assert "4 × 4 × 3" in body and "8 × 8 × 1" in body and "64 images, dpmpp in 3 steps" in body


def test_kept_latents_of_a_folder_need_no_decoded_picture(folder_of, tmp_path, monkeypatch):
    pictures = shutil.copytree(folder_of("vq") / "pictures", tmp_path / "pictures")
    data = configuration.read(folder_of("vq") / "autoencoder").data
    data = dataclasses.replace(data, path=str(pictures), cache_dir=str(tmp_path / "cache"))
    codec = first_stage.open_first_stage(folder_of("vq") / "autoencoder").codec
    found = encoded.latents(codec, datasets.load(data), data)
    (kept,) = (tmp_path / "cache").glob("pictures-*")
    shutil.rmtree(kept)
    monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("decoded"))
    np.testing.assert_array_equal(encoded.latents(codec, datasets.load(data), data), found)


def test_a_drawing_that_was_stopped_is_not_gone_on_with_by_latents_of_another_scale(folder_of):
    first, second = (load_run(folder_of("vq") / "latent") for _ in range(2))
    named = lambda run: generate._work(RunSource(run, run.config.sample), {}, "png")  # noqa: E731
    name = named(first)
    assert name == named(second)
    second.codec.scale = tuple(2 * one for one in second.codec.scale)
    assert named(second) != name


def test_pictures_that_stand_in_for_damaged_ones_are_not_measured_or_counted(folder_of, tmp_path):
    pictures = shutil.copytree(folder_of("vq") / "pictures", tmp_path / "pictures")
    changes = {"path": str(pictures), "cache_dir": str(tmp_path / "cache"), "holdout": 0.0}
    data = dataclasses.replace(configuration.read(folder_of("vq") / "autoencoder").data, **changes)
    (pictures / "7.png").write_bytes((pictures / "7.png").read_bytes()[:60])
    run = types.SimpleNamespace(config=dataclasses.replace(config_lib.Config(), data=data))
    chosen = likelihood.chosen_images(run, 80, 0)
    assert len(chosen) == len(chosen.images) == len(chosen.labels) == 79
    source = ReconstructionSource(first_stage.open_first_stage(folder_of("vq") / "autoencoder"), data)
    receipt = reconstruction.measure(source, np.arange(160))["psnr"]["receipt"]["generated"]
    assert receipt["replaced_by_others"] == 2 and receipt["weights"] == "ema"


def test_the_weights_of_an_autoencoder_are_not_chosen(folder_of, monkeypatch):
    config = configuration.read(folder_of("vq") / "autoencoder")
    monkeypatch.setattr(checks, "FLAGS", types.SimpleNamespace(mode="eval"))
    monkeypatch.setattr(checks, "given", lambda names: [name for name in names if name == "weights"])
    with pytest.raises(UserError, match="--weights has no effect here: the scale"):
        checks.check_idle(config)
    (words,) = config_lib.warnings(config_lib.with_values(config, {"train.remat": True}))
    assert words.startswith("train.remat=true has no effect")
