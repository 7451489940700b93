"""How runs of decoder 1 read pictures: kept as it was, so that they go on with the pixels that they began with."""

from __future__ import annotations

import contextlib

import numpy as np
from PIL import Image, ImageOps

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def to_array(picture: Image.Image, size: tuple[int, int], channels: int) -> np.ndarray:
    """`picture` as uint8 [*size, channels]: see `pictures.to_array`, which reads colour profiles as well.

    Args:
      size: (height, width) in pixels.

    Raises:
      ValueError: for a mode that has no agreed range (32-bit float).
    """
    picture.load()
    with contextlib.suppress(Exception):  # damaged EXIF data is no reason to lose a good image
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("32-bit float pixels have no agreed range")
    if picture.mode.startswith("I"):  # 16 bits, or 32 that hold 16
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if channels != 4 and (picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert(_MODES[channels])
    height, width = size
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(height, width, channels)
