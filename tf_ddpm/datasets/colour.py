"""Colour profiles: the same colours in sRGB."""

from __future__ import annotations

import functools
import hashlib
import io

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}
_ALPHA = {"RGBA": "RGB", "LA": "L"}


def to_srgb(picture: Image.Image, info: dict) -> tuple[Image.Image, str | None]:
    """The picture in sRGB (relative colorimetric), by the profile embedded in it or the gamma that a PNG names.

    Args:
      picture: of mode L, LA, RGB, RGBA, CMYK or LAB.
      info: what the file says of itself, as Pillow has it.

    Returns:
      The picture, itself where it is sRGB already or has no profile that fits it; and what was done, if anything.
    """
    profile, gamma = info.get("icc_profile"), info.get("gamma")
    if picture.mode == "LAB" and not profile:
        return _transformed(picture, *_lab()), None
    if not profile:
        if not isinstance(gamma, float) or "srgb" in info or not 0.1 < gamma < 10 or abs(gamma - 1 / 2.2) < 0.02:
            return picture, None
        return _with_gamma(picture, gamma), f"gamma {gamma:.3g}"
    mode = _ALPHA.get(picture.mode, picture.mode)
    transform, name = _transform(_Bytes(profile), mode)
    if transform is None:
        return picture, name
    return _transformed(picture, transform, mode), name


def _transformed(picture: Image.Image, transform: ImageCms.ImageCmsTransform, mode: str) -> Image.Image:
    if picture.mode in _ALPHA:
        converted = ImageCms.applyTransform(picture.convert(mode), transform)
        converted.putalpha(picture.getchannel("A"))
        return converted
    return ImageCms.applyTransform(picture, transform)


def _with_gamma(picture: Image.Image, gamma: float) -> Image.Image:
    """Of values that are light to the power of `gamma` (PNG specification, gAMA), those of sRGB."""
    light = (np.arange(256) / 255) ** (1 / gamma)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    table = np.round(255 * encoded).astype(int).tolist()
    bands = [
        band if name == "A" else band.point(table)
        for name, band in zip(picture.getbands(), picture.split(), strict=True)
    ]
    return Image.merge(picture.mode, bands)


class _Bytes:
    """Bytes that a cache tells apart by their digest."""

    def __init__(self, content: bytes):
        self.content, self._digest = content, hashlib.sha256(content).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bytes) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


def _build(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    # (Without its cache lcms lets threads share a transform; optimised, it is up to 6 grey levels off.)
    return ImageCms.buildTransform(
        profile, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.NOCACHE | ImageCms.Flags.NOOPTIMIZE,
    )  # fmt: skip


@functools.cache
def _lab() -> tuple[ImageCms.ImageCmsTransform, str]:
    return _build(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"), "LAB"


@functools.lru_cache(64)
def _transform(profile: _Bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str | None]:
    """The transform to sRGB, None where nothing is to be done; and its name."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile.content))
        name = " ".join(ImageCms.getProfileDescription(opened).split())[:60] or "a profile without a name"
        if _SPACES.get(opened.profile.xcolor_space.strip().upper()) != mode:
            return None, f"{name} (does not fit the pixels, ignored)"
        transform = _build(opened, mode)
        return (None, None) if mode in ("L", "RGB") and _changes_nothing(transform, mode) else (transform, name)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, "a damaged profile (ignored)"


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether it moves no colour by more than one grey level."""
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    if mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    before = Image.fromarray(probe if mode == "RGB" else probe[..., 0])
    after = np.asarray(ImageCms.applyTransform(before, transform))
    return bool(np.abs(after.astype(int) - probe).max() <= 1)
