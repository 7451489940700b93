"""Images on disk: PNG files, grids and animations."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tf_ddpm.runtime import atomic_files, own_files

PNG_CHANNELS = (1, 2, 3, 4)  # grey, grey with alpha, RGB, RGBA
_TILE = 48  # smallest side, in pixels, at which an image is shown in a grid


def save_image(image: np.ndarray, path: Path) -> Path:
    """Writes uint8 [H, W, C] as `path`.png, or as `path`.npy where PNG has no form for C channels: whole, or nothing.

    Raises:
      OSError: where the disk does not take it.
    """
    as_png = image.shape[-1] in PNG_CHANNELS
    target = path.with_suffix(".png" if as_png else ".npy")
    with atomic_files.atomic_write(target) as beside, beside.open("wb") as file:
        if as_png:
            file.write(png_bytes(image))
        else:
            np.save(file, image)
    return target


def png_bytes(image: np.ndarray) -> bytes:
    """The PNG of uint8 [H, W, C], with this program's mark."""
    buffer = io.BytesIO()
    _picture(image).save(buffer, format="PNG", pnginfo=own_files.png_mark())
    return buffer.getvalue()


def class_columns(classes: int) -> int | None:
    """The columns of a grid of every class in turn: one for each, if that stays readable."""
    return classes if 1 < classes <= 16 else None


def side_by_side(*sets: np.ndarray) -> np.ndarray:
    """Sets of images uint8 [N, H, W, C], the i-th of each in one image [N, H, W of all, C]."""
    return np.concatenate(sets, axis=2)


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """uint8 [N, H, W, C] -> one image with the N of them in rows, small ones enlarged.

    Args:
      columns: of the grid; None: near square.
    """
    count, height, width, channels = images.shape
    scale = max(1, math.ceil(_TILE / min(height, width)))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale, width * scale
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    gap = 2
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def save_gif(frames: Sequence[np.ndarray], path: Path) -> None:
    """Writes uint8 images [H, W, C] as an endless animation that rests on the last."""
    pictures = [_picture(frame[..., :3] if frame.shape[-1] > 2 else frame[..., :1]) for frame in frames]
    durations = [120] * (len(pictures) - 1) + [2500]
    mark = own_files.MADE_BY.encode()
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, comment=mark)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
