"""What a student's update compares its network with."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.support.students import METHODS, student_config
from tf_ddpm import build
from tf_ddpm.config import students
from tf_ddpm.diffusion import consistency, progressive
from tf_ddpm.runs import configuration
from tf_ddpm.sampling import teacher as teachers
from tf_ddpm.training import distilling, loop

ROWS = 4
X_0 = tf.random.stateless_uniform([ROWS, 8, 8, 1], [0, 1], -1.0, 1.0)
EPS = tf.random.stateless_normal([ROWS, 8, 8, 1], [0, 2])
LABELS = tf.constant([3, 1, -1, 7])


class Update:
    """An update of a student whose weights are anything, at given steps of the chain."""

    def __init__(self, config, steps):
        self.config, self.teacher = config, teachers.open_teacher(config, "nowhere")
        self.state = distilling.make_state(config, lambda: build.network(config, "float32"))
        self.state.weights.assign(random_weights(self.state, 3))
        self.state.refresh_network()
        self.condition = {"label": LABELS} if config.model.classes else {}
        self.level = build.chain(config.diffusion).levels.at(tf.constant(steps), X_0)
        self.x_t = self.level.noised(X_0, EPS)
        self.told = self.teacher.denoiser(self.condition, tf.constant(ROWS))

    def denoiser(self, network=None):
        return build.denoiser(self.config.diffusion, network or self.state.network, self.condition)

    def losses(self):
        lesson = distilling.Lesson(self.config, self.state, self.teacher)
        return lesson.objective(self.condition, X_0)(self.denoiser(), X_0, self.level, EPS)

    def error(self, goal):
        """The loss of distillation with a fixed goal."""
        output = self.denoiser().output(self.x_t, self.level)
        return progressive.truncated_snr_error(self.denoiser(), self.x_t, self.level, output, goal)

    def pairs(self, gap):
        return consistency.Pairs(build.chain(self.config.diffusion).levels, gap)

    def apart(self, gap, goal):
        """The loss of pairs with a fixed goal."""
        said = self.denoiser()(self.x_t, self.level).x_0
        return consistency.distance(self.pairs(gap), self.level, said, goal, self.config.distill.huber)


def random_weights(state, seed):
    return 0.1 * tf.random.stateless_normal(state.weights.shape, [0, seed])


def same(found, expected):
    assert np.min(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("target", ["data", "teacher"])
def test_pairs_are_compared_along_the_path_that_is_named_the_nearer_the_later_the_stage(teacher_dir, target):
    guided = ["distill.guidance=2", "distill.guide=4"] if target == "teacher" else []
    settings = [f"distill.target={target}", "distill.gap=16", *guided]
    update = Update(student_config(teacher_dir, "consistency", *settings), [3, 9, 15, 19])
    path = consistency.path_of_data if target == "data" else consistency.path_of_teacher(update.told, heun=True)
    for step, gap in ((0, 4.0), (4, 16.0)):  # of two stages of four updates
        update.state.step.assign(step)
        goal = consistency.target(update.pairs(gap), path, update.denoiser(), X_0, update.level, EPS)
        same(update.losses(), update.apart(gap, goal))


def test_a_stage_is_taught_by_the_student_of_the_one_before(teacher_dir):
    config = student_config(teacher_dir, "progressive", "distill.guidance=2")
    update = Update(config, [9, 19, 9, 19])
    stages = update.state.level_sampler
    stages.stage.assign(0)
    same(update.losses(), update.error(stages.target(update.told, update.x_t, update.level)))
    update.state.begin_stage()
    before = build.network(config, "float32")
    for weight, other in zip(before.weights, update.state.network.weights, strict=True):
        weight.assign(other)
    update.state.weights.assign(random_weights(update.state, 4))
    update.state.refresh_network()
    stages.stage.assign(1)
    update.level = build.chain(config.diffusion).levels.at(tf.fill([ROWS], 19), X_0)
    update.x_t = update.level.noised(X_0, EPS)
    same(update.losses(), update.error(stages.target(update.denoiser(before), update.x_t, update.level)))


@pytest.mark.parametrize("method", list(METHODS))
def test_a_student_of_eps_first_learns_what_its_teacher_says(run_dir, method):
    config = students.student_of(configuration.read(run_dir), str(run_dir), method, METHODS[method])
    assert config.distill.convert == 2
    update = Update(config, [9, 19, 9, 19])
    said = update.told(update.x_t, update.level).x_0
    assert np.abs(said).max() > 1  # what is beyond all images is no goal
    update.state.step.assign(1)
    same(update.losses(), update.error(tf.clip_by_value(said, -1.0, 1.0)))
    update.state.step.assign(2)
    assert np.abs(update.losses() / update.error(tf.clip_by_value(said, -1.0, 1.0)) - 1).min() > 1e-3


@pytest.mark.parametrize("method", list(METHODS))
def test_the_goal_is_taken_as_given(teacher_dir, method):
    update = Update(student_config(teacher_dir, method), [9, 19, 9, 19])
    weights = update.state.network.trainable_weights
    with tf.GradientTape() as tape:
        losses = tf.reduce_sum(update.losses())
    found = tape.gradient(losses, weights)
    if method == "consistency":
        gap, path = 8.0**0.5, consistency.path_of_teacher(update.told, heun=True)
        goal = consistency.target(update.pairs(gap), path, update.denoiser(), X_0, update.level, EPS)
    else:
        goal = update.state.level_sampler.target(
            update.denoiser(update.state.previous_network), update.x_t, update.level
        )
    with tf.GradientTape() as tape:
        losses = tf.reduce_sum(update.apart(gap, goal) if method == "consistency" else update.error(goal))
    for one, other in zip(found, tape.gradient(losses, weights), strict=True):
        one, other = (np.zeros(1) if part is None else tf.convert_to_tensor(part).numpy() for part in (one, other))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max() + 1e-12)


def test_both_levels_of_a_pair_have_the_same_dropout(teacher_dir, tmp_path):
    # The weight of such near levels is 10,000: other units left out at one of them would make the loss a hundred.
    settings = ("distill.target=data", "distill.gap=10000", "distill.stages=1", "model.dropout=0.5", "train.steps=10")
    loop.run(student_config(teacher_dir, "consistency", *settings, "distill.probe_every=0"), tmp_path / "near")
    lines = [json.loads(line) for line in (tmp_path / "near" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["loss"] < 20 for line in lines), [line["loss"] for line in lines]
