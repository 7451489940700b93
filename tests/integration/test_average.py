"""The average of the weights: how much of it is still the beginning, and what is drawn until it has left that."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.fresh import fresh_state
from tests.support.tiny import make_tiny_config, mirrored
from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import TrainConfig
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.errors import UserError
from tf_ddpm.networks import averaging
from tf_ddpm.runs import checkpoints, configuration
from tf_ddpm.sampling import image_files, rebuilding
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop
from tf_ddpm.training.update import make_update

FIRST = Path(__file__).parents[1] / "fixtures" / "first_runs"
STALE = {"train__ema_decay": 0.9999, "train__ema_warmup": False}


@pytest.mark.parametrize("warmup", [False, True])
def test_the_share_of_the_initial_weights_is_what_the_average_keeps_of_them(warmup):
    """With weights of 0 that never move, an average that began with 1 is its own share of the beginning."""
    changes = {"train__ema_decay": 0.8, "train__ema_warmup": warmup}
    config, strategy = make_tiny_config(data__image_size=(8, 8), data__channels=1, **changes), mirrored(2)
    with strategy.scope():
        state = fresh_state(config)
        state.weights.assign(tf.zeros_like(state.weights))
        state.average.assign(tf.ones_like(state.average))
        state.refresh_network()
    never = lambda denoiser, x_0, level, eps: 0.0 * tf.reduce_sum(denoiser(x_0, level).x_0, [1, 2, 3])  # noqa: E731
    update = make_update(state, config, strategy, never)
    images = ImageSet(np.zeros((20, 8, 8, 1), np.uint8), np.zeros(20, np.int32), ())
    batches = iter(
        strategy.distribute_datasets_from_function(
            lambda context: batch_dataset(images, 16, 0, 0, False, context.num_replicas_in_sync)
        )
    )
    for _ in range(12):
        update(next(batches))
    share = averaging.initial_share(12, 0.8, warmup)
    assert 1e-6 < share < 0.1
    np.testing.assert_allclose(state.average.numpy(), share, rtol=1e-5)
    assert float(tf.convert_to_tensor(state.initial_share)) == pytest.approx(share, rel=1e-5)


@pytest.fixture(scope="module")
def stale_run(tmp_path_factory):
    """A run whose average has hardly begun to follow, and what it printed."""
    path = tmp_path_factory.mktemp("stale") / "run"
    loop.run(make_tiny_config(**STALE, train__learning_rate=0.02), path)
    return path


def test_images_of_an_average_that_is_still_the_beginning_are_warned_of_and_the_last_weights_are_offered(
    stale_run, run_dir, capsys
):
    load_run(stale_run)
    assert "100% of the weights' average" in (said := capsys.readouterr().err) and "weights=raw" in said
    raw = load_run(stale_run, weights="raw")
    load_run(run_dir)
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match="weights: chosen when the run is loaded"):
        raw.sample([0], weights="ema")


def test_the_share_that_a_checkpoint_of_version_1_does_not_say_is_reckoned_at_most(capsys):
    rebuilding.warn_of_stale_average(TrainConfig(ema_decay=0.9999, ema_warmup=False), 2000, None, "guide=2000: ")
    assert "warning: guide=2000: up to 82% of the weights' average are still" in capsys.readouterr().err
    rebuilding.warn_of_stale_average(TrainConfig(ema_decay=0.9999, ema_warmup=False), 2000, 0.001)
    assert not capsys.readouterr().err


def test_raw_weights_are_those_of_the_last_update(stale_run):
    raw, ema = load_run(stale_run, weights="raw"), load_run(stale_run)
    network = build.network(raw.config, "float32")
    _, share = checkpoints.restore_network(network, stale_run, weights="raw")
    assert share == pytest.approx(0.9999**8, rel=1e-6)
    for mine, known, averaged in zip(raw.network.weights, network.weights, ema.network.weights, strict=True):
        np.testing.assert_array_equal(mine, known)
        assert np.ptp(known) == 0 or not np.array_equal(known, averaged)


def test_a_preview_shows_the_last_weights_until_the_average_follows(stale_run):
    raw = load_run(stale_run, weights="raw")
    seeds = range(raw.config.train.preview_images)
    preview = np.array(Image.open(stale_run / "previews" / "step_0000008.png"))
    settings = {"sampler": "ddim", "steps": min(25, raw.config.diffusion.timesteps)}
    drawn, stale = (image_files.grid(run.sample(seeds, **settings))[..., 0] for run in (raw, load_run(stale_run)))
    assert np.abs(preview.astype(int) - drawn).mean() < 0.5 < np.abs(preview.astype(int) - stale).mean()


def test_the_decay_of_a_run_may_change_and_its_share_goes_on(stale_run, tmp_path):
    shutil.copytree(stale_run, tmp_path / "run")
    faster = {"train.steps": 12, "train.ema_decay": 0.5}
    state = loop.run(config_lib.with_values(configuration.read(stale_run), faster), tmp_path / "run")
    assert float(tf.convert_to_tensor(state.initial_share)) == pytest.approx(0.9999**8 * 0.5**4, rel=1e-5)


def test_checkpoints_that_did_not_keep_the_share_have_the_one_that_they_are_given(tmp_path):
    shutil.copytree(FIRST / "plain", tmp_path / "run")
    config = configuration.read(tmp_path / "run")
    state = fresh_state(config)
    checkpoints.CheckpointManager(tmp_path / "run", state, 3, initial_share=lambda updates: 0.5**updates).restore()
    assert float(tf.convert_to_tensor(state.initial_share)) == 0.5**8
    assert checkpoints.restore_network(build.network(config, "float32"), tmp_path / "run") == (8, None)


@pytest.mark.parametrize("words", [{"weights": "raw"}, {"weights": "ema"}])
def test_an_imported_run_has_one_kind_of_weights(run_dir, tmp_path, words, capsys):
    config = config_lib.with_values(configuration.read(run_dir), {"data.name": None})
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    run = load_run(run_dir)
    checkpoints.save_imported(run.network, tmp_path)
    capsys.readouterr()
    np.testing.assert_array_equal(load_run(tmp_path, **words).network.weights[0], run.network.weights[0])
    assert not capsys.readouterr().err
