"""Every mode, as a person calls it, on runs that earlier versions wrote."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tf_ddpm.commands.flags import MODES
from tf_ddpm.sampling.run import load_run

ROOT = Path(__file__).parents[2]
FIRST = Path(__file__).parents[1] / "fixtures" / "first_runs"


@pytest.mark.parametrize(
    "name", ["classes", pytest.param("plain", marks=pytest.mark.slow), pytest.param("folder", marks=pytest.mark.slow)]
)
def test_a_run_of_the_first_version_works_in_every_mode(name, tmp_path, monkeypatch):
    shutil.copytree(FIRST, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    written = {
        "train": ["--set=train.steps=10"],
        "sample": ["--num_images=4"],
        "eval": ["--num_images=8"],
        "figure": ["--figure=samples", "--num_images=4"],
        "report": [],
        "export": ["--plans=ddim-2"],
        "export_diffusers": [],
        "import": [f"--diffusers_dir={name}/diffusers"],
    }
    written |= {"distill": ["--teacher=plain", "--method=consistency", "--set=train.steps=10"]}
    assert set(written) == set(MODES) - {"upscale", "cache"}  # of runs that enlarge, and of none
    for mode, flags in written.items():
        run_dir = {"import": "imported", "distill": "student"}.get(mode, name)
        command = [sys.executable, str(ROOT / "main.py"), f"--mode={mode}", f"--run_dir={run_dir}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, (mode, done.stderr)
    assert load_run("imported").checkpoint_step == 0
    assert (tmp_path / name / "serving" / "ddpm" / "1").is_dir() and (tmp_path / name / "report.html").is_file()
