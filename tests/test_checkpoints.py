"""A checkpoint holds everything."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm import build, checkpoints
from tf_ddpm.errors import UserError
from tf_ddpm.train_state import TrainState


def make_state(config, seed):
    tf.keras.utils.set_random_seed(seed)
    state = TrainState(lambda: build.network(config, "float32"), build.optimizer(config.train))
    rng = np.random.default_rng(seed)
    for variable in everything(state):
        variable.assign(rng.normal(size=variable.shape) * 100)
    return state


def everything(state):
    return [*state.network.weights, *state.ema_network.weights, *state.optimizer.variables, state.step]


def test_every_weight_and_optimizer_slot_comes_back(tiny_config, tmp_path):
    config = tiny_config(data__image_size=(8, 8), data__channels=1)
    saved, other = make_state(config, 0), make_state(config, 1)
    saved.step.assign(7)
    checkpoints.save(checkpoints.manager(tmp_path, saved, 3), 7)
    checkpoints.restore(checkpoints.manager(tmp_path, other, 3), other)
    for before, after in zip(everything(saved), everything(other), strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())

    network = build.network(config, "float32")
    assert checkpoints.restore_ema_network(network, tmp_path) == 7
    for before, after in zip(saved.ema_network.weights, network.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_only_the_last_ones_are_kept(tiny_config, tmp_path):
    state = make_state(tiny_config(data__image_size=(8, 8), data__channels=1), 0)
    keeper = checkpoints.manager(tmp_path, state, 2)
    for step in (1, 2, 3):
        checkpoints.save(keeper, step)
    assert [checkpoints.step_of(path) for path in keeper.checkpoints] == [2, 3]


def test_a_checkpoint_of_another_network_is_refused(tiny_config, tmp_path):
    state = make_state(tiny_config(data__image_size=(8, 8), data__channels=1), 0)
    checkpoints.save(checkpoints.manager(tmp_path, state, 2), 1)
    wider = build.network(tiny_config(data__image_size=(8, 8), data__channels=1, model__channels=16), "float32")
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        checkpoints.restore_ema_network(wider, tmp_path)


def test_a_run_without_checkpoint_says_how_to_get_one(tiny_config, tmp_path):
    network = build.network(tiny_config(data__image_size=(8, 8), data__channels=1), "float32")
    with pytest.raises(UserError, match="--mode=train"):
        checkpoints.restore_ema_network(network, tmp_path)
