"""Figures of benchmarks, in files."""

from benchmarks.scale import rows


def test_a_table_is_made_in_parts_and_a_row_that_is_measured_again_replaces_the_old_one(tmp_path):
    path = tmp_path / "sources.json"
    assert rows.read(path) == []
    for side, source, rate in ((64, "b", 1), (8, "b", 2), (64, "a", 3), (64, "b", 4)):
        rows.keep(path, {"side": side, "source": source, "rate": rate}, "side", "source")
    found = [tuple(row.values()) for row in rows.read(path)]
    assert found == [(8, "b", 2), (64, "a", 3), (64, "b", 4)]
    assert rows.medians([{"s": 1.0, "gb": 9.0}, {"s": 7.0, "gb": 8.0}, {"s": 3.0, "gb": 5.0}]) == {"s": 3.0, "gb": 8.0}
