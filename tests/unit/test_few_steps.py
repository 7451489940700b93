"""Students against closed forms: on images drawn from a Gaussian, the path of every noisy image is known."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import EXACT, MEAN, STD, denoiser_of, end_of_path
from tf_ddpm import randomness
from tf_ddpm.diffusion import consistency, samplers, schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.consistency import Pairs, Point
from tf_ddpm.diffusion.levels import Level
from tf_ddpm.diffusion.parametrisation import PARAMETRISATIONS, EDMPrediction
from tf_ddpm.diffusion.progressive import Stages, finest_grid, truncated_snr_error

CHAIN = Chain(schedules.betas("cosine", 1000))
ADDRESS = randomness.row_address(3, 7, 0)


def spread(sigma):
    """Of x / alpha under the noise sigma."""
    return (STD**2 + sigma**2) ** 0.5


def consistency_loss(pairs, path, huber):
    """The loss of an update whose student is a denoiser."""

    def loss(denoiser, x_0, level, eps):
        wanted = consistency.target(pairs, path, denoiser, x_0, level, eps)
        return consistency.distance(pairs, level, denoiser(level.noised(x_0, eps), level).x_0, wanted, huber)

    return loss


def progressive_loss(stages, teacher, student, x_0, level, eps):
    """The same of progressive distillation."""
    x_t = level.noised(x_0, eps)
    return truncated_snr_error(student, x_t, level, student.output(x_t, level), stages.target(teacher, x_t, level))


MAP = denoiser_of(end_of_path, "x_0")


def flow(x_0, eps, x_t, level, lower):
    sigma, r = level.sigma / level.alpha, lower.sigma / lower.alpha
    x = lower.alpha * (MEAN + spread(r) / spread(sigma) * (x_t / level.alpha - MEAN))
    return Point(x, end_of_path(x_t, level))


def some_levels(count=64, least=0):
    step = np.linspace(least, 960, count).astype(np.int32)
    x = tf.constant(np.random.default_rng(0).normal(size=(count, 3)), tf.float64)
    return x, CHAIN.levels.at(tf.constant(step), x)


def test_the_map_of_the_flow_has_no_loss_at_any_pair():
    x_0, level = some_levels()
    eps = tf.reverse(x_0, axis=[0])
    for q in (2.0, 16.0, 256.0):
        pairs = Pairs(CHAIN.levels, q)
        loss = consistency_loss(pairs, flow, 1e-3)(MAP, x_0, level, eps)
        assert np.max(np.abs(loss)) < 1e-10, q
        off = consistency_loss(pairs, flow, 1e-3)(EXACT, x_0, level, eps)
        assert np.mean(off) > 1e-3  # the mean clean image is another one


def test_a_path_under_the_same_noise_is_right_on_average_the_more_the_nearer_its_levels():
    x_t, level = some_levels(40, least=300)
    mean_x_0 = EXACT(x_t, level).x_0
    mean_eps = level.eps(x_t, mean_x_0)  # the map is affine, so the mean image has the mean of all images

    def ratio(q):
        pairs = Pairs(CHAIN.levels, q)
        wanted = consistency.target(pairs, consistency.path_of_data, MAP, mean_x_0, level, mean_eps)
        gap = 1.0 / pairs.weights(level)
        return np.abs(MAP(x_t, level).x_0 - wanted) / gap.numpy()[:, None]

    for q in (64.0, 128.0, 256.0):
        assert (ratio(2 * q) <= 0.5 * ratio(q)).all(), q


def test_a_student_of_two_parameters_comes_to_the_map():
    mean, log_std = tf.Variable(0.0), tf.Variable(0.5)
    optimizer = tf.keras.optimizers.Adam(0.02)
    loss_of = consistency_loss(Pairs(CHAIN.levels, 256.0), consistency.path_of_data, 5.4e-4)

    def student(x, level):
        std, sigma = tf.exp(log_std), level.sigma / level.alpha
        return mean + std * (x / level.alpha - mean) / tf.sqrt(std**2 + sigma**2)

    @tf.function
    def update(seed):
        x_0, eps = (tf.random.stateless_normal([1024, 1], [seed, i]) for i in range(2))
        x_0 = MEAN + STD * x_0
        step = tf.random.stateless_uniform([1024], [seed, 2], 0, 950, tf.int32)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(loss_of(denoiser_of(student, "x_0"), x_0, CHAIN.levels.at(step, x_0), eps))
        optimizer.apply_gradients(zip(tape.gradient(loss, [mean, log_std]), [mean, log_std], strict=True))

    for seed in tf.range(1200):
        if seed == 800:
            optimizer.learning_rate.assign(0.003)
        update(seed)
    x, level = some_levels()
    apart = np.abs(student(tf.cast(x, tf.float32), cast(level)).numpy() - end_of_path(x, level).numpy())
    assert np.max(apart) < 0.02 * STD, (float(mean), float(tf.exp(log_std)))


@pytest.mark.parametrize(
    ("timesteps", "steps", "factor", "count"), [(1000, 16, 3, 1), (500, 24, 2, 1), (1000, 4, 2, 4)]
)
def test_the_grids_of_all_stages_end_in_the_one_that_the_student_draws_with(timesteps, steps, factor, count):
    grid = finest_grid(timesteps, steps, factor**count)
    assert len(grid) == steps * factor**count and (np.diff(grid) > 0).all()
    np.testing.assert_array_equal(grid[factor**count - 1 :: factor**count],
                                  schedules.strided_timesteps(timesteps, steps, "trailing"))  # fmt: skip


def cast(level):
    return level._replace(alpha=tf.cast(level.alpha, tf.float32), sigma=tf.cast(level.sigma, tf.float32))


@pytest.mark.parametrize("parametrisation", [PARAMETRISATIONS["v"], PARAMETRISATIONS["eps"], EDMPrediction(0.5)])
def test_where_there_is_no_noise_the_image_is_its_own_end(parametrisation):
    x = tf.constant([[0.3, -0.8]], tf.float64)
    clean = Level(tf.ones([1, 1], tf.float64), tf.zeros([1, 1], tf.float64), tf.zeros([1]))
    np.testing.assert_array_equal(parametrisation.x_0(x, clean, tf.constant([[7.0, -9.0]], tf.float64)), x)


def test_pairs_have_the_levels_and_weights_of_their_formula():
    x, level = some_levels()
    sigma = (level.sigma / level.alpha).numpy()[:, 0]
    for q in (2.0, 256.0):
        pairs = Pairs(CHAIN.levels, q)
        r = np.maximum(sigma * (1 - (1 + 8 / (1 + np.exp(sigma))) / q), 0)
        r[r < CHAIN.levels.relative_sigma[0]] = 0
        lower = pairs.lower(level, x)
        np.testing.assert_allclose((lower.sigma / lower.alpha)[:, 0], r, rtol=3e-6)
        np.testing.assert_allclose(lower.alpha**2 + lower.sigma**2, 1.0, rtol=1e-12)
        np.testing.assert_allclose(pairs.weights(level), 1 / (sigma - r), rtol=1e-4)
    # The least level is paired with the clean image: its weight is that of its own noise, and no more.
    x, level = x[:1], CHAIN.levels.at(tf.constant([0]), x[:1])
    np.testing.assert_allclose(
        Pairs(CHAIN.levels, 256.0).weights(level), 1 / CHAIN.levels.relative_sigma[0], rtol=1e-5
    )


def test_the_time_between_two_levels_is_that_of_the_table():
    wanted = np.array([0.02, 0.3, 1.7, 60.0])
    position = CHAIN.levels.position(tf.constant(wanted))
    found = CHAIN.levels.between(position, tf.zeros([4, 1], tf.float64))
    np.testing.assert_allclose((found.sigma / found.alpha)[:, 0], wanted, rtol=1e-9)
    np.testing.assert_allclose(found.time, CHAIN.levels.of_sigmas(wanted).time, rtol=1e-6)
    np.testing.assert_array_equal(CHAIN.levels.position(tf.constant([1e-9, 1e9])), [0, 999])


@pytest.mark.parametrize("heun", [False, True])
def test_a_step_of_the_teacher_follows_the_flow_by_its_order(heun):
    x_t, level = some_levels(40, least=300)
    path, known = consistency.path_of_teacher(EXACT, heun), tf.zeros_like(x_t)

    def error(q):
        lower = Pairs(CHAIN.levels, q).lower(level, x_t)
        return np.max(np.abs(path(known, known, x_t, level, lower).x - flow(known, known, x_t, level, lower).x))

    order = np.log2(error(128.0) / error(256.0))
    assert order > (2.8 if heun else 1.9)  # of a single step: one more than the method's
    np.testing.assert_array_equal(path(known, known, x_t, level, Pairs(CHAIN.levels, 2.0).lower(level, x_t)).x_0,
                                  EXACT(x_t, level).x_0)  # fmt: skip


def wavy(x, level):
    return tf.sin(3.0 * x + tf.cast(level.time[:, None], x.dtype) / 400.0)


@pytest.mark.parametrize(("factor", "count", "finest"), [(2, 3, 16), (3, 2, 18), (4, 1, 8), (5, 1, 5)])
def test_one_step_of_the_students_target_arrives_where_the_teachers_steps_do(factor, count, finest):
    steps, teacher = schedules.strided_timesteps(1000, finest, "trailing"), denoiser_of(wavy, "x_0")
    stages = Stages(CHAIN.levels, steps, factor, count)
    for stage in range(count):
        stages.stage.assign(stage)
        grid = CHAIN.respaced(steps[factor**stage - 1 :: factor**stage])
        coarse = CHAIN.respaced(steps[factor ** (stage + 1) - 1 :: factor ** (stage + 1)])
        for step in range(len(coarse)):
            x_t = tf.constant([[0.4, -1.1], [0.9, 0.1]], tf.float64)
            level = CHAIN.levels.at(tf.fill([2], int(coarse.timesteps[step])), x_t)
            wanted = stages.target(teacher, x_t, level)
            said = denoiser_of(lambda x, _, wanted=wanted: wanted, "x_0")
            here = samplers.DDIM(coarse, "none").step(said, x_t, step, None, ())[0]
            there, last = x_t, (step + 1) * factor
            for fine in range(last - 1, last - 1 - factor, -1):
                asked = denoiser_of(lambda x, level: wavy(x, level._replace(time=tf.fill([2], level.time))), "x_0")
                there = samplers.DDIM(grid, "none").step(asked, there, fine, None, ())[0]
            np.testing.assert_allclose(here, there, atol=1e-9, err_msg=f"stage {stage}, step {step}")


def test_the_exact_student_of_a_linear_teacher_has_no_loss():
    steps = schedules.strided_timesteps(1000, 8, "trailing")
    stages, whole = Stages(CHAIN.levels, steps, 4, 1), CHAIN.respaced(steps)
    alpha, sigma = np.append(1.0, whole.levels.alpha), np.append(0.0, whole.levels.sigma)

    def exact(x, level):
        """The x_0 of one step, from the slope and the intercept of four steps of DDIM in NumPy."""
        shift, slope = np.zeros(1000), np.zeros(1000)
        for end in (4, 8):
            a, b = 1.0, 0.0  # x = a x_t + b
            for k in range(end, end - 4, -1):
                gain = alpha[k] * STD**2 / (alpha[k] ** 2 * STD**2 + sigma[k] ** 2)
                rest = MEAN - gain * alpha[k] * MEAN  # E[x_0 | x] = gain x + rest
                ratio = sigma[k - 1] / sigma[k]
                weight = alpha[k - 1] - ratio * alpha[k]
                a, b = (ratio + weight * gain) * a, (ratio + weight * gain) * b + weight * rest
            ratio = sigma[end - 4] / sigma[end]
            whole_weight = alpha[end - 4] - ratio * alpha[end]
            slope[steps[end - 1]], shift[steps[end - 1]] = (a - ratio) / whole_weight, b / whole_weight
        return tf.gather(slope, level.step)[:, None] * x + tf.gather(shift, level.step)[:, None]

    x_0 = tf.constant(np.random.default_rng(1).normal(size=(32, 2)))
    level, weight = stages.draw(ADDRESS, x_0)
    assert set(level.step.numpy()) == set(steps[[3, 7]]) and float(weight) == 1.0
    loss = progressive_loss(stages, EXACT, denoiser_of(exact, "x_0"), x_0, level, tf.reverse(x_0, [0]))
    assert np.max(loss) < 1e-18
    assert np.min(progressive_loss(stages, EXACT, EXACT, x_0, level, tf.reverse(x_0, [0]))) > 1e-8


def test_each_stage_draws_all_levels_of_its_own_grid():
    steps = schedules.strided_timesteps(1000, 12, "trailing")
    stages = Stages(CHAIN.levels, steps, 2, 2)
    for stage, wanted in enumerate((steps[1::2], steps[3::4])):
        stages.stage.assign(stage)
        level, _ = stages.draw(ADDRESS, tf.zeros([4000, 1]))
        found, counts = np.unique(level.step, return_counts=True)
        np.testing.assert_array_equal(found, wanted)
        assert counts.min() > 0.8 * 4000 / len(wanted)


def test_two_steps_have_the_mean_and_the_variance_of_their_closed_form():
    rows = 200_000
    kept = schedules.nearest_timesteps(CHAIN.levels.relative_sigma, schedules.few_step_sigmas(2))
    short = CHAIN.respaced(kept)
    noise = lambda k: tf.random.stateless_normal([rows, 1], [5, k], dtype=tf.float64)  # noqa: E731
    x_0, _ = samplers.sample_loop(samplers.Consistency(short, "none"), MAP, noise(0), lambda k: noise(k + 1))
    mean, variance = 0.0, 1.0  # of x_T / alpha: its noise alone
    mean, variance = mean / short.levels.alpha[1], variance / short.levels.alpha[1] ** 2
    for k in (1, 0):
        sigma = short.levels.relative_sigma[k]
        mean = MEAN + STD * (mean - MEAN) / spread(sigma)
        variance = variance * (STD / spread(sigma)) ** 2
        if k:
            variance += short.levels.relative_sigma[0] ** 2
    np.testing.assert_allclose(np.mean(x_0), mean, atol=5 * (variance / rows) ** 0.5)
    np.testing.assert_allclose(np.var(x_0), variance, rtol=5 * (2 / rows) ** 0.5)
    np.testing.assert_allclose([mean, variance], [MEAN, STD**2], rtol=5e-3)  # the noise at 80 hides the mean, nearly


def test_known_pixels_stand_in_each_predicted_image():
    short = CHAIN.respaced(np.array([400, 900]))
    given, keep = tf.constant([[0.25, -0.5, 0.75]]), tf.constant([[1.0, 0.0, 1.0]])
    seen = []

    def network(x, level):
        seen.append(x)
        return tf.zeros_like(x)

    sampler = samplers.inpainting(samplers.Consistency(short, "none"), given, keep, repeats=4)
    noise = lambda k: tf.random.stateless_normal([1, 3], [1, k])  # noqa: E731
    x = noise(0)
    for step in (1, 0):
        x, _, _ = sampler.step(denoiser_of(network, "x_0"), x, step, lambda _, step=step: noise(5 + step), ())
    np.testing.assert_array_equal(x, [[0.25, 0.0, 0.75]])
    np.testing.assert_allclose(
        seen[1], short.levels.alpha[0] * np.array([[0.25, 0.0, 0.75]]) + short.levels.sigma[0] * noise(6), rtol=1e-5
    )


def test_few_steps_visit_the_levels_nearest_to_their_sigmas():
    np.testing.assert_allclose(schedules.few_step_sigmas(1), [80.0])
    np.testing.assert_allclose(schedules.few_step_sigmas(2), [80.0, 0.821])
    np.testing.assert_allclose(schedules.few_step_sigmas(4), [80.0, 5.4, 1.643, 0.5], rtol=1e-3)
    linear = schedules.relative_sigmas(schedules.betas("linear", 1000))
    np.testing.assert_array_equal(schedules.nearest_timesteps(linear, schedules.few_step_sigmas(2)), [222, 930])
    with pytest.raises(ValueError, match="same step"):
        schedules.nearest_timesteps(linear, np.array([80.0, 79.99]))
