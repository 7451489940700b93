"""The report's charts, as plotly draws them in a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

_COLOURS = ("#1f5fa8", "#d1652a", "#3a8f4d", "#8a4fa3")


def script() -> str:
    """The library that draws the charts, to be written into the page once."""
    return get_plotlyjs()


def lines(
    x: Sequence[float], rows: Mapping[str, Sequence[float | None]], title: str, x_title: str, logarithmic: str = ""
) -> str:
    """HTML of a chart of each of `rows` [N] above `x` [N].

    Args:
      logarithmic: the axes that are: some of `x` and `y`.
    """
    figure = go.Figure(
        [
            go.Scatter(x=list(x), y=_numbers(row), name=name, mode="lines", line={"color": colour, "width": 1.5})
            for (name, row), colour in zip(rows.items(), _COLOURS * len(rows), strict=False)
        ]
    )
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        template="plotly_white",
        height=300 if len(rows) == 1 else 340,
        margin={"l": 55, "r": 15, "t": 45, "b": 45 if len(rows) == 1 else 85},
        showlegend=len(rows) > 1,
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0.0, "xanchor": "left"},
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    figure.update_xaxes(title=x_title, **(_decades(x) if "x" in logarithmic else {}))
    figure.update_yaxes(**(_decades([value for row in rows.values() for value in row]) if "y" in logarithmic else {}))
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True, "displaylogo": False})


def _decades(values: Sequence[float | None]) -> dict:
    """A logarithmic axis, with marks at 1, 2 and 5 where there is room for them."""
    shown = [value for value in _numbers(values) if value is not None and value > 0.0]
    few = bool(shown) and max(shown) < 300.0 * min(shown)
    return {"type": "log", "dtick": "D2" if few else 1, "exponentformat": "power"}


def _numbers(row: Sequence[float | None]) -> list[float | None]:
    """Whatever is no finite number leaves a gap."""
    return [value if value is not None and np.isfinite(value) else None for value in row]
