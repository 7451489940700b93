"""Two processes on this machine, as two machines would work together."""

import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.processes import LONG, ROOT, check_interrupted, ended, result, start, start_workers
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.runs import checkpoint_files, probes
from tf_ddpm.sampling.run import load_run

# main.py, with random directions of the pixels for the FID network.
_PROJECTED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from absl import app
from tests.support import projection
from tf_ddpm.commands import cli
projection.take_its_place()
app.run(cli.main)
"""
# main.py, which is killed when its first images are there.
_KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from absl import app
from tf_ddpm.commands import cli
from tf_ddpm.sampling.sample_files import Parts
add = Parts.add
Parts.add = lambda *args: (add(*args), os.kill(os.getpid(), signal.SIGKILL))
app.run(cli.main)
"""
SGD = {"train.optimizer": "sgd", "train.steps": 40, "train.learning_rate": 0.1}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run that two workers have trained, never stopped."""
    run_dir = tmp_path_factory.mktemp("workers") / "run"
    outputs = ended(start_workers(run_dir))
    assert [code for code, _, _ in outputs] == [0, 0], outputs
    assert "2 device(s) of 2 workers" in outputs[0][1] and "worker 1 of 2: waiting" in outputs[1][1]
    return run_dir


def pictures(folder):
    """The settings of a set of some digits in files, two of them damaged, which all workers decode into one cache."""
    (folder / "pictures").mkdir()
    for i, image in enumerate(datasets.load(DataConfig("digits")).images[:300]):
        file = folder / "pictures" / f"{i}.png"
        Image.fromarray(image[..., 0]).save(file)
        if i in (20, 250):
            file.write_bytes(file.read_bytes()[:-30])
    data = {"name": "folder", "path": folder / "pictures", "image_size": "8,8", "channels": 1}
    return {f"data.{name}": value for name, value in (data | {"cache_dir": folder / "cache"}).items()}


@pytest.mark.parametrize("kind", ["folder", pytest.param("digits", marks=pytest.mark.slow)])
def test_two_workers_train_what_one_process_does(tmp_path, kind):
    """With SGD: Adam makes steps of rounding where a gradient is exactly zero."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    own = SGD | (pictures(tmp_path) if kind == "folder" else {})
    for processes in (start_workers(together, **own), [start(alone, **own)]):
        outputs = ended(processes)
        assert all(code == 0 for code, _, _ in outputs), outputs
    readers = [tf.train.load_checkpoint(str(path / "checkpoints" / "step-40")) for path in (alone, together)]
    names = [name for name in readers[0].get_variable_to_shape_map() if name.startswith(("network", "ema_network"))]
    assert len(names) > 40
    for name in names:
        one, two = (reader.get_tensor(name) for reader in readers)
        np.testing.assert_allclose(one, two, atol=2e-5, err_msg=name)
    assert [line["step"] for line in result(together)[1]] == [line["step"] for line in result(alone)[1]]


def test_two_workers_teach_a_student_what_one_process_does(tmp_path):
    teacher = {"diffusion.prediction": "v", "train.steps": 20, "train.averages": "", "train.guide_at": ""}
    assert ended([start(tmp_path / "teacher", **teacher)])[0][0] == 0
    flags = [f"--teacher={tmp_path}/teacher", "--method=consistency"]
    own = SGD | {"train.steps": 12, "train.checkpoint_every": 12, "train.log_every": 4, "train.preview_every": 12}
    own |= {"distill.stages": 2, "distill.probe_every": 6, "distill.probe_images": 16}
    alone, together = tmp_path / "alone", tmp_path / "together"
    for begin, run_dir in ((lambda path, **rest: [start(path, **rest)], alone), (start_workers, together)):
        outputs = ended(begin(run_dir, mode="distill", flags=flags, **own))
        assert all(code == 0 for code, _, _ in outputs), outputs
    readers = [tf.train.load_checkpoint(str(path / "checkpoints" / "step-12")) for path in (alone, together)]
    names = [name for name in readers[0].get_variable_to_shape_map() if name.startswith(("network", "ema_network"))]
    for name in names:
        one, two = (reader.get_tensor(name) for reader in readers)
        np.testing.assert_allclose(one, two, atol=2e-5, err_msg=name)
    one, two = (probes.read(path) for path in (alone, together))
    assert len(names) > 40 and one == pytest.approx(two, rel=1e-3) and len(one) == 2


def test_a_run_of_two_workers_each_of_them_killed_once_ends_bit_identical(tmp_path, run_dir):
    assert check_interrupted(tmp_path / "run", [signal.SIGKILL] * 2, result(run_dir), start_workers) == 2


def test_a_signal_to_one_worker_stops_both_at_the_same_step(tmp_path):
    processes = start_workers(tmp_path / "run", **{"train.steps": 100_000, "train.decay_steps": 0})
    while len(checkpoint_files.steps(tmp_path / "run")) < 2:
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    outputs = ended(processes, 60)
    assert [code for code, _, _ in outputs] == [143, 143], outputs
    stopped = [re.search(r"stopped at step (\d+) of 100000, saved in", errors).group(1) for _, _, errors in outputs]
    assert stopped[0] == stopped[1] == str(checkpoint_files.steps(tmp_path / "run")[-1])


@pytest.mark.slow
def test_a_run_of_two_workers_stopped_twenty_times_ends_bit_identical(tmp_path):
    begin = lambda path: start_workers(path, **LONG)  # noqa: E731
    ended(begin(tmp_path / "whole"))
    whole = result(tmp_path / "whole")
    for number in (signal.SIGKILL, signal.SIGTERM):
        assert check_interrupted(tmp_path / number.name, [number] * 20, whole, begin) == 20


def test_two_workers_draw_and_measure_what_one_process_does(tmp_path, run_dir):
    measured = ["--metrics=bpd", f"--metrics_file={tmp_path}/metrics.json"]
    drawn = ["--num_images=70", f"--out_dir={tmp_path}/drawn"]
    assert ended([start(run_dir, mode="sample", flags=drawn, code=_KILLED)])[0][0] == -signal.SIGKILL
    for mode, flags in (("eval", measured), ("sample", drawn)):
        outputs = ended(start_workers(run_dir, mode=mode, flags=flags))
        assert [code for code, _, _ in outputs] == [0, 0], outputs
        assert "wrote" in outputs[0][1] and "wrote" not in outputs[1][1]
    assert "going on behind 64 images" in outputs[0][1]
    expected = load_run(run_dir).sample(range(70))
    found = np.stack([np.asarray(Image.open(tmp_path / "drawn" / f"{i:06d}.png"))[..., None] for i in range(70)])
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    alone = [*measured[:1], f"--metrics_file={tmp_path}/alone.json"]
    assert ended([start(run_dir, mode="eval", flags=alone)])[0][0] == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["bits_per_dim"] for name in ("metrics", "alone"))
    assert one["terms"]["L_t_minus_1"] == pytest.approx(two["terms"]["L_t_minus_1"], rel=1e-6)
    assert one["value"] == pytest.approx(two["value"], rel=1e-5)  # L_0, a logarithm of differences, amplifies rounding


def test_two_workers_give_the_fid_of_one_process(tmp_path, run_dir):
    found = []
    for name, begin in (("two", start_workers), ("one", lambda *args, **options: [start(*args, **options)])):
        flags = ["--metrics=fid,kid", "--num_images=600", f"--metrics_file={tmp_path}/{name}.json"]
        flags += [f"--set=data.cache_dir={tmp_path}/{name}", "--sampling_steps=2"]
        outputs = ended(begin(run_dir, mode="eval", flags=flags, code=_PROJECTED))
        assert all(code == 0 for code, _, _ in outputs), outputs
        shutil.rmtree(run_dir / "evaluation")  # what was drawn and seen
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    for metric in ("fid", "kid"):
        two, one = (part[metric] for part in found)
        assert two["value"] == pytest.approx(one["value"], rel=1e-3)
        assert two["receipt"]["reference"]["sha256"] == one["receipt"]["reference"]["sha256"]


def test_two_workers_skip_the_same_updates_and_give_up_together(tmp_path):
    """A learning rate with which the second loss is not finite."""
    hopeless = SGD | {"train.learning_rate": 100.0, "train.warmup_steps": 0, "train.clip_norm": "none"}
    hopeless |= {"train.max_bad_steps": 2, "train.timestep_sampling": "uniform"}
    outputs = ended(start_workers(tmp_path / "run", **hopeless), 120)
    assert all(code == 1 and "Traceback" not in errors for code, _, errors in outputs), outputs
    lines = [re.search(r"not finite at step \d+ \(the 2 before it were skipped\)", errors) for _, _, errors in outputs]
    assert lines[0].group() == lines[1].group()


def test_workers_that_were_started_differently_are_refused(tmp_path, run_dir):
    for options, words in (
        ([{}, {"train.learning_rate": 0.5}], "the workers differ in their configuration"),
        ([{}, {"model.channels": 16}], "the workers differ in their configuration"),
        ([{"run_dir": run_dir}, {}], "the workers differ in their step in the run directory (here "),
    ):
        outputs = ended(start_workers(tmp_path / "run", each=options), 120)
        assert all(code == 1 and words in errors and "Traceback" not in errors for code, _, errors in outputs), outputs
        assert not (tmp_path / "run").exists()
    seeds = [{"flags": [f"--seed={seed}", f"--out_dir={tmp_path}/drawn"]} for seed in (0, 1000)]
    outputs = ended(start_workers(run_dir, mode="sample", each=seeds), 120)
    assert all(code == 1 and "the workers differ in their flags" in errors for code, _, errors in outputs), outputs


def test_other_modes_are_for_one_process(tmp_path, run_dir):
    ((code, _, errors),) = ended([start(run_dir, mode="export", cluster=(["a:1", "b:2"], 0))])
    assert code == 1 and "--mode=export is the work of one process, not of 2: unset TF_CONFIG" in errors
