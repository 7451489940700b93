"""Images against real ones: the metrics file, its receipts, and what a killed evaluation leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.projection import Projection, measured, take_its_place
from tests.support.tiny import mirrored
from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate, feature_metrics, inception, quality, sweep
from tf_ddpm.figures import sweeps
from tf_ddpm.runtime import chunks, collectives
from tf_ddpm.sampling.run import load_run, open_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def projection(monkeypatch):
    take_its_place(monkeypatch.setattr)


def values(metrics):
    return {name: metric["value"] for name, metric in metrics.items()}


def test_every_figure_has_a_receipt_that_says_how_it_was_got(run_dir, tmp_path):
    found = measured(run_dir, tmp_path, {"sample.steps": 5, "sample.sampler": "dpmpp"}, seed=7)
    assert set(found) == {"fid", "kid", "precision", "recall"}
    for metric in found.values():
        receipt = metric["receipt"]
        drawn, real = receipt["generated"], receipt["reference"]
        expected = {
            "sampler": "dpmpp",
            "steps": 5,
            "first_seed": 7,
            "images": 40,
            "rounding": "uint8",
            "checkpoint_step": 8,
        }
        assert expected.items() <= drawn.items()
        assert {"spacing", "clip", "variance", "guidance", "config_sha256", "seconds", "weights_sha256"} <= set(drawn)
        assert real["data"] == "digits" and real["images"] == 1797 and len(real["sha256"]) == 64
        assert receipt["inception_sha256"] == Projection.sha256 and "tensorflow" in receipt["versions"]


def test_what_is_computed_of_a_reference_alone_is_computed_once(run_dir, tmp_path, monkeypatch):
    first = values(measured(run_dir, tmp_path, {"sample.steps": 5}))
    rows, look, within = [], feature_metrics.neighbours, feature_metrics.kernel_within
    note = lambda call: lambda points, *others: (rows.append(len(points)), call(points, *others))[1]  # noqa: E731
    monkeypatch.setattr(feature_metrics, "neighbours", note(look))
    monkeypatch.setattr(feature_metrics, "kernel_within", note(within))
    assert values(measured(run_dir, tmp_path, {"sample.steps": 5})) == first
    assert rows == [40, 40], "the images that were drawn, and not the 1,797 of the reference"
    (kept,) = tmp_path.rglob("apart.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    assert values(measured(run_dir, tmp_path, {"sample.steps": 5})) == first and rows[2:] == [40, 1797, 40]


def test_the_figures_are_those_of_the_images_that_the_run_draws(run_dir, tmp_path):
    found = measured(run_dir, tmp_path, {"sample.steps": 5})
    images = load_run(run_dir).sample(range(40), steps=5)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{i:06d}.png")
    again = measured(run_dir, tmp_path, images=str(folder))
    assert again["fid"]["value"] == pytest.approx(found["fid"]["value"], rel=1e-6)
    assert again["precision"]["value"] == found["precision"]["value"]


def test_a_set_is_at_no_distance_from_itself(tmp_path):
    images = datasets.load(config_lib.Config().data).images[:300]
    network = quality.FeatureNetwork(None, mirrored(1))
    one = quality.array_features(images, network, str(tmp_path), {}, "features")
    found = values(quality.measure(("fid", "kid", "pr", "memorisation"), one, one, "x"))
    assert abs(found["fid"]) < 1e-6 and found["precision"] == found["recall"] == 1.0
    assert found["memorisation"] == 1.0  # copies are told
    other = quality.array_features(255 - images, network, str(tmp_path), {}, "features")
    found = quality.measure(("fid", "memorisation"), other, one, "x")
    assert found["fid"]["value"] > 1.0
    assert found["memorisation"]["value"] == found["memorisation"]["in_pixels"] == 0.0


def test_half_of_the_real_images_are_no_copies_of_the_other_half():
    images = datasets.load(config_lib.Config().data).images.reshape(1797, -1)
    share = quality.memorised_share(images[1::2], images[::2])
    assert share < 0.04, share


def test_unrounded_images_are_another_mode_and_near(run_dir, tmp_path):
    rounded = measured(run_dir, tmp_path, {"sample.steps": 5})
    unrounded = measured(run_dir, tmp_path, {"sample.steps": 5}, rounded=False)
    assert unrounded["fid"]["receipt"]["generated"]["rounding"] == "float"
    assert unrounded["fid"]["value"] != rounded["fid"]["value"]
    assert unrounded["fid"]["value"] == pytest.approx(rounded["fid"]["value"], rel=1e-2)


def test_a_run_in_bfloat16_is_measured_and_told_from_float32(run_dir, tmp_path):
    found = [measured(run_dir, tmp_path, {"sample.steps": 5, "sample.precision": p}) for p in ("float32", "bfloat16")]
    drawn = [metrics["fid"]["receipt"]["generated"] for metrics in found]
    assert drawn[0]["weights_sha256"] != drawn[1]["weights_sha256"] and drawn[1]["precision"] == "bfloat16"
    assert found[0]["fid"]["value"] != found[1]["fid"]["value"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"allow_few": False}, ["40 images", "below 64", "allow_few"]),
        ({"num_images": 3}, ["3 images are too few"]),
        ({"reference": "nowhere"}, ["nowhere", "no such folder"]),
        ({"reference": "nowhere.npz"}, ["nowhere.npz", "No such file"]),
        ({"reference": "test"}, ["data.split=test"]),
        ({"images": "nowhere"}, ["nowhere", "no such folder"]),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line_and_no_file(run_dir, tmp_path, wanted, words):
    with pytest.raises(UserError) as error:
        measured(run_dir, tmp_path, **wanted)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert not (tmp_path / "metrics.json").exists()


def test_statistics_from_a_file_give_the_fid_and_refuse_what_needs_features(run_dir, tmp_path):
    whole = measured(run_dir, tmp_path, metrics=("fid",))
    network = quality.FeatureNetwork(None, mirrored(1))
    real = quality.array_features(
        datasets.load(config_lib.Config().data).images, network, str(tmp_path), {}, "features"
    )
    path = str(tmp_path / "stats.npz")
    np.savez(path, mu=real.moments.mean, sigma=real.moments.covariance)
    assert measured(run_dir, tmp_path, metrics=("fid",), reference=path)["fid"]["value"] == whole["fid"]["value"]
    with pytest.raises(UserError, match="enough for fid only"):
        measured(run_dir, tmp_path, metrics=("fid", "kid"), reference=path)
    np.savez(path, mu=np.array([object()]), sigma=1)  # a pickle in it is not opened
    with pytest.raises(UserError, match="expected arrays mu and sigma"):
        measured(run_dir, tmp_path, metrics=("fid",), reference=path)


def test_images_of_several_sizes_are_told_apart(tmp_path):
    for name, side in (("a.png", 8), ("b.png", 9)):
        Image.new("L", (side, side)).save(tmp_path / name)
    with pytest.raises(UserError, match=r"several sizes: a.png is \(8, 8\), b.png \(9, 9\)"):
        datasets.load_pictures(str(tmp_path))
    (tmp_path / "b.png").write_text("no image")
    assert datasets.load_pictures(str(tmp_path)).images.shape == (1, 8, 8, 1)


def test_images_that_cannot_be_compared_are_told_before_any_is_drawn(run_dir, tmp_path, monkeypatch):
    for i in range(5):
        picture = np.random.default_rng(i).integers(0, 256, (9, 9), np.uint8)
        (tmp_path / "real").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "real" / f"{i}.png")
    monkeypatch.setattr(quality, "source_features", None)
    with pytest.raises(UserError, match=r"images of \(8, 8, 1\) against a reference of \(9, 9, 1\)"):
        measured(run_dir, tmp_path, metrics=("memorisation",), reference=str(tmp_path / "real"))


def test_pictures_that_stand_in_for_others_are_no_part_of_a_reference(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), np.uint8)
    network = quality.FeatureNetwork(None, mirrored(1))

    def features(decode):
        images = LazyImages(decode, pixels.shape, np.zeros(9, np.int32), content=lambda index: bytes([index]))
        return quality.array_features(images, network, str(tmp_path), {}, "features")

    def damaged(index):
        return "no picture" if index in (0, 5) else pixels[index]

    found = [features(decode) for decode in (damaged, lambda index: None)]  # and from what is kept
    for one in found:
        assert one.about["images"] == 7 and one.about["left_out"] == 2 and one.rows.shape == (7, 64)
        assert one.apart[:, 1].min() > 0
    own = np.delete(pixels, (0, 5), axis=0)
    np.testing.assert_array_equal(found[0].pixels[:], own)
    np.testing.assert_allclose(found[0].rows, network(own), rtol=1e-5)
    np.testing.assert_array_equal(found[1].apart, found[0].apart)


def test_features_of_pictures_that_were_replaced_meanwhile_are_not_kept(tmp_path):
    network, decode = quality.FeatureNetwork(None, mirrored(1)), lambda index: np.full((4, 4, 1), index, np.uint8)
    replaced = []
    images = LazyImages(
        decode,
        (9, 4, 4, 1),
        np.zeros(9, np.int32),
        content=lambda index: bytes([index]),
        still=lambda index: not (replaced and index == 3),
    )
    digest = images.digest
    images.digest = lambda: (digest(), replaced.append(3))[0]  # right after it
    with pytest.raises(UserError, match="replaced while they were read"):
        quality.array_features(images, network, str(tmp_path), {}, "features")
    assert not list(tmp_path.rglob("0*.npz"))


def test_features_are_known_by_what_decoded_their_pictures_and_say_so(tmp_path):
    network, decode = quality.FeatureNetwork(None, mirrored(1)), lambda index: np.full((4, 4, 1), index, np.uint8)
    found = []
    for reader in ("Pillow 1", "Pillow 2", "Pillow 1"):
        content = lambda index: bytes([index])  # noqa: E731
        images = LazyImages(decode, (9, 4, 4, 1), np.zeros(9, np.int32), content=content, reader=reader)
        found.append(quality.array_features(images, network, str(tmp_path), {}, "features"))
    assert [one.about["decoded_by"] for one in found] == ["Pillow 1", "Pillow 2", "Pillow 1"]
    assert found[0].place == found[2].place != found[1].place
    assert len({one.about["sha256"] for one in found}) == 1


def test_four_devices_draw_and_see_what_one_does(run_dir):
    config = load_run(run_dir, steps=4, batch_size=10).config
    one, four = (open_run(run_dir, config, mirrored(devices)) for devices in (1, 4))
    images = one.sample(range(23)).astype(int)
    assert np.abs(four.sample(range(23)).astype(int) - images).max() <= 1
    rows = np.arange(7, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(collectives.over_replicas(mirrored(4), lambda x: 2.0 * x)(rows), 2 * rows)


def test_the_bar_of_chunks_moves_within_one(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(chunks.Progress, "reach", lambda _, done: seen.append(done))

    def compute(start, stop, reached):
        reached(100)
        return {"rows": np.arange(start, stop)}

    chunks.in_chunks(tmp_path, 700, compute, "rows")
    assert seen == [100, 500, 600, 700]


def test_chunks_that_are_there_are_not_computed_again(tmp_path):
    asked = []

    def compute(start, stop, _):
        asked.append((start, stop))
        return {"rows": np.arange(start, stop)}

    rows, _ = chunks.in_chunks(tmp_path, 1100, compute, "rows")
    (tmp_path / "00000500-00001000.npz").write_bytes(b"damaged")
    again, _ = chunks.in_chunks(tmp_path, 1100, compute, "rows")
    assert asked == [(0, 500), (500, 1000), (1000, 1100), (500, 1000)]
    np.testing.assert_array_equal(rows["rows"], np.arange(1100))
    np.testing.assert_array_equal(again["rows"], rows["rows"])


KILLED = """
import sys
sys.path.insert(0, {root!r})
import tests.conftest
from tests.support import projection
projection.take_its_place()
from pathlib import Path
projection.measured({run!r}, Path({folder!r}), {{"sample.steps": 4, "sample.batch_size": 50}}, num_images=1500)
"""


@pytest.mark.processes
def test_an_evaluation_killed_three_times_gives_the_same_bits(run_dir, tmp_path):
    def start(folder):
        folder.mkdir(exist_ok=True)
        names = {"root": str(ROOT), "run": str(run), "folder": str(folder)}
        return subprocess.Popen([sys.executable, "-c", KILLED.format(**names)], stderr=subprocess.DEVNULL)

    def chunks_in(run):
        return len(list((run / "evaluation").rglob("0*.npz")))

    import shutil

    found = []
    for kills, name in ((0, "through"), (3, "killed")):
        run = tmp_path / f"{name}_run"
        shutil.copytree(run_dir, run)
        shutil.rmtree(run / "evaluation", ignore_errors=True)
        for kill in range(kills):  # once within each chunk
            process = start(tmp_path / name)
            while process.poll() is None and chunks_in(run) < kill:
                time.sleep(0.01)
            time.sleep(0.2)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (tmp_path / name / "metrics.json").exists()
        assert start(tmp_path / name).wait() == 0
        found.append(values(json.loads((tmp_path / name / "metrics.json").read_text())))
    assert found[0] == found[1]
    assert not [name for name in os.listdir(tmp_path / "killed") if name.startswith(".partial")]


def test_a_sweep_draws_a_curve_and_keeps_every_receipt(run_dir, tmp_path, capsys):
    values = {"data.cache_dir": str(tmp_path)}
    config = config_lib.with_values(load_run(run_dir).config, values)
    wanted = evaluate.EvaluationRequest(("fid", "pr"), num_images=20, allow_few=True)
    path = sweep.sweep(wanted, config, str(run_dir), "sampling_steps:2,4")
    assert Image.open(sweeps.draw(path)).width > 500
    rows = json.loads((run_dir / "sweep_sampling_steps.json").read_text())
    assert [rows[k]["fid"]["receipt"]["generated"]["steps"] for k in ("2", "4")] == [2, 4]
    assert "| 4 |" in capsys.readouterr().out
    sweep.sweep(wanted, config_lib.with_values(config, {"sample.steps": 2}), str(run_dir), "checkpoint")
    rows = json.loads((run_dir / "sweep_checkpoint.json").read_text())
    assert [rows[k]["fid"]["receipt"]["generated"]["checkpoint_step"] for k in rows] == [4, 8]
    for words, message in (
        ("steps:3", "expected sampling_steps"),
        ("sampling_steps:x", "'x'; expected whole numbers"),
        ("checkpoint:5", "expected one of 4, 8"),
        ("sampling_steps:21", "timesteps=20"),
    ):
        with pytest.raises(UserError, match=message):
            sweep.sweep(wanted, config, str(run_dir), words)


@pytest.mark.parametrize("devices", [1, 2])
def test_grey_images_are_measured_against_rgb_ones_and_the_other_way_round(devices, monkeypatch, tmp_path):
    monkeypatch.setattr(inception, "_network", lambda tensors: lambda x: tf.reduce_mean(x, axis=[1, 2]))
    monkeypatch.setattr(inception, "load", lambda path: inception.Inception({}, "0"))
    network, rng = quality.FeatureNetwork(None, mirrored(devices)), np.random.default_rng(0)
    for size, channels in ((8, 3), (8, 1), (12, 1), (16, 3), (9, 1)):
        images = rng.integers(0, 256, (51, size, size, channels), np.uint8)
        features = network(images)
        np.testing.assert_allclose(features, network(np.broadcast_to(images, (51, size, size, 3))), atol=1e-6)
