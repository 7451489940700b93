"""A run that enlarges, with crops, blur and augmentation: stopped or shared, it is the same run."""

import signal

import numpy as np
import tensorflow as tf

from tests.support.processes import check_interrupted, ended, result, start, start_workers

ENLARGES = {
    "model.condition": "low_res",
    "model.factor": 2,
    "train.crop": 4,
    "train.blur": 0.5,
    "train.preview_images": 4,
}
SGD = {"train.optimizer": "sgd", "train.steps": 40, "train.learning_rate": 0.1}


def test_killed_and_terminated_it_ends_bit_identical(tmp_path):
    begin = lambda path: [start(path, **ENLARGES)]  # noqa: E731
    ((code, _, errors),) = ended(begin(tmp_path / "whole"))
    assert code == 0, errors
    numbers = [signal.SIGTERM, signal.SIGKILL]
    assert check_interrupted(tmp_path / "run", numbers, result(tmp_path / "whole"), begin) == 2


def test_two_workers_train_what_one_process_does(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    for processes in ([start(alone, **ENLARGES, **SGD)], start_workers(together, **ENLARGES, **SGD)):
        outputs = ended(processes)
        assert all(code == 0 for code, _, _ in outputs), outputs
    readers = [tf.train.load_checkpoint(str(path / "checkpoints" / "step-40")) for path in (alone, together)]
    names = [name for name in readers[0].get_variable_to_shape_map() if name.startswith(("network", "ema_network"))]
    assert any("augmentation" in name for name in names)
    for name in names:
        one, two = (reader.get_tensor(name) for reader in readers)
        np.testing.assert_allclose(one, two, atol=2e-5, err_msg=name)
