"""Given images on a Gaussian, whose denoiser is known exactly, in float64; and what lies between two noises."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import EXACT, MEAN, STD, chain, denoiser_of
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.diffusion import interpolation, samplers
from tf_ddpm.sampling import drawing


def inpainted(keep, repeats, count=4000):
    """Draws of a pair of correlated normal numbers (correlation 0.9), given what `keep` [2] keeps of (1, 1)."""
    covariance = tf.constant([[1.0, 0.9], [0.9, 1.0]], tf.float64)
    _, short = chain(250, variance="fixed_small")

    def network(x, level):
        marginal = level.alpha**2 * covariance + level.sigma**2 * tf.eye(2, dtype=tf.float64)
        return level.sigma * tf.transpose(tf.linalg.solve(marginal, tf.transpose(x)))

    given, rng = tf.ones([count, 2], tf.float64), np.random.default_rng(0)
    sampler = samplers.Inpainting(samplers.Ancestral(short, "none"), given, tf.constant([keep], tf.float64), repeats)
    noises = lambda _: tf.numpy_function(lambda: rng.normal(size=(count, 2)), [], tf.float64)  # noqa: E731
    x_0, _ = samplers.sample_loop(sampler, denoiser_of(network), noises(0), noises)
    return x_0.numpy()


def test_inpainting_keeps_what_is_known_and_with_repeats_draws_the_rest_given_it():
    first, last = inpainted([1.0, 0.0], 1), inpainted([1.0, 0.0], 10)
    assert np.all(first[:, 0] == 1) and np.all(last[:, 0] == 1)
    # Given that the first number is 1, the second is N(0.9, 1 - 0.81).
    assert abs(last[:, 1].mean() - 0.9) < 0.5 * abs(first[:, 1].mean() - 0.9)
    assert last[:, 1].mean() == pytest.approx(0.9, abs=0.05)
    assert last[:, 1].std() == pytest.approx(np.sqrt(0.19), rel=0.2)


def test_inpainting_of_everything_and_of_nothing():
    assert np.all(inpainted([1.0, 1.0], 2, count=10) == 1)
    free = inpainted([0.0, 0.0], 1)
    np.testing.assert_allclose(np.cov(free.T), [[1.0, 0.9], [0.9, 1.0]], atol=0.06)


def test_inpainting_refuses_a_sampler_that_remembers():
    _, short = chain(10)
    with pytest.raises(ValueError, match="remembers"):
        samplers.Inpainting(samplers.DPMSolverPP(short, order=2), tf.zeros([1, 2]), tf.zeros([1, 2]))


SAMPLERS = {
    "ancestral": samplers.Ancestral,
    "ddim": samplers.DDIM,
    "ddim, eta 1": lambda chain: samplers.DDIM(chain, eta=1.0),
    "heun": samplers.Heun,
    "langevin": samplers.Langevin,
} | {
    f"dpmpp of order {order}, {third}, eta {eta}": lambda chain, order=order, third=third, eta=eta: (
        samplers.DPMSolverPP(chain, "none", order, third, lower_order_final=False, eta=eta)
    )
    for order, third, eta in ((1, "diffusers", 0.0), (2, "diffusers", 0.0), (2, "diffusers", 1.0), (3, "taylor", 0.5))
}


def addressed(rows, draws):
    """noise(count) -> [rows, 3] of the draw, the same number of steps before the chain's end whatever the chain."""
    table = tf.constant(np.random.default_rng(1).normal(size=(rows, draws, 3)))
    return lambda k: tf.gather(table, k, axis=1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_that_enter_at_uneven_steps_are_each_drawn_as_by_a_chain_of_its_own_that_begins_there(name):
    _, whole = chain(12)
    steps = np.array([12, 1, 0, 5, 2, 11])
    x = np.random.default_rng(0).normal(size=(len(steps), 3))
    sampler, denoiser = SAMPLERS[name](whole), EXACT
    noise = addressed(len(steps), 12 * max(sampler.draws, 1))
    entering = samplers.Entering(sampler, tf.constant(steps))
    drawn, _ = samplers.sample_loop(entering, denoiser, tf.constant(x), noise)
    later, _ = samplers.sample_loop(entering, denoiser, tf.constant(x), noise)
    np.testing.assert_array_equal(drawn, later)
    for row, count in enumerate(steps):
        alone = tf.constant(x[row : row + 1])
        if count:
            short = SAMPLERS[name](whole.respaced(np.arange(count)))
            skipped = (12 - count) * short.draws
            own = lambda k, row=row, skipped=skipped: noise(k + skipped)[row : row + 1]  # noqa: E731
            alone, _ = samplers.sample_loop(short, denoiser, alone, own)
        np.testing.assert_allclose(drawn[row], alone[0], rtol=1e-9, err_msg=f"{name}: {count} steps")


def test_first_steps_that_no_row_makes_may_be_left_out():
    _, whole = chain(12)
    steps, x = tf.constant([3, 5]), tf.constant([[0.1, 0.5, -1.0], [2.0, -0.3, 0.2]], tf.float64)
    entering = samplers.Entering(samplers.DPMSolverPP(whole, eta=1.0), steps)
    loop = lambda first: samplers.sample_loop(  # noqa: E731
        entering, EXACT, x, addressed(2, 12), first=first
    )[0].numpy()
    np.testing.assert_array_equal(loop(0), loop(7))
    assert np.abs(loop(0) - loop(9)).max() > 1e-3


def varied(image, strength, seeds, make=samplers.DPMSolverPP, steps=10):
    """`drawing.vary` of uint8 images on a chain of `steps` of the exact denoiser."""
    _, whole = chain(steps)
    noise = drawing.image_noise(tf.constant(seeds, tf.int64), image.shape[1:])
    strength = tf.constant(strength, tf.float32)
    return drawing.vary(make(whole), EXACT, noise, Pixels(), tf.constant(image), strength).numpy()


def test_no_strength_gives_the_image_back_and_every_row_depends_on_itself_alone():
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
    strengths, seeds = [0.0, 0.3, 1.0, 0.05, 0.0], [1, 2, 3, 4, 5]
    together = varied(image, strengths, seeds)
    np.testing.assert_array_equal(together[[0, 4]], image[[0, 4]])
    for row in range(5):
        alone = varied(image[row : row + 1], strengths[row : row + 1], seeds[row : row + 1])
        np.testing.assert_array_equal(alone[0], together[row])
    distance = np.abs(together.astype(int) - image).mean(axis=(1, 2, 3))
    assert distance[0] == 0 < distance[3] < distance[1] < distance[2]


def test_all_256_values_come_back_from_no_strength():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(varied(image, [0.0], [0]), image)
    np.testing.assert_array_equal(Pixels().decode(Pixels().encode(tf.constant(image))), image)


@pytest.mark.parametrize(
    ("strength", "steps", "made"),
    [(0.29, 100, 29), (0.3, 10, 3), (0.31, 10, 4), (1e-6, 10, 1), (1.0, 10, 10), (0.7, 1000, 700), (0.999, 7, 7)],
)
def test_a_row_makes_the_last_ceil_of_strength_times_all_steps(strength, steps, made, monkeypatch):
    seen = []
    entering = samplers.Entering
    monkeypatch.setattr(
        samplers, "Entering", lambda inner, count: seen.append(int(count[0])) or entering(inner, count)
    )
    varied(np.zeros((1, 1, 1, 1), np.uint8), [strength], [0], samplers.DDIM, steps)
    assert seen == [made]


def test_a_variation_of_the_gaussian_is_of_the_gaussian_again():
    """The exact denoiser's chain keeps the marginal of x_t at every step, so that x_0 has its mean and variance."""
    _, whole = chain(200)  # of the two fixed variances the large one is nearer to this Gaussian's own
    x_0 = tf.constant(np.random.default_rng(0).normal(MEAN, STD, (20_000, 1)))
    steps = tf.constant(np.resize([20, 70, 150, 200], 20_000))
    rng = np.random.default_rng(2)
    noise = lambda _: tf.numpy_function(lambda: rng.normal(size=(20_000, 1)), [], tf.float64)  # noqa: E731
    x_t = whole.levels.at(steps - 1, x_0).noised(x_0, noise(0))
    entering = samplers.Entering(samplers.Ancestral(whole, "none"), steps)
    drawn, _ = samplers.sample_loop(entering, EXACT, x_t, noise)
    for count in (20, 70, 150, 200):
        part = drawn.numpy()[steps.numpy() == count]
        assert part.mean() == pytest.approx(MEAN, abs=0.03) and part.std() == pytest.approx(STD, rel=0.03)


def test_the_ends_of_a_great_circle_are_the_two_noises_bit_for_bit_and_all_between_has_their_length():
    a, b = (tf.random.stateless_normal([5, 8, 8, 3], [0, seed]) for seed in (1, 2))
    ends = interpolation.great_circle(a, b, tf.constant([0.0, 1.0, 0.0, 1.0, 0.5]))
    np.testing.assert_array_equal(ends[:4], tf.stack([a[0], b[1], a[2], b[3]]))
    length = lambda x: np.linalg.norm(x.numpy().reshape(len(x), -1), axis=1)  # noqa: E731
    a = a / length(a).reshape(-1, 1, 1, 1)
    b = b / length(b).reshape(-1, 1, 1, 1)
    between = interpolation.great_circle(a, b, tf.linspace(0.1, 0.9, 5))
    np.testing.assert_allclose(length(between), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(interpolation.great_circle(a, a, tf.fill([5], 0.5)), a)
    assert np.isfinite(interpolation.great_circle(a, -a, tf.linspace(0.0, 1.0, 5))).all()


def test_between_two_noises_every_draw_follows_its_own_circle():
    one, other = (drawing.image_noise(tf.constant([seed], tf.int64), [4, 4, 1]) for seed in (7, 8))
    for count in (0, 3):
        for mix, end in ((0.0, one), (1.0, other)):
            between = drawing.noise_between(one, other, tf.constant([mix]))
            np.testing.assert_array_equal(between(count), end(count))
    halfway = drawing.noise_between(one, other, tf.constant([0.5]))
    assert np.abs(halfway(0) - halfway(3)).max() > 0.1
