"""Memory, and long work without a terminal."""

import re
import sys
import time
import types

import numpy as np
import pytest

from tf_ddpm import config as config_lib
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import image_metrics, likelihood
from tf_ddpm.runtime import memory, progress
from tf_ddpm.training import distilling, spread


def test_the_least_of_machine_and_control_group_is_what_is_left(tmp_path, monkeypatch):
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal:       16 kB\nMemAvailable:   4000000 kB\n")
    monkeypatch.setattr(memory, "_MACHINE", machine)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available() == 4.096e9
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.available() == 4.096e9
    (tmp_path / "memory.max").write_text("1000000700\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100\nactive_file 200\n")
    assert memory.available() == 1e9
    memory.check(9e8, "x", "y")
    with pytest.raises(UserError, match=re.escape("holding 3 images takes 2.0 GB of memory, and 1.0 GB are free; z")):
        memory.check(2e9, "holding 3 images", "z")
    machine.unlink()
    (tmp_path / "memory.max").unlink()
    assert memory.available() == float("inf")


def test_a_line_says_how_far_work_is_and_how_long_it_will_take():
    assert progress.said("reading", 100, 400, 1000, 12.0) == "reading: 400 of 1,000, 24 s left"
    assert progress.said("reading", 0, 1000, 100_000, 5.0) == "reading: 1,000 of 100,000, 8 min left"
    assert progress.said("reading", 100, 100, 1000, 30.0) == "reading: 100 of 1,000, for 30 s now"
    assert progress.said("compiling", 0, 0, 1, 130.0) == "compiling, for 2 min now"


def test_without_a_terminal_a_line_comes_in_time_however_long_a_step_takes(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS", 0.02)
    with progress.Progress(1000, "reading") as bar:
        time.sleep(0.3)  # the first step
        bar.update(400)
        time.sleep(0.3)  # the second
    told = capsys.readouterr().err.splitlines()
    for words in ("reading: 0 of 1,000, for ", "reading: 400 of 1,000, "):
        assert sum(line.startswith(words) for line in told) > 1, told
    time.sleep(0.1)
    with progress.Progress(10, "quiet", quiet=True):
        time.sleep(0.1)
    progress.Progress(10, "forgotten")  # as where an error ends what counts
    assert len(capsys.readouterr().err.splitlines()) <= 1, "nothing is told of what has ended"


def test_on_a_terminal_a_bar_says_it_all(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS", 0.02)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.Progress(1000, "reading") as bar:
        time.sleep(0.1)
        bar.reach(1000)
    told = capsys.readouterr().err
    assert "reading:" in told and "for 0 s now" not in told


def test_large_requests_of_images_are_refused_before_memory_is_taken(monkeypatch):
    decoded = []
    blank = lambda index: (decoded.append(index), np.zeros((300, 300, 3), np.uint8))[1]  # noqa: E731
    images = LazyImages(blank, (4000, 300, 300, 3), np.zeros(4000, np.int32), keeps=False)
    monkeypatch.setattr(memory, "available", lambda: 5e8)
    with pytest.raises(UserError, match=r"holding 2000 images of 300x300 takes 0\.5 GB.*smaller data\.image_size"):
        images[:2000]
    assert decoded == [] and images.failure is not None
    assert images[:2].shape == (2, 300, 300, 3)


def test_what_looks_at_many_images_says_how_to_look_at_fewer(monkeypatch, tiny_config):
    monkeypatch.setattr(memory, "available", lambda: 1e6)
    with pytest.raises(UserError, match=r"comparing 512 images .* --num_images"):
        image_metrics.check_room(512, (64, 64, 3))
    large = LazyImages(lambda _: "?", (100, 300, 300, 3), np.zeros(100, np.int32), keeps=False)
    images = ImageSet(large, np.zeros(100, np.int32), ())
    run = types.SimpleNamespace(config=tiny_config())
    with pytest.raises(UserError, match=r"holding 64 images .* --num_images"):
        likelihood.chosen_images(run, 64, 0, images)
    config = config_lib.with_values(tiny_config(), {"distill.probe_every": 5, "distill.probe_images": 16})
    with pytest.raises(UserError, match=r"a probe of 16 images .* distill\.probe_images"):
        distilling.Student(config, None, images, None, Pixels())


def test_images_that_are_spread_over_a_set_come_a_few_at_a_time():
    blank = lambda index: np.full((256, 512, 1), index, np.uint8)  # noqa: E731
    images = ImageSet(LazyImages(blank, (99, 256, 512, 1), np.zeros(99, np.int32), keeps=False), np.zeros(99), ())
    parts = list(spread.parts(images, 9, "looking"))
    assert [len(part) for part in parts] == [4, 4, 1]
    assert np.concatenate(parts)[:, 0, 0, 0].tolist() == [0, 12, 24, 36, 49, 61, 73, 85, 98]
    assert spread.places(images, 1000).tolist() == list(range(99))
