"""Long benchmarks: what they keep, and what they look for."""

import itertools
import signal

import pytest

from benchmarks import kept
from benchmarks.few_steps import search
from benchmarks.scale import rows


def test_a_table_is_made_in_parts_and_a_row_that_is_measured_again_replaces_the_old_one(tmp_path):
    path = tmp_path / "sources.json"
    assert rows.read(path) == []
    for side, source, rate in ((64, "b", 1), (8, "b", 2), (64, "a", 3), (64, "b", 4)):
        rows.keep(path, {"side": side, "source": source, "rate": rate}, "side", "source")
    found = [tuple(row.values()) for row in rows.read(path)]
    assert found == [(8, "b", 2), (64, "a", 3), (64, "b", 4)]
    assert rows.medians([{"s": 1.0, "gb": 9.0}, {"s": 7.0, "gb": 8.0}, {"s": 3.0, "gb": 5.0}]) == {"s": 3.0, "gb": 8.0}


@pytest.fixture
def terminated_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_figures_of_other_settings_are_not_taken_for_those_that_are_asked_for(tmp_path, terminated_as_before, capsys):
    kept.begin(tmp_path / "out", minutes=1.0, rates=["1e-3"])
    assert kept.kept(tmp_path / "out", "fid", lambda: {"fid": 3.0}) == {"fid": 3.0}
    kept.begin(tmp_path / "out", minutes=1.0, rates=["1e-3"])
    assert kept.kept(tmp_path / "out", "fid", lambda: {"fid": 4.0}) == {"fid": 3.0}
    assert capsys.readouterr().out == "fid: {'fid': 3.0}\n"
    with pytest.raises(SystemExit, match=r"figures of minutes=1\.0, not 25\.0; choose another folder"):
        kept.begin(tmp_path / "out", minutes=25.0, rates=["1e-3"])


def test_the_fewest_steps_by_bisection_are_those_of_a_linear_search():
    asked = []

    def fid(name, steps):
        asked.append((name, steps))
        return 20.0 if steps < needed[name] else 10.0

    for needs in itertools.product((2, 3, 7, 10), repeat=3):
        needed = dict(zip("abc", needs, strict=True))
        asked.clear()
        assert search.fewest(needed, fid, 12.0, most=10) == ("abc"[needs.index(min(needs))], min(needs))
        assert len(asked) == len(set(asked)) < 15
    assert search.fewest(needed, fid, 5.0, most=10) is None
