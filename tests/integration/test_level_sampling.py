"""Importance-sampled timesteps."""

import numpy as np
import tensorflow as tf

from tests.support.fresh import fresh_state
from tests.support.tiny import make_tiny_config
from tf_ddpm import randomness
from tf_ddpm.diffusion.level_sampling import ImportanceLevels
from tf_ddpm.diffusion.levels import Levels
from tf_ddpm.runs import checkpoints
from tf_ddpm.training import loop


def table(steps):
    return Levels(np.ones(steps), np.ones(steps), np.arange(steps))


class Reference:
    """The same, one loss after another, as in the words of Nichol & Dhariwal 2021."""

    def __init__(self, timesteps):
        self.losses = [[] for _ in range(timesteps)]

    def record(self, t, losses):
        for i, loss in zip(t, losses, strict=True):
            self.losses[i] = [*self.losses[i], loss][-10:]

    def probabilities(self):
        count = len(self.losses)
        if any(len(past) < 10 for past in self.losses):
            return np.full(count, 1 / count)
        size = np.array([np.sqrt(np.mean(np.square(past))) for past in self.losses])
        return 0.999 * size / size.sum() + 0.001 / count


def test_probabilities_follow_the_last_ten_losses_of_each_t():
    rng, ours, reference = np.random.default_rng(0), ImportanceLevels(table(6)), Reference(6)
    record = tf.function(ours.record)
    uniform = 0
    for _ in range(40):
        t, losses = rng.integers(0, 6, 16), rng.gamma(1.0, size=16).astype(np.float32)
        t[:14] = np.where(rng.random(14) < 0.3, 4, t[:14])  # often more than ten of one t in a batch
        record(tf.constant(t), tf.constant(losses))
        reference.record(t, losses)
        np.testing.assert_allclose(ours.probabilities(), reference.probabilities(), rtol=1e-6)
        uniform += np.ptp(ours.probabilities()) == 0
    assert 1 < uniform < 20


def test_more_than_ten_of_one_t_in_a_batch_leave_the_last_ten():
    ours = ImportanceLevels(table(1))
    ours.record(tf.zeros([25], tf.int64), tf.range(25.0))
    np.testing.assert_array_equal(np.sort(ours.history.numpy()[0]), np.arange(15, 25))


def test_weighed_draws_have_the_expectation_of_uniform_ones():
    ours = ImportanceLevels(table(5))
    losses = np.array([0.1, 4.0, 0.0, 1.0, 0.5], np.float32)
    for _ in range(10):
        ours.record(tf.range(5), tf.constant(losses))
    level, weight = ours.draw(randomness.row_address(0, 3, 0), tf.zeros([200_000, 1]))
    t = level.step.numpy()
    share = np.bincount(t, minlength=5) / 200_000
    np.testing.assert_allclose(share, ours.probabilities(), atol=4e-3)
    assert share[1] > 0.6 and share[2] > 0
    np.testing.assert_allclose(np.mean(weight * losses[t]), losses.mean(), rtol=5e-3)


def test_draws_are_those_of_the_rows_of_the_global_batch():
    ours = ImportanceLevels(table(50))
    whole, _ = ours.draw(randomness.row_address(1, 2, 0), tf.zeros([12, 1]))
    part, _ = ours.draw(randomness.row_address(1, 2, 8), tf.zeros([4, 1]))
    np.testing.assert_array_equal(whole.step[8:], part.step)


def test_the_history_is_saved_and_a_resumed_run_has_that_of_one_never_stopped(tmp_path):
    changes = {"diffusion__timesteps": 4, "diffusion__beta_end": 0.5, "train__timestep_sampling": "importance"}

    def history(run_dir, *steps):
        for count in steps:
            state = loop.run(make_tiny_config(train__steps=count, **changes), run_dir)
        return state.level_sampler

    whole, parts = history(tmp_path / "whole", 8), history(tmp_path / "parts", 4, 8)
    assert whole.counts.numpy().sum() == 8 * 16 and whole.history.numpy().min() > 0
    np.testing.assert_array_equal(whole.counts, parts.counts)
    np.testing.assert_allclose(whole.history, parts.history, rtol=1e-5)
    config = make_tiny_config(data__image_size=(8, 8), data__channels=1, **changes)
    fresh = fresh_state(config)
    checkpoints.CheckpointManager(tmp_path / "whole", fresh, 3).restore()
    np.testing.assert_array_equal(fresh.level_sampler.history, whole.history)
