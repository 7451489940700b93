"""A checkpoint holds everything."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.fresh import fresh_state
from tf_ddpm import build
from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files, checkpoints


def make_state(config, seed):
    tf.keras.utils.set_random_seed(seed)
    state = fresh_state(config)
    rng = np.random.default_rng(seed)
    for variable in (state.weights, state.average, *state.optimizer.slots, state.optimizer.updates, state.step):
        variable.assign(rng.normal(size=variable.shape) * 100)
    state.refresh_network()
    return state


def everything(state):
    optimizer = state.optimizer
    return [*state.network.weights, *state.ema_network.weights, *optimizer.slots, optimizer.updates, state.step]


def test_every_weight_and_optimizer_slot_comes_back(tiny_config, tmp_path):
    config = tiny_config(data__image_size=(8, 8), data__channels=1)
    saved, other = make_state(config, 0), make_state(config, 1)
    saved.step.assign(7)
    checkpoints.CheckpointManager(tmp_path, saved, 3).save(7)
    checkpoints.CheckpointManager(tmp_path, other, 3).restore()
    for before, after in zip(everything(saved), everything(other), strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())

    network = build.network(config, "float32")
    assert checkpoints.restore_network(network, tmp_path)[0] == 7
    for before, after in zip(saved.ema_network.weights, network.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_only_the_last_ones_are_kept(tiny_config, tmp_path):
    state = make_state(tiny_config(data__image_size=(8, 8), data__channels=1), 0)
    keeper = checkpoints.CheckpointManager(tmp_path, state, 2)
    for step in (1, 2, 3):
        keeper.save(step)
    assert checkpoint_files.steps(tmp_path) == [2, 3]


def test_a_checkpoint_of_another_network_is_refused(tiny_config, tmp_path):
    state = make_state(tiny_config(data__image_size=(8, 8), data__channels=1), 0)
    checkpoints.CheckpointManager(tmp_path, state, 2).save(1)
    wider = build.network(tiny_config(data__image_size=(8, 8), data__channels=1, model__channels=16), "float32")
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        checkpoints.restore_network(wider, tmp_path)


def test_a_run_without_checkpoint_says_how_to_get_one(tiny_config, tmp_path):
    network = build.network(tiny_config(data__image_size=(8, 8), data__channels=1), "float32")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        checkpoints.restore_network(network, tmp_path)


def small_state(tiny_config, seed=0):
    return make_state(tiny_config(data__image_size=(8, 8), data__channels=1), seed)


def test_multiples_of_keep_every_stay(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), keep=2, keep_every=2)
    for step in range(1, 8):
        keeper.save(step)
    assert checkpoint_files.steps(tmp_path) == [2, 4, 6, 7]


def test_steps_that_are_to_guide_stay(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), keep=1, kept=(2, 5))
    for step in range(1, 8):
        keeper.save(step)
    assert checkpoint_files.steps(tmp_path) == [2, 5, 7]


def damages(path):
    """Ten truncations and a flipped byte for each of a checkpoint's two files: (file, bytes)."""
    rng = np.random.default_rng(0)
    for file in (path.with_name(path.name + ".index"), path.with_name(path.name + ".data-00000-of-00001")):
        whole = file.read_bytes()
        for length in rng.integers(0, len(whole), 10):
            yield file, whole[:length]
        middle = len(whole) // 2
        yield file, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tiny_config, tmp_path, capsys):
    state, other = small_state(tiny_config), small_state(tiny_config, 1)
    keeper = checkpoints.CheckpointManager(tmp_path, state, 3)
    keeper.save(1)
    expected = [variable.numpy() for variable in everything(state)]
    for variable in everything(state):
        variable.assign_add(tf.ones_like(variable))
    keeper.save(2)
    network = build.network(tiny_config(data__image_size=(8, 8), data__channels=1), "float32")
    for file, content in damages(tmp_path / "checkpoints" / "step-2"):
        whole = file.read_bytes()
        file.write_bytes(content)
        checkpoints.CheckpointManager(tmp_path, other, 3).restore()
        warning = capsys.readouterr().err
        assert warning.count("\n") == 1 and "resuming from step 1" in warning, warning
        for before, after in zip(expected, everything(other), strict=True):
            np.testing.assert_array_equal(before, after.numpy())
        step, _ = checkpoints.restore_network(network, tmp_path)  # whose part of the file may be whole
        assert ("resuming from step 1" in capsys.readouterr().err) == (step == 1)
        file.write_bytes(whole)
    assert checkpoints.restore_network(network, tmp_path)[0] == 2 and not capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tiny_config, tmp_path):
    state = small_state(tiny_config)
    keeper = checkpoints.CheckpointManager(tmp_path, state, 3)
    for step in (1, 2):
        keeper.save(step)
        (tmp_path / f"checkpoints/step-{step}.index").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"step-2.*nor any of the 1 before it"):
        keeper.restore()


def test_what_killed_writing_left_is_removed_and_nothing_else(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), 3)
    keeper.save(1)
    before = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    (tmp_path / "checkpoints/step-2.data-00000-of-00001").write_bytes(b"half")
    (tmp_path / "checkpoints/step-3_temp").mkdir()
    (tmp_path / "checkpoints/step-3_temp/part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    (tmp_path / "checkpoints/notes.txt").write_text("mine")
    keeper.restore()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == before | {"notes.txt"}


def test_a_full_disk_leaves_the_checkpoint_before_intact(tiny_config, tmp_path):
    import resource
    import signal

    state = small_state(tiny_config)
    keeper = checkpoints.CheckpointManager(tmp_path, state, 1)
    keeper.save(1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"cannot write the checkpoint of step 2(.|\n)*The last good one is .*step-1"
        ):
            keeper.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


def test_after_a_damaged_checkpoint_was_passed_over_the_new_one_stays_and_is_the_latest(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), keep=1, keep_every=10)
    for step in (10, 20, 30):
        keeper.save(step)
    (tmp_path / "checkpoints/step-30.index").write_bytes(b"damaged")
    keeper.restore()
    assert keeper.latest.endswith("step-20")
    keeper.save(25)
    assert checkpoint_files.steps(tmp_path) == [10, 20, 25] and keeper.latest.endswith("step-25")


def test_what_a_person_keeps_beside_the_checkpoints_is_left_alone(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), 1)
    keeper.save(1)
    (tmp_path / "checkpoints/step-1-best").mkdir()
    (tmp_path / "checkpoints/step-1.index.bak").write_bytes(b"mine")
    keeper.restore()
    keeper.save(2)
    assert (tmp_path / "checkpoints/step-1-best").is_dir() and (tmp_path / "checkpoints/step-1.index.bak").exists()


def test_a_checkpoint_from_before_the_sums_were_saved_is_read(tiny_config, tmp_path):
    state, other = small_state(tiny_config), small_state(tiny_config, 1)
    state.checkpoint(saved=set()).write(str(tmp_path / "checkpoints" / "step-5"))
    checkpoints.CheckpointManager(tmp_path, other, 3).restore()
    for before, after in zip(everything(state), everything(other), strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_a_checkpoint_that_the_disk_does_not_give_is_not_passed_over_as_damaged(tiny_config, tmp_path):
    state = make_state(tiny_config(data__image_size=(8, 8), data__channels=1), 0)
    keeper = checkpoints.CheckpointManager(tmp_path, state, 2)
    keeper.save(1)
    keeper.save(2)
    (data,) = (tmp_path / "checkpoints").glob("step-2.data*")
    data.unlink()
    data.mkdir()  # stands for what may not be read, for which tests are often too privileged
    with pytest.raises(UserError, match=r"cannot read .*step-2\.data.*: Is a directory"):
        keeper.restore()
    assert checkpoint_files.steps(tmp_path) == [1, 2]
