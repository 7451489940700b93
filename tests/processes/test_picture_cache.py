"""One cache of decoded pictures and several processes: at work together, and killed in the middle."""

import itertools
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import ROOT, ended
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.datasets.pictures import Reader

_COUNT = 60
# Fills the cache when it is told to; SIGKILL comes before the write of that number (each picture takes two).
_PROGRAM = """
import itertools, os, signal, sys
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))} if KILLED >= 0 else os.sched_getaffinity(0))
count, write = itertools.count(), os.pwrite
def pwrite(*args):
    if next(count) == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*args)
os.pwrite = pwrite
images = datasets.load(DataConfig("folder", FOLDER, image_size=(16, 16), channels=3, cache_dir=CACHE))
print("ready", flush=True)
sys.stdin.readline()
images.decode_all()
print(images.images[:, 0, 0, 0].tolist())
"""


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for i in range(_COUNT):
        path = root / ("cat" if i % 2 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 4 * i, np.uint8)).save(path)
    return root


def begin(folder, killed=-1):
    code = _PROGRAM.replace("FOLDER", repr(str(folder))).replace("CACHE", repr(str(folder.parent / "cache")))
    command = [sys.executable, "-c", code.replace("KILLED", str(killed))]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def filled(processes):
    """What each of them says, after all have begun to fill the cache at the same time."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return ended(processes, 120)


def check(folder, monkeypatch, decoded):
    """Whether batches are those of pictures that were never kept, and so many pictures are decoded for them."""
    seen, read = [], Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, file, *rest: (seen.append(file), read(self, file, *rest))[1])
    kept = datasets.load(
        DataConfig("folder", str(folder), image_size=(16, 16), channels=3, cache_dir=str(folder.parent / "cache"))
    )
    values = np.array([4 * int(path.stem) for path in sorted(folder.rglob("*.png"))], np.uint8)
    plain = datasets.ImageSet(
        np.broadcast_to(values[:, None, None, None], (_COUNT, 16, 16, 3)), kept.labels, ("a", "b")
    )
    found, expected = (itertools.islice(batch_dataset(one, 20, 3, 0, True), 4) for one in (kept, plain))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])
    assert len(set(seen)) == decoded


def test_two_processes_fill_one_cache_at_once(folder, monkeypatch):
    outputs = filled([begin(folder), begin(folder)])
    expected = [4 * i for rest in (1, 0) for i in range(rest, _COUNT, 2)]  # cats come before dogs
    assert [(code, json.loads(told.splitlines()[-1])) for code, told, _ in outputs] == [(0, expected)] * 2, outputs
    check(folder, monkeypatch, 0)


@pytest.mark.parametrize("write", [20, 21])
def test_a_cache_whose_filling_was_killed_is_filled_up_and_right(folder, monkeypatch, write):
    (output,) = filled([begin(folder, write)])
    assert output[0] == -signal.SIGKILL
    # One thread has written ten pictures, and perhaps all but the mark of one more.
    check(folder, monkeypatch, _COUNT - 10)
