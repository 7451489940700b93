"""A signal while something else than training is at work, be it within Python or in a long call into C++."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.processes import ROOT
from tf_ddpm.runtime import interruption

_BUSY = {
    "Python": "time.sleep(600)",
    "C++": "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",  # as a chain of samples: no signal cuts it short
}
_COMMAND = """
import hashlib, pathlib, sys, time
from absl import app
from tf_ddpm.commands import cli
from tf_ddpm.runtime import atomic_files

def busy(run_dir):
    path = pathlib.Path(run_dir)
    with atomic_files.staging_directory(path) as folder, atomic_files.atomic_write(path / "grid.png") as beside:
        (folder / "000000.png").touch()
        try:
            print("busy", flush=True)
            BUSY
        finally:
            AFTERWARDS

cli.run_mode = lambda mode, run_dir: busy(run_dir)
app.run(cli.main)
"""


def begin(run_dir, busy, afterwards="pass", hang_up=signal.SIG_DFL):
    """A command that is busy by now; `hang_up` says what SIGHUP does to it: these tests may run under nohup."""
    code = _COMMAND.replace("BUSY", busy).replace("AFTERWARDS", afterwards)
    command = [sys.executable, "-c", code, "--mode=sample", f"--run_dir={run_dir}"]
    before = signal.signal(signal.SIGHUP, hang_up)  # a child begins with what its parent ignores
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stdout.readline() == "busy\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", ["Python", "C++"])
def test_a_signal_ends_a_command_soon_and_nothing_half_written_stays(tmp_path, place, number):
    process = begin(tmp_path, _BUSY[place])
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number and errors.strip().startswith("interrupted; the same command goes on")
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_a_command_at_once(tmp_path):
    process = begin(tmp_path, _BUSY["Python"], afterwards="print('slow', flush=True); time.sleep(600)")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "slow\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - began < interruption._PATIENCE
    assert process.returncode == 128 + signal.SIGTERM and list(tmp_path.iterdir()) == []


def test_a_hang_up_is_passed_over_under_nohup(tmp_path):
    process = begin(tmp_path, "time.sleep(1)", hang_up=signal.SIG_IGN)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_handlers_of_before_are_there_again_and_a_signal_handled_elsewhere_ends_nothing():
    seen = []
    before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGWINCH, lambda *_: seen.append("window"))
    try:
        with interruption.exit_on_signal(lambda: seen.append("left"), "interrupted"):
            os.kill(os.getpid(), signal.SIGWINCH)
            time.sleep(0.1)
        with (
            pytest.raises(interruption.Interrupted),
            interruption.exit_on_signal(lambda: seen.append("left"), "interrupted"),
        ):
            os.kill(os.getpid(), signal.SIGINT)
        assert seen == ["window", "left"]
        assert signal.getsignal(signal.SIGINT) == before[0] and signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGWINCH, before[1])


def test_while_training_saves_nothing_is_cut_short():
    with interruption.exit_on_signal(lambda: None, "interrupted"), interruption.Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(interruption._PATIENCE + 0.5)
        assert signals.seen == signal.SIGINT


def test_a_terminal_that_closes_once_more_ends_nothing_that_is_ending_in_order():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(interruption.Interrupted), interruption.exit_on_signal(lambda: None, "interrupted"):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with interruption.exit_on_signal(lambda: None, "interrupted"), interruption.Signals():  # as in training
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
