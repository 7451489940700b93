"""The report's charts, as plotly draws them in a browser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

_COLOURS = ("#1f5fa8", "#d1652a", "#3a8f4d", "#8a4fa3")


def script() -> str:
    """The library that draws the charts, to be written into the page once."""
    return get_plotlyjs()


def lines(
    x: Sequence[float], rows: dict[str, Sequence[float]], title: str, x_title: str, logarithmic: str = ""
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
        height=300,
        margin={"l": 55, "r": 15, "t": 45, "b": 45},
        showlegend=len(rows) > 1,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1.0, "xanchor": "right"},
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    log = {"type": "log", "dtick": "D2"}  # marks at 1, 2 and 5
    figure.update_xaxes(title=x_title, **(log if "x" in logarithmic else {}))
    figure.update_yaxes(**(log if "y" in logarithmic else {}))
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True, "displaylogo": False})


def _numbers(row: Sequence[float | None]) -> list[float | None]:
    """Whatever is no finite number leaves a gap."""
    return [value if value is not None and np.isfinite(value) else None for value in row]
