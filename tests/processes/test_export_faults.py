"""What an export leaves behind when it is killed, out of space, or not alone."""

import fcntl
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export import saved_model
from tf_ddpm.config import plans
from tf_ddpm.errors import UserError
from tf_ddpm.sampling.run import load_run

ROOT = Path(__file__).parents[2]


def start(run_dir, export_dir, limit=""):
    """An export in a process of its own."""
    code = f"{limit}\nimport runpy, sys\nsys.argv = ['main.py', '--mode=export', '--run_dir={run_dir}', "
    code += f"'--export_dir={export_dir}', '--plans=ddim-2']\nrunpy.run_path('main.py', run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def versions(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.exists() else []


def whole(version):
    """Whether every part of a version is there."""
    parts = ("saved_model.pb", "variables/variables.index", "assets.extra/model_info.json")
    return all((version / part).exists() for part in parts)


def test_two_exports_at_once_give_two_versions(run_dir, tmp_path):
    both = [start(run_dir, tmp_path / "ddpm") for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert versions(tmp_path / "ddpm") == [1, 2]
    assert all(whole(tmp_path / "ddpm" / str(n)) for n in (1, 2))


def test_what_a_killed_export_left_is_removed_and_what_another_writes_is_not(run_dir, tmp_path):
    dead, alive = tmp_path / ".partial-dead", tmp_path / ".partial-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "lock").touch()
    with (alive / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = load_run(run_dir)
        saved_model.export_run(run, tmp_path, plans.parse("ddim-2", run.config))
        assert alive.exists() and not dead.exists()


def test_a_full_disk_is_one_clear_line_and_no_half_version(run_dir, tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    process = start(run_dir, tmp_path / "ddpm", limit)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and "cannot write into" in errors and "Traceback" not in errors, errors
    assert list((tmp_path / "ddpm").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_clear_line(run_dir):
    with pytest.raises(UserError, match="cannot write into /proc"):
        run = load_run(run_dir)
        saved_model.export_run(run, "/proc/ddpm", plans.parse("ddim-2", run.config))


@pytest.mark.slow
def test_an_export_killed_at_any_moment_leaves_no_half_version(run_dir, tmp_path):
    began = time.perf_counter()
    assert start(run_dir, tmp_path / "whole").wait() == 0
    duration, target = time.perf_counter() - began, tmp_path / "ddpm"
    rng = random.Random(0)
    for _ in range(50):
        process = start(run_dir, target)
        time.sleep(rng.uniform(0.2, 1.1) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(whole(target / str(version)) for version in versions(target))
    before = versions(target)
    assert start(run_dir, target).wait() == 0
    assert versions(target) == [*before, max(before, default=0) + 1]
    assert not [path for path in target.iterdir() if path.name.startswith(".partial-")]
