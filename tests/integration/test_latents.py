"""Autoencoders trained, and runs that diffuse their latents, from data to SavedModel."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from export import check, saved_model
from export.signatures import ServingModule
from tests.support.served import Served, decoded, grey
from tests.support.tiny import make_tiny_autoencoder, make_tiny_config, make_tiny_latent, mirrored
from tf_ddpm import build, datasets
from tf_ddpm import config as config_lib
from tf_ddpm.codecs.latents import Latents
from tf_ddpm.config import DataConfig, plans, students
from tf_ddpm.datasets import lazy_folder
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.diffusers_format import autoencoder_words, folders, reading
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate
from tf_ddpm.figures import catalogue
from tf_ddpm.figures.catalogue import FigureContext
from tf_ddpm.runs import configuration, latents, pipelines
from tf_ddpm.sampling import first_stage
from tf_ddpm.sampling import teacher as teachers
from tf_ddpm.sampling.pipeline import open_pipeline
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import autoencoding, encoded, loop
from tf_ddpm.training.optimizers import make_optimizer
from tf_ddpm.training.state import TrainState
from tf_ddpm.training.update import make_update


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs on digits: `autoencoder`, and `latent` of 4x4x3."""
    folder = tmp_path_factory.mktemp("latents")
    loop.run(make_tiny_autoencoder(), folder / "autoencoder")
    loop.run(make_tiny_latent(folder), folder / "latent")
    return folder


def state_of(config, strategy):
    with strategy.scope():
        tf.keras.utils.set_random_seed(0)
        make, optimizer = lambda: build.trained_network(config), make_optimizer(config.train)
        if config.autoencoder.trained:
            return TrainState(make, optimizer, further=autoencoding.further_metrics(config.autoencoder))
        return TrainState(make, optimizer, build.level_sampler(config))


def updated(config, devices, updates=3, codec=None, rows=None):
    """The weights after some updates on so many logical devices, and the metrics' means."""
    strategy = mirrored(devices)
    state, images = state_of(config, strategy), datasets.load(config.data)
    update = make_update(state, config, strategy, codec=codec)
    train = config.train
    batches = strategy.distribute_datasets_from_function(
        lambda context: batch_dataset(
            images,
            train.batch_size,
            train.seed,
            0,
            config.data.random_flip,
            context.num_replicas_in_sync,
            encoded=rows,
        )
    )
    batches = iter(batches)
    for _ in range(updates):
        update(next(batches))
    return tf.convert_to_tensor(state.weights).numpy(), state.take_means()


SHAPE = {"data__image_size": (8, 8), "data__channels": 1}
ONE_LEVEL = {"autoencoder__widths": (8,), "autoencoder__middle_attention": False}  # enough, and compiled faster
KINDS = {
    "kl": {},
    "kl, judged": {"autoencoder__adversarial": 0.5, "autoencoder__adversarial_channels": 8},
    "vq": {"autoencoder__kind": "vq", "autoencoder__codes": 16},
    "tiny": {"autoencoder__kind": "tiny", "autoencoder__groups": 8},  # as the default, which says nothing of it
}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(KINDS["kl"], id="kl", marks=pytest.mark.slow),
        pytest.param(KINDS["kl, judged"], id="kl, judged", marks=pytest.mark.slow),
        pytest.param(KINDS["kl, judged"] | ONE_LEVEL, id="kl, judged, of one level"),
        pytest.param(KINDS["vq"] | ONE_LEVEL, id="vq"),
        pytest.param(KINDS["tiny"], id="tiny"),
    ],
)
def test_an_update_of_an_autoencoder_is_the_same_on_two_devices_and_in_parts(changes):
    config = make_tiny_autoencoder(train__optimizer="sgd", **changes, **SHAPE)
    alone, means = updated(config, 1)
    shared, same = updated(config, 2)
    in_parts, _ = updated(config_lib.with_values(config, {"train.accumulate": 2}), 1)
    scale = np.abs(alone).max()
    np.testing.assert_allclose(shared, alone, atol=1e-5 * scale)
    np.testing.assert_allclose(in_parts, alone, atol=1e-5 * scale)
    assert set(means) == {"loss", "gradient_norm", *autoencoding.further_metrics(config.autoencoder)}
    for name, value in means.items():
        assert np.isclose(same[name], value, rtol=1e-3, atol=1e-5) and np.isfinite(value)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(KINDS["kl, judged"], id="kl, judged", marks=pytest.mark.slow),
        pytest.param(KINDS["vq"] | ONE_LEVEL, id="vq"),
    ],
)
def test_an_update_of_an_autoencoder_that_xla_compiles_whole_is_the_same(changes):
    config = make_tiny_autoencoder(train__optimizer="sgd", **changes, **SHAPE)
    plain, _ = updated(config, 1, updates=1)
    compiled, _ = updated(config_lib.with_values(config, {"train.jit": "step"}), 1, updates=1)
    np.testing.assert_allclose(compiled, plain, atol=1e-5 * np.abs(plain).max())


def test_the_loss_is_the_weighted_sum_of_what_is_logged():
    config = make_tiny_autoencoder(autoencoder__kl_weight=0.01, autoencoder__multiscale=0.5, **SHAPE)
    _, means = updated(config, 1, updates=1)
    expected = means["l1"] + 0.5 * means["multiscale_l1"] + 0.01 * means["kl"]
    assert np.isclose(means["loss"], expected, rtol=1e-5)


def test_the_network_that_judges_changes_nothing_before_its_start_and_something_after():
    plain, _ = updated(make_tiny_autoencoder(**ONE_LEVEL, **SHAPE), 1)
    judged = KINDS["kl, judged"] | ONE_LEVEL | SHAPE
    late, _ = updated(make_tiny_autoencoder(autoencoder__adversarial_start=100, **judged), 1)
    early, _ = updated(make_tiny_autoencoder(**judged), 1)
    own = len(plain)
    np.testing.assert_allclose(late[:own], plain, rtol=1e-5, atol=1e-7)
    first = state_of(make_tiny_autoencoder(**judged), mirrored(1)).weights.numpy()
    np.testing.assert_array_equal(late[own:], first[own:])
    assert np.abs(early[:own] - plain).max() > 1e-5 and np.abs(early[own:] - first[own:]).max() > 1e-5


def test_a_trained_autoencoder_keeps_the_scale_of_its_latents(folder):
    scale = latents.read(folder / "autoencoder")
    assert scale.images == 1797 and scale.checkpoint_step == 8
    found = first_stage.open_first_stage(folder / "autoencoder")
    images = datasets.load(found.config.data).images
    x = found.codec.encode(tf.constant(images)).numpy()
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0.0, atol=1e-3)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1.0, atol=1e-3)


def test_a_finished_run_without_its_scale_has_it_again_from_the_same_command(folder, tmp_path):
    shutil.copytree(folder / "autoencoder", tmp_path / "run")
    before = (tmp_path / "run" / latents.FILE).read_text()
    (tmp_path / "run" / latents.FILE).unlink()
    with pytest.raises(UserError, match=r"has no latents\.json, which the end of its training writes"):
        first_stage.open_first_stage(tmp_path / "run")
    loop.run(make_tiny_autoencoder(), tmp_path / "run")
    assert (tmp_path / "run" / latents.FILE).read_text() == before


def test_a_scale_of_other_weights_than_the_checkpoints_is_refused_until_the_training_ends(folder, tmp_path):
    shutil.copytree(folder / "autoencoder", tmp_path / "run")
    latents.write(tmp_path / "run", dataclasses.replace(latents.read(tmp_path / "run"), checkpoint_step=4))
    with pytest.raises(UserError, match=r"latents\.json is of step 4, and the weights are of step 8: train the run"):
        first_stage.open_first_stage(tmp_path / "run")
    loop.run(make_tiny_autoencoder(), tmp_path / "run")
    assert first_stage.open_first_stage(tmp_path / "run").scale.checkpoint_step == 8


def test_a_run_of_latents_has_its_own_copy_of_the_autoencoder_and_needs_no_other(folder, tmp_path):
    shutil.copytree(folder / "latent", tmp_path / "moved")
    run = load_run(tmp_path / "moved")
    assert run.state_shape == (4, 4, 3) and run.image_shape == (8, 8, 1)
    np.testing.assert_array_equal(run.sample(range(3)), load_run(folder / "latent").sample(range(3)))
    config = make_tiny_latent(tmp_path / "nowhere", train__steps=10)
    saved = configuration.read(tmp_path / "moved")
    wanted = config_lib.with_values(saved, {"train.steps": config.train.steps})
    state = loop.run(wanted, tmp_path / "moved")
    assert state.updates == 10


def test_the_copy_is_the_autoencoder_to_the_last_bit(folder):
    one, other = (first_stage.open_first_stage(folder / name) for name in ("autoencoder", "latent/autoencoder"))
    for mine, theirs in zip(one.network.weights, other.network.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (one.scale.shift, one.scale.scale, one.sha256) == (other.scale.shift, other.scale.scale, other.sha256)


def test_another_autoencoder_in_the_place_of_a_runs_own_is_refused(folder, tmp_path):
    loop.run(make_tiny_autoencoder(train__seed=1), tmp_path / "other")
    shutil.copytree(folder / "latent", tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "autoencoder")
    shutil.copytree(tmp_path / "other", tmp_path / "moved" / "autoencoder")
    refused = "is not the autoencoder whose latents this run diffuses"
    with pytest.raises(UserError, match=refused):
        load_run(tmp_path / "moved")
    for left in ("config.json", "checkpoints"):  # a copy that was left there is not taken for that of a new run
        path = tmp_path / "moved" / left
        path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(UserError, match=refused):
        loop.run(make_tiny_latent(folder), tmp_path / "moved")


def test_labels_guidance_and_students_go_with_latents(folder, tmp_path):
    of_class = {"model__classes": 10, "model__null_class": True, "train__label_dropout": 0.2}
    velocity = {"diffusion__prediction": "v", "train__learning_rate": 1e-2, "train__guide_at": (0.5,)}
    loop.run(make_tiny_latent(folder, **of_class, **velocity), tmp_path / "teacher")
    run = load_run(tmp_path / "teacher")
    images = [run.sample(range(2), label=3, **settings) for settings in ({}, {"guidance": 3.0})]
    assert images[0].shape == (2, 8, 8, 1) and (images[0] != images[1]).any()
    guided = load_run(tmp_path / "teacher", guide="4", guidance=3.0)
    assert (guided.sample(range(2), label=3) != images[0]).any()
    model = ServingModule(run, plans.parse("ddim-3", run.config), 8, 1e-3, 1)
    assert model.inputs["encode_image"] == ["image"] and model.inputs["decode_latent"] == ["latent"]
    assert model.inputs["serving_default"] == ["seed", "label", "guidance"]

    settings = ["train.steps=4", "distill.probe_images=16", "distill.guidance=2"]
    config = students.student_of(run.config, str(tmp_path / "teacher"), "consistency", settings)
    loop.run(config, tmp_path / "student")
    assert load_run(tmp_path / "student").sample(range(2), label=1).shape == (2, 8, 8, 1)
    other = config_lib.with_values(config, {"codec.sha256": "0" * 64})
    with pytest.raises(UserError, match="codec: a student has those of its teacher"):
        teachers.open_teacher(other, tmp_path / "nowhere")


def test_the_latents_are_those_of_the_average_whatever_weights_draw(folder):
    config = config_lib.with_values(configuration.read(folder / "autoencoder"), {"sample.weights": "raw"})
    assert (
        first_stage.open_first_stage(folder / "autoencoder", config).sha256
        == configuration.read(folder / "latent").codec.sha256
    )
    assert any("sample.weights has no effect" in line for line in config_lib.warnings(config))


def test_latents_that_are_kept_are_shown_and_removed_when_they_are_old(tmp_path):
    def shown(*flags):
        command = [sys.executable, "main.py", "--mode=cache", f"--set=data.cache_dir={tmp_path}", *flags]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for name, days in (("latents-new.npy", 0), ("latents-old.npy", 40)):
        (tmp_path / name).write_bytes(b"0" * 10)
        used = time.time() - days * 86_400
        os.utime(tmp_path / name, (used, used))
    assert "latents-new.npy" in shown() and "used 40.0 days ago" in shown()
    assert "removed latents-old.npy" in shown("--older_than=30")
    assert [path.name for path in tmp_path.iterdir()] == ["latents-new.npy"]


def test_what_a_killed_encoding_left_is_removed_by_the_next(folder, tmp_path):
    config = first_stage.describe(make_tiny_latent(folder, data__cache_dir=str(tmp_path), **SHAPE))
    left = tmp_path / ".partial-0123abcd-latents-x.npy"
    left.write_bytes(b"0")
    encoded.latents(first_stage.codec_of(config, folder / "latent"), datasets.load(config.data), config.data)
    assert not left.exists() and len(list(tmp_path.glob("latents-*.npy"))) == 1


def test_kept_latents_and_those_of_the_moment_give_the_same_update(folder):
    config = first_stage.describe(make_tiny_latent(folder, train__optimizer="sgd", **SHAPE))
    codec = first_stage.codec_of(config, folder / "latent")
    rows = encoded.latents(codec, datasets.load(config.data), config.data)
    assert rows.shape == (2, 1797, 4, 4, 3)
    kept, means = updated(config, 1, codec=codec, rows=rows)
    anew, same = updated(config, 1, codec=codec)
    np.testing.assert_allclose(kept, anew, atol=1e-6 * np.abs(anew).max())
    assert np.isclose(means["loss"], same["loss"], rtol=1e-5)
    shared, _ = updated(config, 2, codec=codec)
    np.testing.assert_allclose(shared, anew, atol=1e-5 * np.abs(anew).max())


def test_kept_latents_are_those_of_the_images_and_of_their_mirror_images_and_are_read_again(folder, monkeypatch):
    config = first_stage.describe(make_tiny_latent(folder, **SHAPE))
    codec, images = first_stage.codec_of(config, folder / "latent"), datasets.load(config.data)
    rows = encoded.latents(codec, images, config.data)
    for mirrored_, some in ((0, images.images[:5]), (1, images.images[:5, :, ::-1])):
        np.testing.assert_allclose(rows[mirrored_, :5], codec.encode(tf.constant(some)), atol=1e-5)
    monkeypatch.setattr(encoded, "_write", lambda *_: pytest.fail("encoded again"))
    np.testing.assert_array_equal(encoded.latents(codec, images, config.data), rows)


def test_latents_are_kept_under_another_name_where_anything_that_they_depend_on_is_another(folder, monkeypatch):
    config = first_stage.describe(make_tiny_latent(folder, **SHAPE))
    codec, images = first_stage.codec_of(config, folder / "latent"), datasets.load(config.data)
    asked = []
    monkeypatch.setattr(encoded, "_kept", lambda path, shape: asked.append(path.name) or np.zeros(shape))
    found = lambda *changed: encoded.latents(*changed) is not None and asked[-1]  # noqa: E731
    own = found(codec, images, config.data)
    other = build.autoencoder(first_stage.open_first_stage(folder / "autoencoder").config, "float32")
    scale = (*codec.scale[:-1], codec.scale[-1] * 1.01)
    changed = images.images.copy()
    changed[700, 3, 3] ^= 1  # one that the fingerprint of the set may pass over
    names = [
        found(Latents(other, codec.shift, codec.scale), images, config.data),
        found(Latents(codec.first_stage, codec.shift, scale), images, config.data),
        found(codec, datasets.ImageSet(changed, images.labels, images.label_names), config.data),
        found(codec, images, dataclasses.replace(config.data, random_flip=False)),
    ]
    assert len({own, *names}) == 5 and found(codec, images, config.data) == own


def test_latents_are_named_by_pixels_where_these_are_held_in_memory_too(folder, tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    monkeypatch.setattr(lazy_folder, "open_cache", lambda _: "no locks")
    data = DataConfig("folder", str(tmp_path / "pictures"), image_size=(8, 8), channels=1)
    names = []
    for content in (40, 41):
        Image.fromarray(np.full((8, 8), content, np.uint8)).save(tmp_path / "pictures" / "1.png")
        images = datasets.load(data)
        names.append(encoded._digest_of_images(images, tmp_path))
        assert names[-1] == images.digest_of_pixels() != images.digest()
    assert names[0] != names[1]


def test_a_run_that_encodes_each_image_when_it_is_used_learns_the_same_and_keeps_none(folder, tmp_path):
    loop.run(make_tiny_latent(folder, codec__cached=False, data__cache_dir=str(tmp_path / "cache")), tmp_path / "run")
    losses = [
        [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        for run_dir in (tmp_path / "run", folder / "latent")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert len(losses[0]) == 4 and not list(tmp_path.rglob("latents-*.npy"))


def test_other_data_or_another_autoencoder_are_refused_by_name(folder, tmp_path):
    with pytest.raises(UserError, match=r"takes images of 1 channels; got data.channels=3"):
        loop.run(make_tiny_latent(folder, data__channels=3), tmp_path / "colour")
    with pytest.raises(UserError, match="is no autoencoder's run"):
        loop.run(make_tiny_latent(folder, codec__run=str(folder / "latent")), tmp_path / "wrong")
    with pytest.raises(UserError, match=r"there is no run; train an autoencoder first \(presets autoencoder_\.\.\.\)"):
        loop.run(make_tiny_latent(folder, codec__run=str(folder / "nowhere")), tmp_path / "none")
    with pytest.raises(UserError, match=r"codec\.run is .*, not"):
        loop.run(make_tiny_latent(folder, codec__run=str(tmp_path)), folder / "latent")
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="is the run of an autoencoder, which draws no images"):
        load_run(folder / "autoencoder")


def measured(run_dir, *metrics):
    config = configuration.read(run_dir)
    request = evaluate.EvaluationRequest(metrics, 32, reference=config.data.split)
    path = evaluate.evaluate(request, config, str(run_dir), run_dir / "metrics.json")
    return json.loads(path.read_text())


def test_what_comes_back_is_measured_with_a_receipt(folder):
    found = measured(folder / "autoencoder", "reconstruction")
    images = datasets.load(configuration.read(folder / "autoencoder").data).images[:32]
    codec = first_stage.open_first_stage(folder / "autoencoder").codec
    again = codec.decode(codec.encode(tf.constant(images))).numpy().astype(float)
    errors = np.square(again - images).mean(axis=(1, 2, 3))
    assert np.isclose(found["psnr"]["value"], np.mean(10 * np.log10(255**2 / errors)), rtol=1e-5)
    receipt = found["psnr"]["receipt"]["generated"]
    assert receipt["images"] == 32 and len(receipt["autoencoder_sha256"]) == 64 and receipt["weights"] == "ema"
    assert "replaced_by_others" not in receipt


def test_what_says_nothing_of_latents_is_refused_with_the_reason_before_anything_is_computed(folder, monkeypatch):
    monkeypatch.setattr(evaluate, "FeatureNetwork", lambda *_: pytest.fail("features are computed first"))
    for metrics in (("bpd",), ("fid", "bpd")):
        with pytest.raises(UserError, match="bits/dim are of pixels; this run diffuses latents"):
            measured(folder / "latent", *metrics)
    with pytest.raises(UserError, match="metrics=bpd is of a run that draws images"):
        measured(folder / "autoencoder", "bpd")
    with pytest.raises(UserError, match="metrics=reconstruction is of an autoencoder's run"):
        measured(folder / "latent", "reconstruction")


def test_every_figure_is_drawn_of_a_run_of_latents_or_refused(folder, tmp_path):
    drawn = {p.stem for p in catalogue.draw("all", FigureContext(load_run(folder / "latent"), tmp_path, num_images=3))}
    assert drawn >= {"samples", "progressive", "inpainting", "interpolation", "reconstruction", "latent"}
    assert not drawn & {"bound", "coding", "cascade"}
    found = first_stage.open_first_stage(folder / "autoencoder")
    assert len(catalogue.draw_first_stage("all", found, tmp_path, 3, 0)) == 2
    with pytest.raises(UserError, match="this one is an autoencoder: reconstruction, latent"):
        catalogue.draw_first_stage("samples", found, tmp_path, 3, 0)


def test_the_unet_of_a_pipeline_is_read_with_the_autoencoder_beside_it(folder, tmp_path):
    run = load_run(folder / "latent")
    pipeline = folders.export_run(run, tmp_path / "pipeline")
    back = load_run(folders.import_run(pipeline, reading.read_config(pipeline), tmp_path / "back"))
    apart = np.abs(back.sample(range(2)).astype(int) - run.sample(range(2)))
    assert apart.max() <= 1  # (the scale of latents has gone into the weights)
    (pipeline / reading.OURS).unlink(missing_ok=True)
    for missing in ("none", "model_index.json"):
        (pipeline / missing).unlink(missing_ok=True)
        config = reading.read_config(pipeline / "unet")
        assert config.codec.factor == 2 and config.data.image_shape == (8, 8, 1)
    path = pipeline / "scheduler" / "scheduler_config.json"
    said = json.loads(path.read_text())
    for words in (said | {"clip_sample": True}, {k: v for k, v in said.items() if k != "clip_sample"}):
        path.write_text(json.dumps(words))  # (silent, diffusers' scheduler clips the latents too)
        with pytest.raises(UserError, match="clip_sample=True: expected false: latents have no range"):
            reading.read_config(pipeline)
    path.write_text(json.dumps(said))
    imported = load_run(folders.import_run(pipeline / "unet", config, tmp_path / "imported"))
    assert imported.sample(range(2), sampler="ddim", steps=3).shape == (2, 8, 8, 1)
    shutil.rmtree(tmp_path / "imported" / "autoencoder")
    shutil.copytree(folder / "autoencoder", tmp_path / "imported" / "autoencoder")
    with pytest.raises(UserError, match="is not the autoencoder whose latents this run diffuses"):
        load_run(tmp_path / "imported")
    sizeless = pipeline / "vqvae" / "config.json"
    sizeless.write_text(json.dumps(json.loads(sizeless.read_text()) | {"sample_size": None}))
    config = reading.read_config(pipeline)
    assert load_run(folders.import_run(pipeline, config, tmp_path / "sizeless")).image_shape == (8, 8, 1)
    with pytest.raises(
        UserError, match=r"autoencoder\.adversarial=0\.5: an imported autoencoder is trained on without"
    ):
        reading.read_autoencoder(pipeline / "vqvae", ["autoencoder.adversarial=0.5"])
    words = json.loads((pipeline / "vqvae" / "config.json").read_text())
    words |= {"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3, "shift_factor": 0.5}
    with pytest.raises(UserError, match=r"shift_factor=0\.5: expected none beside latents_mean"):
        autoencoder_words.autoencoder_words(words)
    for wrong in ("3", 3.0, [3], 0):
        with pytest.raises(UserError, match=r"vq_embed_dim=.*: expected a whole number above 0"):
            autoencoder_words.autoencoder_words({"_class_name": "VQModel", "vq_embed_dim": wrong})


@pytest.fixture(scope="module")
def served(folder, program):
    run = load_run(folder / "latent")
    version = saved_model.export_run(run, folder / "served" / "ddpm", plans.parse("ddim-3,ddpm-4", run.config), 8)
    with Served(run, version, program, folder / "exchange") as served:
        yield served


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to build the program that serves")


@needs_compiler
def test_a_server_draws_decoded_images_as_python_does_alone_and_together(served):
    seeds = np.arange(5)
    known = served.run.sample(range(5), sampler="ddim", steps=3)
    answers = served.ask(("serving_default", {"seed": seeds}), ("png", {"seed": seeds}), ("png", {"seed": seeds[2:3]}))
    default, pngs, alone = answers
    assert grey(default["image"], known) <= 1
    assert grey([decoded(row) for row in pngs["png_bytes"]], known[..., 0]) <= 1
    assert grey(decoded(alone["png_bytes"][0]), decoded(pngs["png_bytes"][2])) <= 1


@needs_compiler
@pytest.mark.usefixtures("graphs_as_they_are")
def test_an_export_of_latents_is_fit_to_serve(served, monkeypatch, capsys):
    for name in ("tf_ddpm", "keras"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])  # `check` blocks them
    status = check.main(["check", str(served.version.parent)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:-1]]
    assert status == 0 and all(row[3] == "equal" for row in rows), rows
    assert {row[0] for row in rows} >= {"serving_default", "encode_image", "decode_latent", "decode", "inpaint"}


@needs_compiler
def test_a_server_encodes_images_and_decodes_latents(served):
    images = datasets.load(served.run.config.data).images[:3]
    (there,) = served.ask(("encode_image", {"image": images}))
    np.testing.assert_allclose(there["latent"], served.run.codec.encode(tf.constant(images)), atol=1e-4)
    (back,) = served.ask(("decode_latent", {"latent": there["latent"]}))
    assert grey(back["image"], served.run.codec.decode(tf.constant(there["latent"]))) <= 1
    np.testing.assert_allclose(back["image"], np.round((back["image_float"] + 1) * 127.5), atol=1)
    (one,) = served.ask(("decode_latent", {"latent": there["latent"][1:2]}))
    assert grey(one["image"][0], back["image"][1]) <= 1


@needs_compiler
def test_a_server_says_which_latents_a_noise_becomes(served):
    noise = np.random.default_rng(0).normal(size=(3, *served.run.state_shape)).astype(np.float32)
    (drawn,) = served.ask(("decode", {"latent": noise}))
    (image,) = served.ask(("decode_latent", {"latent": drawn["x_0"]}))
    assert grey(drawn["image"], image["image"]) <= 1
    (alone,) = served.ask(("decode", {"latent": noise[1:2]}))
    np.testing.assert_allclose(alone["x_0"][0], drawn["x_0"][1], atol=1e-4)


@needs_compiler
def test_the_kept_pixels_of_an_inpainting_are_kept_to_the_bit_and_the_others_are_drawn(served):
    images = datasets.load(served.run.config.data).images[:2]
    mask = np.zeros((2, 8, 8, 1), np.uint8)
    mask[:, :3] = 255  # cuts through latents of 2x2 pixels
    inputs = {"image": images, "mask": mask, "seed": np.arange(2)}
    answer, other = served.ask(("inpaint", inputs), ("inpaint", inputs | {"seed": np.arange(5, 7)}))
    np.testing.assert_array_equal(answer["image"][:, :3], images[:, :3])
    assert grey(answer["image"][:, 4:], other["image"][:, 4:]) > 0


@needs_compiler
def test_strength_0_of_a_variation_is_the_image_itself(served):
    images = datasets.load(served.run.config.data).images[:2]
    strength = np.array([0.0, 1.0], np.float32)
    (answer,) = served.ask(("variation", {"image": images, "strength": strength, "seed": np.arange(2)}))
    np.testing.assert_array_equal(answer["image"][0], images[0])


@needs_compiler
def test_an_autoencoder_alone_is_served_with_two_signatures(folder, program):
    found = first_stage.open_first_stage(folder / "autoencoder")
    version = saved_model.export_first_stage(found, folder / "served_alone" / "ddpm", 4)
    images = datasets.load(found.config.data).images[:3]
    with Served(found, version, program, folder / "exchange_alone") as served:
        assert set(served.info["signatures"]) == {"encode_image", "decode_latent", "serving_default", "png"}
        (there,) = served.ask(("encode_image", {"image": images}))
        back, bad = served.ask(
            ("decode_latent", {"latent": there["latent"]}), ("encode_image", {"image": np.repeat(images, 2, axis=0)})
        )
        np.testing.assert_allclose(there["latent"], found.codec.encode(tf.constant(images)), atol=1e-4)
        assert grey(back["image"], found.codec.decode(found.codec.encode(tf.constant(images)))) <= 1
        assert "batch: expected 1 to 4 rows, got] [6]" in bad


def test_a_run_of_latents_is_drawn_in_a_lower_precision_too(folder):
    run = load_run(folder / "latent")
    low = load_run(folder / "latent", precision="bfloat16")
    assert low.config.sample.precision == "bfloat16"
    apart = run.sample(range(4)).astype(float) - low.sample(range(4))
    assert np.sqrt(np.mean(apart**2)) < 32
    assert dataclasses.is_dataclass(run.first_stage)


def test_a_run_of_latents_is_the_first_stage_of_a_pipeline_in_python_and_exported(folder, tmp_path):
    larger = {"model__condition": "low_res", "model__factor": 2, "train__crop": 8, "data__image_size": (16, 16)}
    loop.run(
        make_tiny_config(sample__sampler="ddim", sample__steps=2, train__preview_images=4, **larger),
        tmp_path / "larger",
    )
    pipeline = open_pipeline(pipelines.find(f"{folder / 'latent'},{tmp_path / 'larger'}", str(tmp_path / "both")))
    known = np.concatenate([images for images, _ in pipeline.batches(np.arange(2), np.zeros(2, np.int32))])
    plan = plans.parse_staged("ddim-3+ddim-2", [run.config for run in pipeline.runs])
    version = saved_model.export_pipeline(pipeline, tmp_path / "ddpm", plan, 2)
    signatures = tf.saved_model.load(str(version)).signatures
    answer = signatures["serving_default"](seed=tf.range(2, dtype=tf.int64))["image"]
    assert answer.shape == (2, 16, 16, 1) and grey(answer, known) <= 1
    assert grey(signatures["base"](seed=tf.range(2, dtype=tf.int64))["image"], pipeline.runs[0].sample(range(2))) <= 1
