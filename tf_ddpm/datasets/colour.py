"""Colour profiles: the same colours in sRGB."""

from __future__ import annotations

import functools
import hashlib
import io
import typing

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
    profile, gamma = info.get("icc_profile"), _gamma(info)
    if not profile:
        if picture.mode == "LAB":
            return _transformed(picture, *_lab()), None
        if gamma is None or info.get("gamma_applied"):
            return picture, None
        return _with_gamma(picture, gamma), f"gamma {gamma:.3g}"
    mode = _ALPHA.get(picture.mode, picture.mode)
    transform, name = _transform(_Bytes(profile), mode)
    if transform is None:
        return (_transformed(picture, *_lab()) if mode == "LAB" else picture), name
    return _transformed(picture, transform, mode), name


def _transformed(picture: Image.Image, transform: ImageCms.ImageCmsTransform, mode: str) -> Image.Image:
    alpha = picture.getchannel("A") if picture.mode in _ALPHA else None
    opaque = picture if alpha is None else picture.convert(mode)
    converted = typing.cast(Image.Image, ImageCms.applyTransform(opaque, transform))  # None: of one changed in place
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def sixteen_to_eight(values: np.ndarray, info: dict) -> np.ndarray:
    """Grey values of 16 bits as uint8; the gamma that the file names is applied before they are rounded."""
    gamma = None if info.get("icc_profile") else _gamma(info)
    if gamma is None:
        return ((values + 128) // 257).astype(np.uint8)
    info["gamma_applied"] = True
    return np.round(255 * _encoded(values / 65535, gamma)).astype(np.uint8)


def _gamma(info: dict) -> float | None:
    """The gamma of a PNG's values, where it is another than that of sRGB."""
    gamma = info.get("gamma")
    other = isinstance(gamma, float) and "srgb" not in info and 0.1 < gamma < 10 and abs(gamma - 1 / 2.2) >= 0.02
    return gamma if other else None


def _encoded(values: np.ndarray, gamma: float) -> np.ndarray:
    """sRGB's values, 0 to 1, of such as are light to the power of `gamma` (PNG specification, gAMA)."""
    light = values ** (1 / gamma)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _with_gamma(picture: Image.Image, gamma: float) -> Image.Image:
    table = np.round(255 * _encoded(np.arange(256) / 255, gamma)).astype(int).tolist()
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
