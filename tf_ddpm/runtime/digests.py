"""What tells arrays and words from others."""

from __future__ import annotations

import hashlib

import numpy as np


def digest(*parts: object) -> str:
    """sha256 of arrays (their shape, dtype and bytes) and of what prints as text."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.shape} {part.dtype.str}".encode())
            for start in range(0, len(part), 1000):  # a memory-mapped file is never held whole
                found.update(part[start : start + 1000].tobytes())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()
