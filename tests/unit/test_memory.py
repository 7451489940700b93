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
from tf_ddpm.runtime import control_group, memory, progress
from tf_ddpm.training import distilling, spread


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes files that stand for the system's."""
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(control_group, "_MOUNTED", tmp_path / "mounted")
    monkeypatch.setattr(control_group, "_OWN", tmp_path / "own")
    monkeypatch.setattr(control_group.os, "sched_getaffinity", lambda _: range(8))

    def write(**found):
        for name, text in found.items():
            path = tmp_path.joinpath(*name.split("__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text) + "\n")

    return write


def group(folder, **found):
    return {f"mounted__{folder}{name}": text for name, text in found.items()}


def test_the_least_of_machine_and_control_group_is_what_is_left(files, tmp_path):
    files(meminfo="MemTotal:       16 kB\nMemAvailable:   4000000 kB")
    assert memory.available() == 4.096e9
    files(**group("", **{"memory.max": "max", "memory.current": 1000}))
    assert memory.available() == 4.096e9
    files(**group("", **{"memory.max": 1000000700, "memory.stat": "anon 5\ninactive_file 100\nactive_file 200"}))
    assert memory.available() == 1e9
    memory.check(9e8, "x", "y")
    with pytest.raises(UserError, match=re.escape("holding 3 images takes 2.0 GB of memory, and 1.0 GB are free; z")):
        memory.check(2e9, "holding 3 images", "z")
    (tmp_path / "meminfo").unlink()
    (tmp_path / "mounted" / "memory.max").unlink()
    assert memory.available() == float("inf")


def test_limits_of_control_groups_are_found_wherever_they_are_set(files, tmp_path):
    assert control_group.cores() == 8 and control_group.memory_left() == float("inf")
    files(own="0::/a.slice/b.scope", **group("a.slice__b.scope__", **{"cpu.max": "max 100000"}))
    assert control_group.cores() == 8
    files(**group("a.slice__", **{"cpu.max": "250000 100000", "memory.max": 900, "memory.current": 500}))
    files(**group("a.slice__", **{"memory.stat": "anon 1"}))
    assert control_group.cores() == 2 and control_group.memory_left() == 400
    files(**group("a.slice__b.scope__", **{"cpu.max": "10000 100000"}))
    assert control_group.cores() == 1


@pytest.mark.parametrize("where", ["docker__x__", ""])  # as the host sees the group, and as its container does
def test_limits_of_version_1_are_found(files, where):
    files(own="5:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/docker/x")
    files(**group("cpu,cpuacct__" + where, **{"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000}))
    assert control_group.cores() == 8
    files(**group("cpu,cpuacct__" + where, **{"cpu.cfs_quota_us": 300000}))
    files(**group("memory__" + where, **{"memory.limit_in_bytes": 10000, "memory.usage_in_bytes": 4000}))
    files(
        **group(
            "memory__" + where, **{"memory.stat": "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 20"}
        )
    )
    assert control_group.cores() == 3 and control_group.memory_left() == 6120


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


def test_pixels_are_hashed_as_many_at_once_as_a_block_holds(monkeypatch):
    pixels, asked = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), np.uint8), []
    monkeypatch.setattr("tf_ddpm.datasets.image_set._AT_ONCE", 40)

    class Counted(LazyImages):
        def _rows(self, wanted):
            asked.append(len(wanted))
            return super()._rows(wanted)

    lazy = Counted(lambda index: pixels[index], pixels.shape, np.zeros(9, np.int32))
    whole, parts = (ImageSet(images, np.zeros(9, np.int32), ()) for images in (pixels, lazy))
    found = parts.digest_of_pixels()
    monkeypatch.undo()
    assert found == whole.digest_of_pixels() and asked == [2, 2, 2, 2, 1]
