"""A run from its configuration to its directory, and on from there."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.fresh import fresh_state
from tests.support.tiny import TWO_LEVELS, mirrored
from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.config import presets
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration
from tf_ddpm.sampling.run import Run, load_run
from tf_ddpm.training import loop, spread
from tf_ddpm.training.previews import Preview


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_config_checkpoints_metrics_previews_and_logs(run_dir):
    config = configuration.read(run_dir)
    assert config.data.image_size == (8, 8) and config.data.channels == 1  # resolved from the data
    assert [line["step"] for line in lines(run_dir)] == [2, 4, 6, 8]
    assert {"step", "loss", "images_per_second", "gradient_norm", "ema_distance"} <= set(lines(run_dir)[0])
    assert any(name.startswith("loss_quarter_") for name in lines(run_dir)[0])
    assert Image.open(run_dir / "previews/step_0000008.png").size[0] > 300
    assert list((run_dir / "logs").glob("events.*"))
    assert {p.name for p in (run_dir / "checkpoints").glob("*.index")} == {"step-4.index", "step-8.index"}


def test_a_stopped_run_goes_on_to_the_same_weights(tiny_config, run_dir, tmp_path, capsys):
    config = tiny_config(model__dropout=0.1)
    whole = loop.run(config, tmp_path / "whole")
    loop.run(config_lib.with_values(config, {"train.steps": 4}), tmp_path / "parts")
    again = loop.run(config, tmp_path / "parts")
    assert "from step 4 to 8" in capsys.readouterr().out
    for a, b in zip(whole.network.weights, again.network.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(whole.ema_network.weights, again.ema_network.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_several_updates_a_call_are_the_same_updates_and_reports(tiny_config, tmp_path):
    config = tiny_config(model__dropout=0.1, train__log_every=3, train__checkpoint_every=5)
    one_by_one = loop.run(config, tmp_path / "1")
    for steps, count in ((6, 4), (8, 2)):  # calls of 3, 2, 1 and 2 updates
        values = {"train.steps": steps, "train.steps_per_call": count}
        together = loop.run(config_lib.with_values(config, values), tmp_path / "4")
    np.testing.assert_array_equal(one_by_one.weights.numpy(), together.weights.numpy())
    np.testing.assert_array_equal(one_by_one.average.numpy(), together.average.numpy())
    told = [
        {line["step"]: (line["loss"], line["ema_distance"]) for line in lines(tmp_path / name)} for name in ("1", "4")
    ]
    assert set(told[0]) == {3, 6, 8} and told[0] == told[1]


def test_a_finished_run_says_so_and_changes_nothing(tiny_config, run_dir, capsys):
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    state = loop.run(tiny_config(), run_dir)
    assert "already at step 8" in capsys.readouterr().out and state.updates == 8
    assert before == {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}


def test_another_model_in_the_same_directory_is_refused(tiny_config, run_dir):
    with pytest.raises(UserError, match=r"model\.dropout is 0\.0, not 0\.2"):
        loop.run(tiny_config(model__dropout=0.2), run_dir)


def test_metrics_of_lost_updates_are_dropped(tiny_config, tmp_path):
    loop.run(tiny_config(train__steps=4), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 9.0}\n{"step": 7, "lo')
    loop.run(tiny_config(train__steps=8), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8]
    assert all(line["loss"] < 9.0 for line in lines(tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_checkpoint(tiny_config, tmp_path):
    wild = {"train.optimizer": "sgd", "train.learning_rate": 100.0, "train.clip_norm": 1e9, "train.steps": 40}
    wild |= {"train.warmup_steps": 0, "train.log_every": 7, "train.checkpoint_every": 1}
    with pytest.raises(UserError) as error:
        loop.run(config_lib.with_values(tiny_config(**TWO_LEVELS), wild), tmp_path)
    step, checkpoint = re.search(r"not finite at step (\d+).*step-(\d+)", str(error.value)).groups()
    assert int(checkpoint) == int(step) - 1 > 0
    assert (tmp_path / f"checkpoints/step-{checkpoint}.index").exists()
    assert not (tmp_path / f"checkpoints/step-{step}.index").exists()


def test_previews_tell_how_far_their_colour_is_from_that_of_the_data(tiny_config, tmp_path):
    config = tiny_config(data__image_size=(8, 8), data__channels=1)
    state = fresh_state(config)
    images = datasets.load(config.data)
    sheet, drift = Preview(config, state, images, tmp_path).draw(3)
    some = images.images[spread.places(images, 256)]
    drawn = Run(config, state.ema_network, 0).sample(range(64), sampler="ddim")
    assert sheet.shape[-1] == 1 and (tmp_path / "step_0000003.png").exists()
    assert drift == pytest.approx(abs(drawn.mean() - some.mean()), abs=0.05)
    assert drift > 5


def test_a_preview_reads_none_of_the_data_before_its_first_grid_and_then_a_few(tiny_config, tmp_path):
    config, seen = tiny_config(data__image_size=(8, 8), data__channels=1), []
    decode = lambda index: (seen.append(index), np.full((8, 8, 1), 200, np.uint8))[1]  # noqa: E731
    pictures = LazyImages(decode, (5000, 8, 8, 1), np.zeros(5000, np.int32), keeps=False)
    preview = Preview(config, fresh_state(config), datasets.ImageSet(pictures, np.zeros(5000, np.int32), ()), tmp_path)
    assert seen == []
    first, again = preview.draw(1)[1], preview.draw(2)[1]
    assert first == again and len(seen) == 256 and {0, 4999} <= set(seen)


def test_a_preview_in_more_steps_than_a_run_has_levels_of_its_own_spaces_them_evenly(tiny_config, tmp_path):
    config = tiny_config(data__image_size=(8, 8), data__channels=1, sample__spacing="sigmas")
    Preview(config, fresh_state(config), datasets.load(config.data), tmp_path).draw(3)
    assert (tmp_path / "step_0000003.png").exists()


def test_a_batch_that_devices_cannot_share_is_refused(tiny_config, tmp_path):
    strategy = mirrored(3)
    with pytest.raises(UserError, match=r"train\.batch_size=18 can"):
        loop.run(tiny_config(), tmp_path, strategy)


def test_nothing_is_written_when_the_data_cannot_be_read(tiny_config, tmp_path):
    config = tiny_config(data__name="folder", data__path=str(tmp_path / "nowhere"), data__image_size=(8, 8))
    with pytest.raises(UserError, match="no such folder"):
        loop.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_devices_train_a_whole_run(tiny_config, tmp_path):
    strategy = mirrored(2)
    assert loop.run(tiny_config(train__steps=4), tmp_path, strategy).updates == 4
    assert loop.run(tiny_config(train__steps=8), tmp_path).updates == 8  # and on with one


def test_a_run_with_learned_variance_trains_samples_and_goes_on(tiny_config, tmp_path):
    changes = {"diffusion__variance": "learned_range", "train__objective": "hybrid", "train__steps": 4}
    state = loop.run(tiny_config(**changes), tmp_path)
    assert state.network.conv_out.kernel.shape[-1] == 2 and np.isfinite(lines(tmp_path)[-1]["loss"])
    run = load_run(tmp_path)
    assert run.sample([0, 1]).shape == (2, 8, 8, 1)
    assert run.sample([0], sampler="dpmpp", steps=3).shape == (1, 8, 8, 1)


@pytest.mark.processes
def test_the_cifar10_preset_trains_and_samples_on_a_cpu(tmp_path):
    """Two updates and two sampling steps of the published model, on synthetic images of that shape."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)):
        Image.fromarray(image).save(folder / f"{i}.png")
    values = {
        "data.name": "folder",
        "data.path": str(folder),
        "train.steps": 2,
        "train.batch_size": 2,
        "train.keep": 1,
    }
    config = config_lib.with_values(presets.preset("cifar10"), values | {"train.preview_images": 1})
    state = loop.run(config, tmp_path / "run")
    assert state.updates == 2 and state.network.count_params() == 35_746_307
    images = load_run(tmp_path / "run").sample([0, 1], steps=2)
    assert images.shape == (2, 32, 32, 3) and images.dtype == np.uint8 and images.std() > 10


def test_too_little_memory_is_told_with_what_needs_less(tmp_path, tiny_config, run_dir, monkeypatch):
    def too_large(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor of 9 GB\n\nHint: many lines")

    monkeypatch.setattr(loop, "make_updates", lambda update, timed: too_large)
    with pytest.raises(UserError, match=r"out of memory: OOM.* 9 GB\n.*train.accumulate.*train.batch_size") as told:
        loop.run(tiny_config(), tmp_path / "run")
    assert str(told.value).count("\n") == 1
    run = load_run(run_dir)
    monkeypatch.setattr(run, "_drawer", lambda *_: too_large)
    with pytest.raises(UserError, match=r"out of memory.*\n.*sample.batch_size"):
        run.sample(range(4))


def test_a_run_taken_further_tells_of_each_step_what_a_straight_one_does(tiny_config, tmp_path):
    config = tiny_config(train__log_every=5, train__steps=13, train__preview_every=6)
    loop.run(config, tmp_path / "straight")
    for steps in (4, 8, 13):  # ends within intervals
        loop.run(config_lib.with_values(config, {"train.steps": steps}), tmp_path / "further")
    straight, further = ({line["step"]: line for line in lines(tmp_path / name)} for name in ("straight", "further"))
    assert set(straight) == {5, 10, 13} and set(further) == {4, 5, 8, 10, 13}
    for step, line in straight.items():
        for name in line.keys() - {"images_per_second", "input_wait"}:
            assert line[name] == further[step][name], (step, name)
    for path in (tmp_path / "straight" / "previews").iterdir():
        assert path.read_bytes() == (tmp_path / "further" / "previews" / path.name).read_bytes()
