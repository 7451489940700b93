"""The package, as it is installed."""

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import tf_ddpm

ROOT = Path(__file__).parents[2]


def test_a_module_of_the_name_export_hides_ours_only_with_a_word(run_dir, tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "__init__.py").write_text("")
    command = [sys.executable, "-m", "tf_ddpm", "--mode=export", f"--run_dir={run_dir}"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert str(tmp_path / "export") in done.stderr and str(ROOT / "export") in done.stderr
    (tmp_path / "export" / "__init__.py").unlink()  # a mere folder hides nothing
    done = subprocess.run([*command, "--plans=ddim"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "plans=ddim" in done.stderr, done.stderr


def test_all_files_that_are_read_at_run_time_are_package_data():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, patterns in data.items():
        for pattern in patterns:
            assert list((ROOT / package).glob(pattern)), pattern
    packed = {path for package, patterns in data.items() for p in patterns for path in (ROOT / package).glob(p)}
    others = {path for package in data for path in (ROOT / package).rglob("*") if path.is_file()}
    others = {path for path in others if path.suffix not in (".py", ".pyc")}
    assert others == packed


@pytest.mark.slow
def test_from_the_wheel_in_an_empty_directory_a_run_is_trained_sampled_and_exported(tmp_path):
    wheels, environment, home = tmp_path / "wheels", tmp_path / "venv", tmp_path / "home"
    home.mkdir()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={wheels}", str(ROOT)]
    subprocess.run(pip, check=True)
    (wheel,) = wheels.iterdir()
    assert tf_ddpm.__version__ in wheel.name
    venv.create(environment, with_pip=True)
    subprocess.run([environment / "bin" / "pip", "install", "--quiet", wheel], check=True)
    listed = subprocess.run([environment / "bin" / "pip", "show", "-f", "tf_ddpm"], capture_output=True, text=True)
    assert "py.typed" in listed.stdout and "tests/" not in listed.stdout and "benchmarks/" not in listed.stdout
    tiny = ["model.channels=8", "model.groups=2", "diffusion.timesteps=10", "train.steps=3", "train.batch_size=8"]
    for flags in (
        ["--mode=train", *(f"--set={setting}" for setting in tiny)],
        ["--mode=sample", "--num_images=3"],
        ["--mode=export", "--plans=ddim-2"],
        ["--mode=report"],
    ):
        done = subprocess.run([environment / "bin" / "tf-ddpm", *flags], cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    run = home / "runs" / "digits"
    assert (run / "samples" / "grid.png").exists() and (run / "report.html").exists()
    assert (run / "serving" / "ddpm" / "1" / "saved_model.pb").exists()
