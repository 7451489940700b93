"""A checkpoint holds everything."""

import contextlib
import gc
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.support.fresh import fresh_state
from tf_ddpm import build
from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files, checkpoints
from tf_ddpm.runs.host_copy import host_copy


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


def save(keeper, step):
    keeper.save(step)
    keeper.finish()


def test_every_weight_and_optimizer_slot_comes_back(tiny_config, tmp_path):
    config = tiny_config(data__image_size=(8, 8), data__channels=1)
    saved, other = make_state(config, 0), make_state(config, 1)
    saved.step.assign(7)
    save(checkpoints.CheckpointManager(tmp_path, saved, 3), 7)
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
        save(keeper, step)
    assert checkpoint_files.steps(tmp_path) == [2, 3]


def test_a_checkpoint_of_another_network_is_refused(tiny_config, tmp_path):
    state = make_state(tiny_config(data__image_size=(8, 8), data__channels=1), 0)
    save(checkpoints.CheckpointManager(tmp_path, state, 2), 1)
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
        save(keeper, step)
    assert checkpoint_files.steps(tmp_path) == [2, 4, 6, 7]


def test_steps_that_are_to_guide_stay(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), keep=1, kept=(2, 5))
    for step in range(1, 8):
        save(keeper, step)
    assert checkpoint_files.steps(tmp_path) == [2, 5, 7]


def test_what_is_written_is_what_was_there_when_it_was_asked_for_whatever_updates_do(tiny_config, tmp_path):
    state, other = small_state(tiny_config), small_state(tiny_config, 1)
    keeper = checkpoints.CheckpointManager(tmp_path, state, 3)
    before = [variable.numpy() for variable in everything(state)]
    with held_back(checkpoints):
        keeper.save(1)
        for variable in (state.weights, state.average, *state.optimizer.slots):
            variable.assign_add(tf.ones_like(variable))
        state.refresh_network()
        state.step.assign(2)
        assert not checkpoint_files.steps(tmp_path), "training went on before anything was written"
    assert keeper.latest.endswith("step-1")
    checkpoints.CheckpointManager(tmp_path, other, 3).restore()
    for value, after in zip(before, everything(other), strict=True):
        np.testing.assert_array_equal(value, after.numpy())


def test_no_checkpoint_is_copied_while_another_is_being_written(tiny_config, tmp_path, monkeypatch):
    seen, write, copy = [], checkpoints._write, checkpoints.host_copy

    def slow(copied, run_dir, step, latest):
        seen.append(f"writes {step}")
        time.sleep(0.2)
        write(copied, run_dir, step, latest)
        seen.append(f"has written {step}")

    monkeypatch.setattr(checkpoints, "_write", slow)
    monkeypatch.setattr(checkpoints, "host_copy", lambda *args: (seen.append("copies"), copy(*args))[1])
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), 3)
    for step in (1, 2, 3):
        keeper.save(step)
    keeper.finish()
    assert seen == [word for i in (1, 2, 3) for word in ("copies", f"writes {i}", f"has written {i}")]


def test_whatever_fails_in_writing_is_raised_and_not_passed_over(tiny_config, tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("nobody thought of this")

    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), 3)
    monkeypatch.setattr(checkpoints, "_write", fails)
    keeper.save(1)
    assert keeper.latest is None
    for go_on in (keeper.check, keeper.finish, lambda: keeper.save(2)):
        with pytest.raises(ValueError, match="nobody thought of this"):
            go_on()


@contextlib.contextmanager
def held_back(module):
    """Nothing is written until the context ends."""
    begin, write = threading.Event(), module._write

    def late(*arguments):
        assert begin.wait(60)
        write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_write", late)
        yield
        begin.set()


def test_a_copy_on_the_host_has_the_names_and_values_of_its_checkpoint(tiny_config, tmp_path):
    checkpoint = small_state(tiny_config).checkpoint()
    checkpoint.write(str(tmp_path / "own"))
    host_copy(checkpoint).write(str(tmp_path / "copied"))
    own, copied = (tf.train.load_checkpoint(str(tmp_path / name)) for name in ("own", "copied"))
    shapes = own.get_variable_to_shape_map()
    assert shapes == copied.get_variable_to_shape_map()
    assert own.get_variable_to_dtype_map() == copied.get_variable_to_dtype_map()
    for name in set(shapes) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}:
        np.testing.assert_array_equal(own.get_tensor(name), copied.get_tensor(name), name)


def test_nothing_holds_a_copy_that_was_written(tiny_config, tmp_path):
    state = small_state(tiny_config)
    gc.collect()
    gc.disable()
    try:
        copied = host_copy(state.checkpoint())
        alive = weakref.ref(copied.ema_network)
        copied.write(str(tmp_path / "copied"))
        del copied
        assert alive() is None  # without a collection of garbage, which may be long in coming
    finally:
        gc.enable()


def test_a_checkpoint_of_before_its_average_said_a_share_is_reduced_too(tiny_config, tmp_path):
    config = tiny_config(data__image_size=(8, 8), data__channels=1)
    state, network = make_state(config, 0), build.network(config, "float32")
    state.step.assign(1)
    (tmp_path / "checkpoints").mkdir()
    parts = {"ema_network", "network", "optimizer", "step", "seed"}
    state.checkpoint(parts).write(checkpoint_files.path_of(tmp_path, 1))
    keeper = checkpoints.CheckpointManager(tmp_path, state, keep=1, kept=(1,), reduces=True)
    save(keeper, 2)
    assert checkpoints.restore_network(network, tmp_path, 1) == (1, None)
    with pytest.raises(UserError, match="holds an average alone"):
        checkpoints.restore_network(network, tmp_path, 1, "raw")


def test_a_checkpoint_for_which_there_is_no_memory_is_not_passed_over(tiny_config, tmp_path, monkeypatch):
    state = small_state(tiny_config)
    keeper = checkpoints.CheckpointManager(tmp_path, state, keep=2)
    save(keeper, 1)
    save(keeper, 2)

    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    monkeypatch.setattr(tf.train.Checkpoint, "read", exhausted)
    with pytest.raises(UserError, match=r"step-2: no memory"):
        keeper.restore()


def test_kept_checkpoints_hold_an_average_alone_where_that_is_asked_for(tiny_config, tmp_path):
    config = tiny_config(data__image_size=(8, 8), data__channels=1)
    state, network = make_state(config, 0), build.network(config, "float32")
    state.step.assign(2)
    keeper = checkpoints.CheckpointManager(tmp_path, state, keep=1, kept=(2,), reduces=True)
    save(keeper, 2)
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoints").glob("step-2.*"))
    expected = [weight.numpy() for weight in state.ema_network.weights]
    for step in (3, 4):
        state.average.assign_add(tf.ones_like(state.average))
        save(keeper, step)
    assert checkpoint_files.steps(tmp_path) == [2, 4]
    assert not list((tmp_path / "checkpoints").glob("*_average*"))
    assert sum(path.stat().st_size for path in (tmp_path / "checkpoints").glob("step-2.*")) < size / 3
    assert checkpoints.restore_network(network, tmp_path, 2)[0] == 2
    for value, weight in zip(expected, network.weights, strict=True):
        np.testing.assert_array_equal(value, weight.numpy())
    with pytest.raises(UserError, match=r"step-2 holds an average alone \(train\.keep_parts\): sample\.weights=ema"):
        checkpoints.restore_network(network, tmp_path, 2, "raw")
    checkpoint_files.remove(tmp_path, 4)
    with pytest.raises(UserError, match=r"no training resumes from .*step-2, which holds an average alone"):
        keeper.restore()


def test_a_reduction_that_is_cut_short_is_ended_or_taken_back(tiny_config, tmp_path):
    config = tiny_config(data__image_size=(8, 8), data__channels=1)
    state, network, folder = make_state(config, 0), build.network(config, "float32"), tmp_path / "checkpoints"
    keeper = checkpoints.CheckpointManager(tmp_path, state, keep=2)
    save(keeper, 1)
    save(keeper, 2)
    aside = checkpoint_files.aside_of(tmp_path, 1)
    tf.train.Checkpoint(ema_network=state.ema_network, initial_share=state.initial_share).write(aside)
    data, index = (f"{aside}.data-00000-of-00001", f"{aside}.index")
    halves = {path: Path(path).read_bytes() for path in (data, index)}
    Path(index).unlink()
    checkpoint_files.remove_halves(tmp_path)  # killed before it was whole: the checkpoint is as it was
    assert sorted(path.name for path in folder.glob("*_average*")) == []
    assert checkpoints.restore_network(network, tmp_path, 1, "raw")[0] == 1
    Path(index).write_bytes(halves[index])
    (folder / "step-1.data-00000-of-00001").write_bytes(halves[data])  # killed between its two files
    checkpoint_files.remove_halves(tmp_path)
    assert sorted(path.name for path in folder.glob("*_average*")) == []
    assert checkpoints.restore_network(network, tmp_path, 1)[0] == 1


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
    save(keeper, 1)
    expected = [variable.numpy() for variable in everything(state)]
    for variable in everything(state):
        variable.assign_add(tf.ones_like(variable))
    save(keeper, 2)
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
        save(keeper, step)
        (tmp_path / f"checkpoints/step-{step}.index").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"step-2.*nor any of the 1 before it"):
        keeper.restore()


def test_what_killed_writing_left_is_removed_and_nothing_else(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), 3)
    save(keeper, 1)
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
    save(keeper, 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"cannot write the checkpoint of step 2(.|\n)*The last good one is .*step-1"
        ):
            save(keeper, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


def test_after_a_damaged_checkpoint_was_passed_over_the_new_one_stays_and_is_the_latest(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), keep=1, keep_every=10)
    for step in (10, 20, 30):
        save(keeper, step)
    (tmp_path / "checkpoints/step-30.index").write_bytes(b"damaged")
    keeper.restore()
    assert keeper.latest.endswith("step-20")
    save(keeper, 25)
    assert checkpoint_files.steps(tmp_path) == [10, 20, 25] and keeper.latest.endswith("step-25")


def test_what_a_person_keeps_beside_the_checkpoints_is_left_alone(tiny_config, tmp_path):
    keeper = checkpoints.CheckpointManager(tmp_path, small_state(tiny_config), 1)
    save(keeper, 1)
    (tmp_path / "checkpoints/step-1-best").mkdir()
    (tmp_path / "checkpoints/step-1.index.bak").write_bytes(b"mine")
    keeper.restore()
    save(keeper, 2)
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
    save(keeper, 1)
    save(keeper, 2)
    (data,) = (tmp_path / "checkpoints").glob("step-2.data*")
    data.unlink()
    data.mkdir()  # stands for what may not be read, for which tests are often too privileged
    with pytest.raises(UserError, match=r"cannot read .*step-2\.data.*: Is a directory"):
        keeper.restore()
    assert checkpoint_files.steps(tmp_path) == [1, 2]
