"""What every sampler must be: one that has a row in `sampler_facts` is tested by these alone."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import EXACT, MEAN, STD, chain, denoiser_of, end_of_path
from tf_ddpm import build
from tf_ddpm.config import DiffusionConfig, SampleConfig
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.diffusion.samplers import Entering, sample_loop

# What makes a sampler's steps draw noise, where a setting says whether they do.
CASES = [
    (name, settings)
    for name, facts in SAMPLERS.items()
    for settings in ([{}] if facts.noise in ("always", "never") else [{facts.noise: 0.0}, {facts.noise: 0.7}])
]
STEPS = 12


@pytest.fixture(params=CASES, ids=str)
def case(request):
    """The facts, the settings, and the sampler as a configuration asks for it."""
    name, settings = request.param
    sample = SampleConfig(sampler=name, steps=STEPS, clip="none", langevin_steps=3, **settings)
    return SAMPLERS[name], sample, build.sampler(sample, build.chain(DiffusionConfig()))


def table(rows, draws, seed=0):
    """noise(count) -> [rows, 3]."""
    noises = tf.constant(np.random.default_rng(seed).normal(size=(draws, rows, 3)))
    return lambda k: tf.gather(noises, k)


def drawn(sampler, x_T, noise, denoiser=EXACT):
    return sample_loop(sampler, denoiser, tf.constant(x_T), noise)[0].numpy()


def test_it_draws_noise_when_its_facts_say_so(case):
    facts, sample, sampler = case
    x_T, draws = np.random.default_rng(1).normal(size=(4, 3)), STEPS * max(sampler.draws, 1)
    one, other = (drawn(sampler, x_T, table(4, draws, seed)) for seed in (0, 1))
    assert facts.deterministic(sample) == (sampler.draws == 0) == np.array_equal(one, other)


def test_it_asks_for_as_many_noises_and_calls_as_it_says(case):
    _, _, sampler = case
    asked, calls = [], []

    def network(x, level):
        tf.numpy_function(lambda: calls.append(1) or np.float32(0), [], tf.float32)
        return tf.zeros_like(x)

    def noise(k):
        tf.numpy_function(lambda k: asked.append(int(k)) or np.float32(0), [k], tf.float32)
        return tf.ones([2, 3], tf.float64)

    drawn(sampler, np.ones((2, 3)), noise, denoiser_of(network))
    assert len(set(asked)) <= STEPS * sampler.draws and (not asked or max(asked) < STEPS * sampler.draws)
    assert STEPS * sampler.calls - sampler.calls + 1 <= len(calls) <= STEPS * sampler.calls


def test_a_row_depends_on_itself_alone(case):
    _, _, sampler = case
    x_T, noise = np.random.default_rng(2).normal(size=(5, 3)) * [[1], [9], [1], [0.1], [1]], table(5, STEPS * 4)
    together = drawn(sampler, x_T, noise)
    for row in range(5):
        alone = drawn(sampler, x_T[row : row + 1], lambda k, row=row: noise(k)[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-10)


def test_it_brings_normal_noise_to_the_images_of_the_exact_denoiser():
    for name, facts in SAMPLERS.items():
        sample = SampleConfig(sampler=name, steps=100, clip="none", langevin_steps=15)
        sampler = build.sampler(sample, build.chain(DiffusionConfig()))
        noises = tf.constant(np.random.default_rng(3).normal(size=(100 * max(sampler.draws, 1), 40, 400)))
        x_T = np.random.default_rng(4).normal(size=(40, 400))
        asked = denoiser_of(end_of_path, "x_0") if facts.jumps else EXACT
        x_0 = drawn(sampler, x_T, lambda k, noises=noises: tf.gather(noises, k), asked)
        assert abs(x_0.mean() - MEAN) < 0.05 and abs(x_0.std() - STD) < 0.05, (name, facts.about)


def test_the_last_step_returns_the_predicted_image(case):
    _, _, sampler = case
    x = tf.constant([[0.3, -0.2, 1.0]], tf.float64)
    noise = lambda _: 1e6 * tf.ones_like(x)  # noqa: E731
    x_prev, x_0, _ = sampler.step(EXACT, x, tf.constant(0), noise, sampler.memory(x))
    np.testing.assert_allclose(x_prev, x_0, rtol=1e-12)


def test_it_draws_in_the_dtype_of_the_images_and_takes_rows_that_enter_late(case):
    _, _, sampler = case
    for dtype in (tf.float32, tf.float64):
        x = tf.ones([2, 3], dtype)
        x_0, _ = sample_loop(sampler, EXACT, x, lambda _, x=x: tf.zeros_like(x))
        assert x_0.dtype == dtype and np.all(np.isfinite(x_0))
    late, _ = sample_loop(Entering(sampler, tf.constant([0, 5])), EXACT, x, lambda _: tf.zeros_like(x))
    np.testing.assert_array_equal(late[0], x[0])
    assert np.abs(late[1] - x[1]).max() > 0.01


def test_its_chain_has_the_steps_that_were_asked_for(case):
    _, _, sampler = case
    assert len(sampler.chain) == STEPS and chain(STEPS)[1].levels.time.max() <= 999


def test_it_takes_a_network_that_knows_less_of_the_shapes_than_the_loop(case):
    """As where images of any size are drawn one by one."""
    _, _, sampler = case

    def network(x, level):
        return tf.raw_ops.PlaceholderWithDefault(input=0.1 * x, shape=[None, None])

    draw = tf.function(lambda x: sample_loop(sampler, denoiser_of(network), x, lambda k: 0.0 * x)[0])
    assert draw(tf.ones([1, 3], tf.float64)).shape == (1, 3)
