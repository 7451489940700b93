"""Averages of the weights that are chosen afterwards."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from safetensors import SafetensorError

from tests.support import projection
from tests.support.tiny import make_tiny_config
from tf_ddpm import config as config_lib
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate, sweep
from tf_ddpm.networks import averaging
from tf_ddpm.runs import averages, checkpoint_files
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

WIDTHS = (0.05, 0.1)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "averaged"
    changes = {"train__averages": WIDTHS, "train__averages_every": 6, "train__checkpoint_every": 12}
    loop.run(make_tiny_config(train__steps=30, train__learning_rate=5e-3, **changes), path)
    return path


def tracked(weights, sigma_rel):
    """The average of `weights` [T, N] after each update."""
    average, found = np.zeros(weights.shape[1]), []
    for t, now in enumerate(weights):
        share = float(averaging.power_share(tf.constant(t), sigma_rel))
        average = average + share * (now - average)
        found.append(average)
    return found


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.1, 6.94), (0.2, 1.83), (0.25, 0.72)])
def test_the_width_of_a_power_function_is_its_standard_deviation_in_units_of_its_length(sigma_rel, gamma):
    found = averaging.gamma_of(sigma_rel)
    assert found == pytest.approx(gamma, abs=0.006)
    tau = np.linspace(0, 1, 200_001)
    profile = tau**found / np.trapezoid(tau**found, tau)
    mean = np.trapezoid(profile * tau, tau)
    assert np.sqrt(np.trapezoid(profile * (tau - mean) ** 2, tau)) == pytest.approx(sigma_rel, rel=1e-6)
    assert averaging.gamma_of(averaging.WIDEST) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.15, 0.25])
def test_the_average_weighs_updates_by_the_power_function(sigma_rel):
    steps = 1000
    t = np.arange(1.0, steps + 1)
    mean, square = tracked(np.stack([t, t**2], axis=1), sigma_rel)[-1]
    gamma = averaging.gamma_of(sigma_rel)
    assert mean / steps == pytest.approx((gamma + 1) / (gamma + 2), rel=2e-3)
    assert np.sqrt(square - mean**2) / steps == pytest.approx(sigma_rel, rel=1e-2)


def test_the_first_update_is_the_whole_average():
    assert float(averaging.power_share(tf.constant(0, tf.int64), 0.1)) == 1.0


@pytest.fixture(scope="module")
def walk():
    """Weights that go somewhere and shake, less and less, as in a training whose learning rate decays.

    (Not to nothing: an average that is no further from the last weights than float16 rounds is not told from them.)
    """
    rng, steps = np.random.default_rng(0), 1600
    pace = 0.2 + 0.4 * (1 + np.cos(np.pi * np.arange(steps) / steps))[:, None]
    drift = np.cumsum(pace * (0.05 * rng.normal(size=40) + rng.normal(size=(steps, 40))), axis=0) * 0.01
    return drift + 0.2 * pace * rng.normal(size=(steps, 40))


@pytest.mark.parametrize("sigma_rel", [0.05, 0.075, 0.1, 0.13, 0.15])
def test_a_rebuilt_average_is_the_one_that_was_tracked(walk, sigma_rel):
    every = len(walk) // 16
    kept = {width: tracked(walk, width)[every - 1 :: every] for width in WIDTHS}
    moments = [(t, width) for t in range(every, len(walk) + 1, every) for width in WIDTHS]
    weights, error = averaging.combination(moments, len(walk), sigma_rel)
    stored = np.array([np.float16(kept[width][t // every - 1]) for t, width in moments], np.float64)
    direct = tracked(walk, sigma_rel)[-1]
    assert weights.sum() == pytest.approx(1.0)
    assert np.linalg.norm(weights @ stored - direct) < 0.02 * np.linalg.norm(direct - walk[-1])
    assert error < 0.02


def test_widths_far_from_what_was_kept_are_known_to_be_rebuilt_badly():
    moments = [(t, width) for t in range(600, 9601, 600) for width in WIDTHS]
    errors = {width: averaging.combination(moments, 9600, width)[1] for width in (0.03, 0.05, 0.13, 0.2, 0.25)}
    assert errors[0.05] < 1e-6 < errors[0.13] < 0.01 < errors[0.2] < errors[0.03] < errors[0.25]


def test_a_run_keeps_its_averages_and_is_opened_with_any_width(run_dir):
    assert averages.steps(run_dir) == [6, 12, 18, 24, 30]
    last = tf.train.load_checkpoint(checkpoint_files.path_of(run_dir, 30))
    for i, width in enumerate(WIDTHS):
        tracked_by_the_run = last.get_tensor(f"power_averages/{i}/.ATTRIBUTES/VARIABLE_VALUE")
        kept = averages.read(run_dir, 30)[width]
        assert kept.dtype == np.float16
        np.testing.assert_allclose(kept, tracked_by_the_run, rtol=1e-3, atol=1e-6)
        run = load_run(run_dir, ema=width)
        opened = np.concatenate([np.ravel(weight) for weight in run.network.weights])
        np.testing.assert_allclose(opened, tracked_by_the_run, rtol=2e-3, atol=1e-5)
    plain = load_run(run_dir)
    between = load_run(run_dir, ema=0.08)
    assert between.checkpoint_step == 30
    assert np.any(between.sample(range(2), steps=3) != plain.sample(range(2), steps=3))


def test_a_sweep_of_averages_measures_each_width(run_dir, tmp_path, monkeypatch, capsys):
    projection.take_its_place(monkeypatch.setattr)
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    config = config_lib.with_values(
        load_run(copy).config, {"data.cache_dir": str(tmp_path / "cache"), "sample.steps": 3}
    )
    wanted = evaluate.EvaluationRequest(("fid",), num_images=20, allow_few=True)
    rows = json.loads(sweep.sweep(wanted, config, str(copy), "ema:0.05,0.1,0.25").read_text())
    assert "ema=0.25" in capsys.readouterr().err  # far from what was kept
    receipts = [row["fid"]["receipt"]["generated"] for row in rows.values()]
    assert [receipt["ema"] for receipt in receipts] == [0.05, 0.1, 0.25]
    assert len({receipt["weights_sha256"] for receipt in receipts}) == 3
    assert len({row["fid"]["value"] for row in rows.values()}) == 3
    evaluate.evaluate(wanted, config_lib.with_values(config, {"sample.ema": 0.1}), str(copy), tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text())["fid"]["value"] == rows["0.1"]["fid"]["value"]


def test_an_average_is_guided_by_what_is_earlier_than_the_moment_at_which_it_was_kept(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / averages.FOLDER / "step-30.safetensors").unlink()
    assert load_run(tmp_path / "run", ema=0.1, guide="12", guidance=2.0).checkpoint_step == 24
    with pytest.raises(UserError, match="guide=24: it guides this run's step 24; expected an earlier one"):
        load_run(tmp_path / "run", ema=0.1, guide="24", guidance=2.0)


def test_a_sweep_of_checkpoints_draws_with_their_own_weights_guided_by_earlier_ones(run_dir):
    config = load_run(run_dir).config
    averaged, guided = (
        config_lib.with_values(config, {f"sample.{name}": value}) for name, value in (("ema", 0.1), ("guide", "12"))
    )
    assert sweep.points_of("checkpoint", config, run_dir) == ("checkpoint", [12, 24, 30])
    assert sweep.points_of("checkpoint", guided, run_dir) == ("checkpoint", [24, 30])
    assert sweep.points_of("checkpoint:12,30", guided, run_dir) == ("checkpoint", [12, 30])
    with pytest.raises(UserError, match=r"sample.ema=0.1 draws with averages .* expected --set=sample.ema=none"):
        sweep.points_of("checkpoint", averaged, run_dir)
    with pytest.raises(UserError, match="no checkpoint after guide=30"):
        sweep.points_of("checkpoint", config_lib.with_values(config, {"sample.guide": "30"}), run_dir)


def test_what_cannot_be_rebuilt_is_told(run_dir, tmp_path, capsys):
    load_run(run_dir, ema=0.25)
    assert "ema=0.25" in capsys.readouterr().err
    loop.run(make_tiny_config(train__steps=1), tmp_path / "without")
    with pytest.raises(UserError, match=r"has kept no averages up to step 1; train one with train.averages=0.05,0.1"):
        load_run(tmp_path / "without", ema=0.1)
    with pytest.raises(UserError, match="is a width of weights=ema"):
        load_run(run_dir, ema=0.1, weights="raw")
    with pytest.raises(UserError, match="chosen when the run is loaded"):
        load_run(run_dir).sample([0], ema=0.1)
    (run_dir / averages.FOLDER / "step-30.safetensors").write_bytes(b"no such thing")
    with pytest.raises(UserError, match="cannot read the averages"):
        load_run(run_dir, ema=0.1)


def test_averages_of_a_training_that_was_given_up_go_before_another_begins(tmp_path):
    vectors = {0.1: np.zeros(3, np.float32)}
    for step in (6, 12, 18):
        averages.write(tmp_path, step, vectors)
    averages.remove_after(tmp_path, 12)
    assert averages.steps(tmp_path) == [6, 12]
    changes = {"train__averages": WIDTHS, "train__averages_every": 5, "train__checkpoint_every": 100}
    (tmp_path / "run").mkdir()
    averages.write(tmp_path / "run", 7, vectors)
    loop.run(make_tiny_config(train__steps=10, **changes), tmp_path / "run")  # it has no checkpoint: it begins anew
    assert averages.steps(tmp_path / "run") == [5, 10]


def test_a_disk_that_takes_no_averages_is_an_os_error(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(averages, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        averages.write(tmp_path, 6, {0.1: np.zeros(3, np.float32)})
    assert not list((tmp_path / averages.FOLDER).iterdir())


def test_several_updates_a_call_keep_the_same_averages(tmp_path):
    changes = {"train__averages": WIDTHS, "train__averages_every": 4, "train__log_every": 100}
    for name, calls in (("one", 1), ("several", 5)):
        loop.run(make_tiny_config(train__steps=18, train__steps_per_call=calls, **changes), tmp_path / name)
    assert averages.steps(tmp_path / "one") == averages.steps(tmp_path / "several") == [4, 8, 12, 16, 18]
