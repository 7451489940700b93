"""Decoded pictures that are kept, as a person sees them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tf_ddpm.training import loop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(20):
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(root / f"{i:02d}.png")
    return root


def test_the_cache_is_filled_shown_and_pruned_by_command(folder, tmp_path):
    def told(*flags):
        command = [sys.executable, "main.py", "--mode=cache", f"--set=data.cache_dir={tmp_path / 'cache'}", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    fill = ["data.name=folder", f"data.path={folder}", "data.image_size=8", "data.channels=3"]
    assert "20 pictures are decoded" in told(*(f"--set={value}" for value in fill))
    (kept,) = (tmp_path / "cache").glob("pictures-*")
    assert np.fromfile(kept / "pixels.bin", np.uint8).reshape(20, -1)[:, 0].tolist() == [10 * i for i in range(20)]
    used = time.time() - 40 * 86_400
    for path in (*kept.iterdir(), kept):
        os.utime(path, (used, used))
    shown = told()
    assert kept.name in shown and "20 pictures" in shown and "40.0 days ago" in shown
    assert kept.name in told("--older_than=50") and kept.exists()
    assert f"removed {kept.name}" in told("--older_than=30") and not kept.exists()
    assert kept.name not in told()


def test_a_training_says_once_where_its_decoded_pictures_are_and_how_large(folder, tmp_path, tiny_config, capsys):
    data = {"data__name": "folder", "data__path": str(folder), "data__image_size": (8, 8), "data__channels": 3}
    data["data__cache_dir"] = str(tmp_path / "cache")
    loop.run(tiny_config(train__steps=2, train__decay_steps=0, **data), tmp_path / "run")
    told = [line for line in capsys.readouterr().out.splitlines() if "decoded pictures are kept" in line]
    (kept,) = (tmp_path / "cache").glob("pictures-*")
    assert told == [f"decoded pictures are kept in {kept} (3.8e-06 GB); --mode=cache shows and removes them"]
