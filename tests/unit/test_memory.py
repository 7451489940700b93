"""Memory, and long work without a terminal."""

import re

import pytest

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import control_group, memory, progress


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes files that stand for the system's."""
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(control_group, "_MOUNTED", tmp_path / "mounted")
    monkeypatch.setattr(control_group, "_OWN", tmp_path / "own")
    monkeypatch.setattr(control_group.os, "sched_getaffinity", lambda _: range(8))

    def write(**found):
        for name, text in found.items():
            path = tmp_path.joinpath(*name.split("__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text) + "\n")

    return write


def group(folder, **found):
    return {f"mounted__{folder}{name}": text for name, text in found.items()}


def test_the_least_of_machine_and_control_group_is_what_is_left(files, tmp_path):
    files(meminfo="MemTotal:       16 kB\nMemAvailable:   4000000 kB")
    assert memory.available() == 4.096e9
    files(**group("", **{"memory.max": "max", "memory.current": 1000}))
    assert memory.available() == 4.096e9
    files(**group("", **{"memory.max": 1000000700, "memory.stat": "anon 5\ninactive_file 100\nactive_file 200"}))
    assert memory.available() == 1e9
    memory.check(9e8, "x", "y")
    with pytest.raises(UserError, match=re.escape("holding 3 images takes 2.0 GB of memory, and 1.0 GB are free; z")):
        memory.check(2e9, "holding 3 images", "z")
    (tmp_path / "meminfo").unlink()
    (tmp_path / "mounted" / "memory.max").unlink()
    assert memory.available() == float("inf")


def test_limits_of_control_groups_are_found_wherever_they_are_set(files, tmp_path):
    assert control_group.cores() == 8 and control_group.memory_left() == float("inf")
    files(own="0::/a.slice/b.scope", **group("a.slice__b.scope__", **{"cpu.max": "max 100000"}))
    assert control_group.cores() == 8
    files(**group("a.slice__", **{"cpu.max": "250000 100000", "memory.max": 900, "memory.current": 500}))
    files(**group("a.slice__", **{"memory.stat": "anon 1"}))
    assert control_group.cores() == 2 and control_group.memory_left() == 400
    files(**group("a.slice__b.scope__", **{"cpu.max": "10000 100000"}))
    assert control_group.cores() == 1


@pytest.mark.parametrize("where", ["docker__x__", ""])  # as the host sees the group, and as its container does
def test_limits_of_version_1_are_found(files, where):
    files(own="5:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/docker/x")
    files(**group("cpu,cpuacct__" + where, **{"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000}))
    assert control_group.cores() == 8
    files(**group("cpu,cpuacct__" + where, **{"cpu.cfs_quota_us": 300000}))
    files(**group("memory__" + where, **{"memory.limit_in_bytes": 10000, "memory.usage_in_bytes": 4000}))
    files(
        **group(
            "memory__" + where, **{"memory.stat": "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 20"}
        )
    )
    assert control_group.cores() == 3 and control_group.memory_left() == 6120


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
