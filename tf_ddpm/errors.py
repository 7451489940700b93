"""The one exception that is meant for the person at the keyboard, and what it quotes."""

from __future__ import annotations

import re
from typing import TypeVar

Known = TypeVar("Known")


class UserError(Exception):
    """Wrong input. The message says what is wrong and what would be right, in at most three lines."""


def first_line(error: Exception) -> str:
    """What an error of TensorFlow says, without the names of its operations and temporary files."""
    line = (str(error).splitlines() or [""])[0]
    line = re.sub(r"\{\{.*?\}\} |\S*_temp/\S+; | \[Op:\w+\]", "", line)
    return line[:200]


def required(value: Known | None, what: str) -> Known:
    """`value`, which may be None elsewhere and has been seen to by now.

    Raises:
      TypeError: where it is None after all: a mistake of the program, and not of its user.
    """
    if value is None:
        raise TypeError(f"{what} is not known")
    return value


class NotTrainedError(UserError):
    """A directory without a run, or a run without weights."""
