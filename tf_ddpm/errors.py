"""The one exception that is meant for the person at the keyboard, and what it quotes."""

import re


class UserError(Exception):
    """Wrong input. The message says what is wrong and what would be right, in at most three lines."""


def first_line(error: Exception) -> str:
    """What an error of TensorFlow says, without the names of its operations and temporary files."""
    line = (str(error).splitlines() or [""])[0]
    line = re.sub(r"\{\{.*?\}\} |\S*_temp/\S+; | \[Op:\w+\]", "", line)
    return line[:200]


class NotTrainedError(UserError):
    """A directory without a run, or a run without weights."""
