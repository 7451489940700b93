"""Nothing is lost: a run that is stopped, however, ends as one that never was."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.processes import LONG, ROOT, check_interrupted, ended, result, start
from tf_ddpm.errors import UserError
from tf_ddpm.runs import directory
from tf_ddpm.runtime import interruption


@pytest.fixture(scope="module", params=[1, 2], ids=["one device", "two devices"])
def devices(request):
    return request.param


# What XLA compiles must give the same bits every time as well, and so must TensorFlow's own choice of operations.
JIT = {1: {"train.jit": "norms", "train.deterministic": True}, 2: {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, devices):
    """The result of a run that was never stopped."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    ((code, _, errors),) = ended([start(run_dir, devices, **JIT[devices])])
    assert code == 0, errors
    return result(run_dir)


def test_a_run_killed_and_terminated_ends_bit_identical(tmp_path, whole, devices):
    begin = lambda path: [start(path, devices, **JIT[devices])]  # noqa: E731
    assert check_interrupted(tmp_path / "run", [signal.SIGTERM, signal.SIGKILL], whole, begin) == 2


@pytest.mark.slow
def test_a_run_stopped_twenty_times_ends_bit_identical(tmp_path, devices):
    begin = lambda path: [start(path, devices, **LONG)]  # noqa: E731
    ended(begin(tmp_path / "whole"))
    whole = result(tmp_path / "whole")
    for number in (signal.SIGKILL, signal.SIGTERM):
        assert check_interrupted(tmp_path / number.name, [number] * 20, whole, begin) == 20


def test_a_run_in_use_is_refused(tmp_path):
    with directory.locked(tmp_path):
        process = start(tmp_path)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "another process is training in" in errors and "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_a_hold_ends_with_its_process(tmp_path):
    code = f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
    code += f"from tf_ddpm.runs import directory\nwith directory.locked(Path({str(tmp_path)!r})):\n"
    code += "    print('held', flush=True); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process"), directory.locked(tmp_path):
        pass
    process.kill()
    process.wait()
    with directory.locked(tmp_path):
        pass


def test_the_first_signal_is_noted_and_the_second_acts(capfd):
    with interruption.Signals() as signals:
        assert signals.seen == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.seen == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert "once more to leave at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) != signal.SIG_DFL


def test_of_two_signals_of_the_same_moment_the_first_counts_and_nothing_is_complained_of(tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from tf_ddpm.runtime import interruption
with interruption.Signals() as signals:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
    print(signals.seen)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "2\n" and "race" not in done.stderr, done


def test_a_terminal_that_closes_is_a_signal_that_may_come_twice():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup would have it ignored
    with interruption.Signals() as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.seen == signal.SIGHUP
    os.kill(os.getpid(), signal.SIGHUP)  # while the last lines are written
    signal.signal(signal.SIGHUP, before)
