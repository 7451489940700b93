"""Rows of figures in a JSON file: a long table is made in parts, and what is measured again replaces what was."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows that are there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def keep(path: Path, row: Row, *keys: str) -> None:
    """Adds a row, in the place of the one that has the same under all `keys`; the rows are sorted by them."""
    of = lambda one: tuple(one[key] for key in keys)  # noqa: E731
    rows = sorted([*(one for one in read(path) if of(one) != of(row)), row], key=of)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def medians(found: list[dict[str, float]]) -> dict[str, float]:
    """Of several measurements of the same figures, the median of each."""
    return {name: statistics.median(one[name] for one in found) for name in found[0]}
