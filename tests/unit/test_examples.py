"""The small programs beside the package."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from examples import binomial, score_matching, swiss_roll
from tf_ddpm.diffusion import bounds


def test_the_swiss_rolls_bound_falls_and_points_come_back():
    chain = swiss_roll.chain()
    denoiser, losses = swiss_roll.train(chain, 300, 0)
    assert losses[-1] < losses[0] - 0.2 and np.all(np.isfinite(losses))
    path = swiss_roll.reverse(chain, denoiser, 500, 0)
    assert len(path) == swiss_roll.STEPS + 1
    data = swiss_roll.swiss_roll(500, 1)
    assert 0.9 < path[0].std() < 1.1
    np.testing.assert_allclose(path[-1].std(axis=0), data.std(axis=0), rtol=0.3)
    assert bounds.prior_term(chain, tf.constant(data)).numpy().max() < 1e-3  # the chain does end in noise


def test_the_binomial_posterior_is_bayes_rule_and_forgets_everything_at_the_end():
    chain = binomial.BinomialChain(6)
    np.testing.assert_allclose(chain.alpha_bar, 1 - np.arange(1, 7) / 6, atol=1e-12)
    one_step = lambda x, t: x * (1 - chain.betas[t]) + chain.betas[t] / 2  # noqa: E731  q(x_t = 1 | x_{t-1})
    for x_0 in (0.0, 1.0):
        for t in range(1, 6):
            before = chain.q(tf.constant([[x_0]], tf.float64), tf.constant([t - 1])).numpy().item()
            for x_t in (0.0, 1.0):
                likelihood = [abs(1 - x_t - one_step(value, t)) for value in (0.0, 1.0)]
                expected = likelihood[1] * before / (likelihood[1] * before + likelihood[0] * (1 - before))
                found = chain.posterior(
                    tf.constant([[x_0]], tf.float64), tf.constant([[x_t]], tf.float64), tf.constant([t])
                )
                assert found.numpy().item() == pytest.approx(expected, rel=1e-9)
    assert chain.prior_term(tf.ones([1, 3], tf.float64)).numpy().item() == pytest.approx(0.0, abs=1e-9)


def exact_denoiser(chain, data):
    """p(x_0 = 1 | x_t) of the data, by Bayes' rule over its sequences."""

    def denoise(x_t, t):
        q = tf.stack([chain.q(tf.ones_like(x_t) * row, t) for row in data], axis=1)  # [B, N, L]
        likelihood = tf.reduce_prod(tf.where(x_t[:, None] > 0.5, q, 1 - q), axis=2)
        shares = likelihood / tf.reduce_sum(likelihood, axis=1, keepdims=True)
        return tf.linalg.matmul(shares, tf.constant(data, x_t.dtype))

    return denoise


@pytest.mark.parametrize("length", [3, 4])
def test_the_binomial_bound_is_the_expectation_over_all_noised_sequences_and_tightens_with_more_steps(length):
    """Every x_t there is, weighed by its probability; no bound is below the entropy of the data."""
    data = binomial.heartbeats(length, length)
    every = tf.constant(np.array(list(itertools.product([0.0, 1.0], repeat=length))))
    found = []
    for steps in (2, 8, 64):
        chain, total = binomial.BinomialChain(steps), 0.0
        denoiser = exact_denoiser(chain, data)
        for t in range(steps):
            times = tf.fill([len(every)], t)
            for row in data:
                q = chain.q(tf.ones_like(every) * row, times)
                weights = tf.reduce_prod(tf.where(every > 0.5, q, 1 - q), axis=1)
                terms = chain.term(denoiser, tf.ones_like(every) * row, every, times)
                total += float(tf.reduce_sum(tf.where(weights > 0, weights * terms, 0.0))) / len(data)
        found.append(total)
    drawn = binomial.bound(chain, denoiser, np.tile(data, (500, 1)), 1, seed=0)  # (of the last chain)
    assert drawn == pytest.approx(total, rel=0.02)
    assert found[0] > found[1] > found[2] > np.log2(length)
    assert found[2] - np.log2(length) < 0.1


def test_the_heartbeats_bound_falls_towards_their_entropy():
    chain = binomial.BinomialChain(binomial.STEPS)
    network, losses = binomial.train(chain, 300, 0)
    assert losses[-1] < losses[0] - 3 and losses[-1] > np.log2(5)
    path = binomial.reverse(chain, network, 50, 0)
    assert len(path) == binomial.STEPS + 1 and set(np.unique(path[-1])) <= {0.0, 1.0}
    assert binomial.right(binomial.heartbeats()) == 1.0 > binomial.right(path[0])


def test_the_exact_score_is_the_gradient_of_the_mixtures_log_density():
    x = tf.constant(np.random.default_rng(0).uniform(-1.5, 1.5, (20, 2)), tf.float32)
    variance = score_matching.STD**2 + score_matching.SIGMA**2
    with tf.GradientTape() as tape:
        tape.watch(x)
        squares = tf.reduce_sum((x[:, None] - score_matching.CENTRES[None]) ** 2, axis=2)
        density = tf.reduce_logsumexp(-squares / (2 * variance), axis=1)
    np.testing.assert_allclose(score_matching.exact_score(x), tape.gradient(density, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", score_matching.OBJECTIVES)
def test_each_way_of_matching_scores_is_least_at_the_exact_score(name):
    """On average over many points; and the first updates go there."""
    tf.random.set_seed(0)
    x, objective = score_matching.mixture(200_000, 0), score_matching.OBJECTIVES[name]
    noise = tf.random.stateless_normal(x.shape, [0, 0])

    def value(factor, shift):
        tf.random.set_seed(1)  # the same directions
        score = lambda x: factor * score_matching.exact_score(x) + shift  # noqa: E731
        return float(tf.reduce_mean(objective(score, x, noise)))

    least = value(1.0, 0.0)
    assert all(value(*wrong) > least for wrong in ((0.9, 0.0), (1.1, 0.0), (1.0, 0.3), (1.0, -0.3)))
    network = score_matching.train(objective, 500, 0)
    assert score_matching.error(network, 0) < 0.5
