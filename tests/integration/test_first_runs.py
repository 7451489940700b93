"""Runs and an export that were written before data had a decoder's version go on as they would have."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from export import check, saved_model
from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.config import plans
from tf_ddpm.runs import configuration
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

ROOT = Path(__file__).parents[2]
FIRST = Path(__file__).parents[1] / "fixtures" / "first_runs"
# What each is: two checkpoints; classes, learned variance and importance sampling in mid-history; a folder of pictures
# with an EXIF turn, transparency, 16 and 32 bits, CMYK and a colour profile.
NAMES = ("plain", "classes", "folder")


@pytest.fixture
def first(tmp_path, monkeypatch):
    """A folder with copies of them, in which this process works."""
    shutil.copytree(FIRST, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(run_dir):
    run = load_run(run_dir)
    guidance = {"guidance": 1.5} if run.config.model.null_class else {}
    return run, run.sample(range(4), sampler="ddim", steps=5, **guidance)


def grey(a, b):
    return np.abs(np.asarray(a, int) - b).max()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_sampled_and_resumed_as_by_the_code_that_wrote_it(first, name):
    known = np.load(FIRST / f"{name}.npz")
    assert grey(drawn(name)[1], known["images_8"]) <= 1
    loop.run(config_lib.with_values(configuration.read(name), {"train.steps": 12}), Path(name))
    lines = [json.loads(line) for line in (first / name / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    np.testing.assert_allclose([line["loss"] for line in lines], known["losses"], rtol=2e-3)
    run, images = drawn(name)
    weights = np.concatenate([weight.numpy().ravel() for weight in run.network.weights])
    assert np.abs(weights - known["ema_12"]).mean() < 2e-5  # a step moves a weight by up to 1e-3
    assert np.abs(images.astype(int) - known["images_12"]).mean() < 0.5


def test_its_earlier_checkpoint_is_still_there_and_resumes(first):
    for path in (first / "plain/checkpoints").glob("step-8.*"):
        path.unlink()
    known = np.load(FIRST / "plain.npz")
    assert load_run("plain").checkpoint_step == 4
    loop.run(configuration.read("plain"), Path("plain"))
    assert grey(drawn("plain")[1], known["images_8"]) <= 1


def test_its_earlier_checkpoint_guides_it(first):
    known, settings = np.load(FIRST / "plain.npz"), {"sampler": "ddim", "steps": 5}
    assert grey(load_run("plain", guide="4").sample(range(4), **settings), known["images_8"]) <= 1
    images = [load_run("plain", guide="4", guidance=w).sample(range(4), **settings).astype(int) for w in (0.0, 1.5)]
    for path in (first / "plain/checkpoints").glob("step-8.*"):
        path.unlink()
    assert grey(images[0], load_run("plain").sample(range(4), **settings)) <= 1  # the guide alone
    assert grey(images[1], known["images_8"]) > 1


def test_its_pictures_are_decoded_as_then(first):
    known = np.load(FIRST / "pictures.npz")
    images = datasets.load(configuration.read("folder").data)
    assert images.label_names == ("0", "10", "2")
    np.testing.assert_array_equal(images.labels, known["labels"])
    assert grey(images.images, known["images"]) <= 1  # (JPEG decoders differ by one)


def test_its_export_answers_and_takes_a_second_version(first):
    with tarfile.open("export.tar.xz") as archive:
        archive.extractall(filter="data")
    inputs = {"seed": np.arange(4), "label": np.array([0, 3, 5, -1], np.int32)}
    inputs["guidance"] = np.array([1.0, 1.5, 0.0, 1.0], np.float32)
    answer = tf.saved_model.load("export/1").signatures["serving_default"](
        **{name: tf.constant(value) for name, value in inputs.items()}
    )
    assert grey(answer["image"], np.load(FIRST / "export.npz")["image"]) <= 1
    assert check.newest_version("export").name == "1" and len(check.warmup_requests(Path("export/1"))) > 10
    run = load_run("classes")
    assert saved_model.export_run(run, "export", plans.parse("ddim-2", run.config), 4).name == "2"
    assert (first / "export/1/saved_model.pb").is_file()
