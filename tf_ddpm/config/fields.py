"""A key of the configuration: its default, help text and range."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

Freezes = Literal["checkpoint", "data", "never"]


def key(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    freezes: Freezes = "checkpoint",
    resolves: bool = False,
    measures: bool = False,
    later: bool = False,
) -> Any:
    """A key of the configuration.

    Args:
      default: its default. text: what it means.
      low, high, above: its range; low and high belong to it. choices: the words that it may be.
      freezes: when a run can no longer change it: once it has a checkpoint, once its data is known, or never.
      resolves: whether the default means: as the run finds it when it begins.
      measures: whether it may be another where a run is measured.
      later: whether it came after the first format. It is saved only where it is not the default, so that the form of
        a run that does without it stays what it was.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": text,
            "low": low,
            "high": high,
            "above": above,
            "choices": choices,
            "freezes": freezes,
            "resolves": resolves,
            "measures": measures,
            "later": later,
        },
    )


sampling_key = functools.partial(key, freezes="never", measures=True)
