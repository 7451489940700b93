"""Paths as users write them."""

import contextlib
import os
from pathlib import Path

from tf_ddpm.errors import UserError


def home_expanded(path: str, key: str) -> Path:
    """`path` with a leading ~ or ~user replaced by that home directory.

    Args:
      key: where the path comes from, for the message.

    Raises:
      UserError: where there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        whose = f"user {path[1:].partition('/')[0]!r}" if path[1:2] not in ("", "/") else "this process"
        raise UserError(f"{key}={path}: {whose} has no home directory; give a path without ~") from None


def has_home() -> bool:
    """Whether ~ means anything here; in a container with a bare user id it does not."""
    return os.path.expanduser("~") != "~"


def printable(text: str) -> str:
    """A name as any terminal and file takes it: bytes that are no UTF-8 are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def touch(path: Path) -> None:
    """Notes that a file or folder is used now, for who removes what is old; as far as that is allowed."""
    with contextlib.suppress(OSError):
        os.utime(path)
