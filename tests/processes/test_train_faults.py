"""Disks that are full or cannot be written, as a training run meets them: a line, and nothing lost."""

import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.processes import ROOT, SETTINGS, ended, result, start
from tf_ddpm.runs import checkpoint_files

# A file system of our own, as big as we want: in a name space where this process may mount one.
_IN_TMPFS = """
set -e
mkdir -p "$FOLDER" "$COPY"
mount -t tmpfs -o size=$SIZE tmpfs "$FOLDER"
code=0
%s
cp -a "$FOLDER/." "$COPY"
exit $code
"""
_TRIAL = ["unshare", "-rm", "true"]
_may_mount = shutil.which("unshare") and subprocess.run(_TRIAL, capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not _may_mount, reason="this machine lets nobody mount a file system")


def in_tmpfs(tmp_path, script, size, **changes):
    """(exit code, stdout, stderr) of a script, in which $TRAIN trains $FOLDER/run; what is left: tmp_path/copy."""
    flags = [f"--set={key}={value}" for key, value in (SETTINGS | {"train.keep": 20} | changes).items()]
    train = f"'{sys.executable}' main.py --mode=train --run_dir=\"$FOLDER/run\" {' '.join(flags)} || code=$?"
    places = {"FOLDER": str(tmp_path / "small"), "COPY": str(tmp_path / "copy"), "SIZE": size}
    return ended(
        [
            subprocess.Popen(
                ["unshare", "-rm", "sh", "-c", _IN_TMPFS % script.replace("$TRAIN", train)],
                cwd=ROOT,
                env=os.environ | places | {"CUDA_VISIBLE_DEVICES": "-1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        ]
    )[0]


def halves(folder):
    """Files of which something is missing."""
    steps = {f"step-{step}" for step in checkpoint_files.steps(folder / "run")}
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        path
        for path in files
        if path.name.startswith(".") or (path.parent.name == "checkpoints" and path.name.split(".")[0] not in steps)
    ]


def test_a_full_disk_ends_a_run_with_one_clear_line_and_the_checkpoints_before_it(tmp_path):
    code, _, errors = in_tmpfs(tmp_path, "$TRAIN", "600k")
    assert code == 1 and "Traceback" not in errors and "No space left on device" in errors, errors
    assert checkpoint_files.steps(tmp_path / "copy" / "run") and not halves(tmp_path / "copy")
    assert f"The last good one is {tmp_path}/small/run/checkpoints/step-" in errors


def test_a_full_disk_between_two_checkpoints_is_one_clear_line(tmp_path):
    changes = {"train.checkpoint_every": 1000, "train.log_every": 1}
    code, _, errors = in_tmpfs(tmp_path, "$TRAIN", "12k", **changes)
    assert code == 1 and "Traceback" not in errors and not halves(tmp_path / "copy"), errors
    assert "cannot write into" in errors and "No space left on device; the last good checkpoint is none" in errors


def test_a_run_directory_that_cannot_be_written_is_one_clear_line(tmp_path):
    code, _, errors = in_tmpfs(tmp_path, 'mount -o remount,ro "$FOLDER"\n$TRAIN', "1m")
    assert code == 1 and "Traceback" not in errors and "cannot write the run directory" in errors, errors
    assert "Read-only file system" in errors


def test_a_full_disk_for_decoded_images_is_one_clear_line(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(20):
        Image.new("RGB", (64, 64), (i, i, i)).save(pictures / f"{i}.png")
    cached = {"data.name": "folder", "data.path": pictures, "data.image_size": 64}
    cached |= {"data.memory_gb": 0, "data.cache_dir": "$FOLDER/cache"}
    code, _, errors = in_tmpfs(tmp_path, '$TRAIN\nrm -rf "$FOLDER/run"', "60k", **cached)
    assert code == 1 and "cannot keep 0.0 GB of decoded images" in errors and "No space left" in errors, errors
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_run_goes_on_bit_identical_once_the_disk_has_room(tmp_path):
    assert ended([start(tmp_path / "whole", **{"train.keep": 20})])[0][0] == 0
    for size in ("300k", "800k", "1500k"):
        script = '$TRAIN\ntest $code = 1; code=0\nmount -o remount,size=50m "$FOLDER"\n$TRAIN'
        code, _, errors = in_tmpfs(tmp_path / size, script, size)
        assert code == 0, errors
        for part, expected in zip(result(tmp_path / size / "copy" / "run"), result(tmp_path / "whole"), strict=True):
            assert part == expected
