"""Memory, and long work without a terminal."""

import re

import pytest

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import memory, progress


def test_the_least_of_machine_and_control_group_is_what_is_left(tmp_path, monkeypatch):
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal:       16 kB\nMemAvailable:   4000000 kB\n")
    monkeypatch.setattr(memory, "_MACHINE", machine)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available() == 4.096e9
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.available() == 4.096e9
    (tmp_path / "memory.max").write_text("1000000700\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100\nactive_file 200\n")
    assert memory.available() == 1e9
    memory.check(9e8, "x", "y")
    with pytest.raises(UserError, match=re.escape("holding 3 images takes 2.0 GB of memory, and 1.0 GB are free; z")):
        memory.check(2e9, "holding 3 images", "z")
    machine.unlink()
    (tmp_path / "memory.max").unlink()
    assert memory.available() == float("inf")


def test_without_a_terminal_a_line_now_and_then_says_how_far_work_is(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress(1000, "reading", initial=100) as bar:
        for _ in range(9):
            now[0] += 4.0
            bar.update(100)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 400 of 1,000, 24 s left",
        "reading: 700 of 1,000, 12 s left",
        "reading: 1,000 of 1,000, 0 s left",
    ]
    with progress.Progress(10, "quiet", quiet=True) as bar:
        now[0] += 60.0
        bar.update()
    assert capsys.readouterr().err == ""
