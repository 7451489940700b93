"""An autoencoder with a network that judges it, and a run of its latents: stopped, they end as if they were not."""

import signal

import pytest

from tests.support import processes
from tests.support.processes import check_interrupted, ended, result, start
from tests.support.tiny import make_tiny_autoencoder
from tf_ddpm.training import loop

AUTOENCODER = {
    "autoencoder.kind": "kl",
    "autoencoder.widths": "8,8",
    "autoencoder.groups": 4,
    "autoencoder.adversarial": 0.5,
    "autoencoder.adversarial_start": 50,
    "autoencoder.adversarial_channels": 8,
    "train.preview_images": 4,
    "train.steps": 200,
    "train.batch_size": 64,
}


@pytest.fixture
def settings(monkeypatch):
    """Those of `processes.start` without the keys of networks that denoise."""
    kept = {k: v for k, v in processes.SETTINGS.items() if not k.startswith(("model.", "diffusion."))}
    kept.pop("train.timestep_sampling")
    monkeypatch.setattr(processes, "SETTINGS", kept)


def check_same_however_stopped(tmp_path, changes):
    begin = lambda path: [start(path, **changes)]  # noqa: E731
    ((code, _, errors),) = ended(begin(tmp_path / "whole"))
    assert code == 0, errors
    numbers = [signal.SIGTERM, signal.SIGKILL]
    assert check_interrupted(tmp_path / "run", numbers, result(tmp_path / "whole"), begin) == 2


def test_an_autoencoder_killed_and_terminated_ends_bit_identical(tmp_path, settings):
    check_same_however_stopped(tmp_path, AUTOENCODER)
    one, other = ((tmp_path / name / "latents.json").read_text() for name in ("whole", "run"))
    assert one == other


def test_a_run_of_latents_killed_and_terminated_ends_bit_identical(tmp_path):
    loop.run(make_tiny_autoencoder(), tmp_path / "autoencoder")
    changes = {"codec.run": tmp_path / "autoencoder", "data.cache_dir": tmp_path / "cache", "train.preview_images": 4}
    check_same_however_stopped(tmp_path, changes)
