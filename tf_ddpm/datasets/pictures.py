"""One way to bring any picture to uint8 [H, W, C]: its mode, its colours, its size, its crop."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import io
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from tf_ddpm.config import DECODER, DataConfig
from tf_ddpm.datasets import colour, first_decoder, jpeg_end
from tf_ddpm.errors import UserError, required
from tf_ddpm.runtime import own_files

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_WITH_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
_FIRST_MOST_PIXELS = 89_478_485  # of decoder 1
_XMP = ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp")
_MOST_TEXT = 64 << 20  # bytes of text in a PNG
_REVISION = 2  # of this file: what one finds no picture in, the next may read
_ORIENTATION = 0x0112  # of EXIF; 5 to 8 are turned by a quarter
NO_MEMORY = "there is no memory for it"
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


Decoded = tuple[np.ndarray | None, str | None]  # pixels, and what was done with a colour profile


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is read, and how: see the keys of the same name in `config.DataConfig`."""

    decoder: int = DECODER
    max_megapixels: float = DataConfig.max_megapixels
    truncated: str = DataConfig.truncated

    @classmethod
    def of(cls, data: DataConfig) -> Rules:
        """Those of a configuration."""
        return cls(data.decoder or DECODER, data.max_megapixels, data.truncated)


class Reader:
    """Reads picture files.

    Args:
      marked: whether the pictures that this program made are read as well.

    Attributes:
      notes: what was done with colour profiles -> in how many pictures.
    """

    def __init__(self, rules: Rules, marked: bool = False):
        self.rules, self._marked, self._lock = rules, marked, threading.Lock()
        self.notes: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def open(self) -> Iterator[Reader]:
        """Sets Pillow's limits, which are the process' own, to the rules' until the context ends."""
        limits = [(Image, "MAX_IMAGE_PIXELS", _FIRST_MOST_PIXELS)]
        if self.rules.decoder > 1:
            limits = [
                (Image, "MAX_IMAGE_PIXELS", round(self.rules.max_megapixels * 1e6)),
                (PngImagePlugin, "MAX_TEXT_CHUNK", _MOST_TEXT),
                (PngImagePlugin, "MAX_TEXT_MEMORY", _MOST_TEXT),
                (ImageFile, "LOAD_TRUNCATED_IMAGES", self.rules.truncated == "read"),
            ]
            _register_heif()
        before = [getattr(module, name) for module, name, _ in limits]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                for module, name, value in limits:
                    setattr(module, name, value)
                yield self
            finally:
                for (module, name, _), value in zip(limits, before, strict=True):
                    setattr(module, name, value)

    @property
    def most_pixels(self) -> int:
        """Of a picture, once `set_limits` holds."""
        return 2 * max(1, round(self.rules.max_megapixels * 1e6) // 2)

    def set_limits(self) -> None:
        """Sets Pillow's limits to the rules' for good, for pictures that are read now and then."""
        Image.MAX_IMAGE_PIXELS = self.most_pixels // 2  # above which it warns, and raises above twice that
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MOST_TEXT
        ImageFile.LOAD_TRUNCATED_IMAGES = self.rules.truncated == "read"
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # it warns of damaged EXIF data
        _register_heif()

    def read(self, file: Path, size: tuple[int, int] | None, channels: int | None) -> np.ndarray | str | None:
        """The pixels uint8 [H, W, C], or in words why there are none; None for a picture of this program's.

        Args:
          size: (height, width); None: the picture's own. channels: None: 1 if it is grey, else 3.
        """
        try:
            pixels, note = self._whole(file, size, channels)
            if note:
                with self._lock:
                    self.notes[note] += 1
            return pixels
        except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them raise
            return self._words(file, error)

    def opens(self, file: Path) -> str | None:
        """In words why it does not open as a picture; None: it does, whether or not it can be decoded."""
        try:
            with Image.open(file):
                return None
        except Exception as error:  # as above
            return self._words(file, error)

    def _words(self, file: Path, error: Exception) -> str:
        if isinstance(error, UnidentifiedImageError):
            return self.unidentified(file)
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            return self.too_large(file)
        if isinstance(error, MemoryError):
            return f"{file}: {NO_MEMORY}"
        return f"{file}: {' '.join(str(error).split()) or type(error).__name__}"

    def unidentified(self, file: Path) -> str:
        """In words that it is no picture."""
        return f"{file}: {_unidentified(file, self.rules.decoder)}"

    def too_large(self, file: Path | str) -> str:
        """In words that a picture has more pixels than the rules allow."""
        most = f"data.max_megapixels={self.rules.max_megapixels:g}"
        return f"{file}: too large ({most if self.rules.decoder > 1 else _FIRST_MOST_PIXELS})"

    def _whole(self, file: Path, size: tuple[int, int] | None, channels: int | None) -> Decoded:
        """As `_decoded`; a JPEG that lacks nothing but its end marker is whole."""
        try:
            return self._decoded(file, size, channels)
        except UnidentifiedImageError:
            raise
        except OSError:
            content = jpeg_end.with_end(file) if self.rules.decoder > 1 else None
            if content is None:
                raise
            return self._decoded(io.BytesIO(content), size, channels)

    def _decoded(self, file: Path | io.BytesIO, size: tuple[int, int] | None, channels: int | None) -> Decoded:
        with Image.open(file) as picture:
            if not self._marked and own_files.is_marked(picture):
                return None, None
            if self.rules.decoder == 1:
                return first_decoder.to_array(picture, required(size, "size"), required(channels, "channels")), None
            if self.rules.decoder > 2 and size is not None:
                _reduce(picture, size)
            return _to_array(picture, size, channels)


def _reduce(picture: Image.Image, size: tuple[int, int]) -> None:
    """Has the decoder of a JPEG make it smaller, to not less than twice `size`.

    That takes a fraction of the time, and where the picture is smooth it is the same to a grey level. Sides that it
    cannot divide would move the picture by a part of a pixel.
    """
    if picture.format != "JPEG":
        return
    _forget_xmp(picture)  # before its orientation is asked for
    turned = False
    with contextlib.suppress(Exception):  # damaged EXIF data is no reason to lose a good image
        turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    wanted = size if turned else size[::-1]
    for scale in (8, 4, 2):
        if all(
            side % scale == 0 and side // scale >= 2 * least for side, least in zip(picture.size, wanted, strict=True)
        ):
            picture.draft(None, (picture.width // scale, picture.height // scale))
            return


def to_array(picture: Image.Image, size: tuple[int, int] | None = None, channels: int | None = None) -> np.ndarray:
    """`picture` as uint8 [*size, channels].

    The EXIF orientation is applied, and the colour profile: pixels are sRGB. Transparency is laid on white (unless
    channels is 4), 16-bit grey is scaled to 8 bits; the shorter side is brought to `size` and the longer cropped
    around the centre.

    Args:
      size: (height, width) in pixels; None: the picture's own. channels: None: 1 for grey pictures, else 3.

    Raises:
      ValueError: for a mode that has no agreed range (32 bits).
    """
    return _to_array(picture, size, channels)[0]


def array_to_array(pixels: np.ndarray, size: tuple[int, int], channels: int, decoder: int | None = None) -> np.ndarray:
    """uint8 [H, W, C] brought to [*size, channels] by the decoder's rules; unchanged if it already fits."""
    if pixels.shape == (*size, channels):
        return pixels
    squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    picture = Image.fromarray(squeezed)
    return first_decoder.to_array(picture, size, channels) if decoder == 1 else to_array(picture, size, channels)


def _to_array(
    picture: Image.Image, size: tuple[int, int] | None, channels: int | None
) -> tuple[np.ndarray, str | None]:
    raw_mode, format_name = _raw_mode(picture), picture.format
    _forget_xmp(picture)
    picture.load()
    _forget_xmp(picture)  # a PNG may have it at its end
    channels = channels or (1 if picture.mode in _GREY else 3)
    _scale_transparency(picture, raw_mode)
    with contextlib.suppress(Exception):  # damaged EXIF data is no reason to lose a good image
        picture = ImageOps.exif_transpose(picture)
    info, picture = picture.info, _plain(picture, format_name)
    height, width = size or (picture.height, picture.width)
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    picture, note = colour.to_srgb(picture, info)  # (after the resizing: a photograph has far more pixels)
    if channels != 4 and picture.mode in ("LA", "RGBA"):
        picture = _on_white(picture)
    return np.asarray(picture.convert(_MODES[channels])).reshape(height, width, channels), note


def _forget_xmp(picture: Image.Image) -> None:
    """Pillow would turn the picture by it; viewers do not."""
    for name in _XMP:
        picture.info.pop(name, None)


def _on_white(picture: Image.Image) -> Image.Image:
    """LA or RGBA without its transparency."""
    mode = picture.mode.removesuffix("A")
    white = Image.new(mode, picture.size, "white")
    white.paste(picture.convert(mode), mask=picture.getchannel("A"))
    return white


def _raw_mode(picture: Image.Image) -> str:
    """How a PNG's pixels lie in the file, for example `L;2`."""
    tile = getattr(picture, "tile", None)
    if picture.format != "PNG" or not tile:
        return ""
    args = tile[0][3]
    return args if isinstance(args, str) else str(args[0])


def _scale_transparency(picture: Image.Image, raw_mode: str) -> None:
    """The transparent value, which a PNG gives in the file's own depth, in the depth of the pixels as Pillow has them.

    (Of 16-bit RGB it keeps the high bytes alone, so that near colours become transparent as well.)
    """
    value = picture.info.get("transparency")
    if isinstance(value, int) and picture.mode in ("L", "1"):
        picture.info["transparency"] = value * {"L;2": 85, "L;4": 17, "1": 255}.get(raw_mode, 1)
    elif isinstance(value, tuple) and raw_mode.startswith("RGB;16"):
        picture.info["transparency"] = tuple(part >> 8 for part in value)


def _plain(picture: Image.Image, format_name: str | None) -> Image.Image:
    """The picture in a mode of 8 bits a channel and of few kinds: L, LA, RGB, RGBA, CMYK or LAB."""
    mode, info = picture.mode, picture.info
    if mode == "F":
        raise ValueError("32-bit float pixels have no agreed range")
    if mode == "I" and format_name != "PPM":
        raise ValueError("32-bit integer pixels have no agreed range")
    if mode.startswith("I"):  # 16 bits, or 32 that hold 16
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        plain = Image.fromarray(colour.sixteen_to_eight(values, info))
        if isinstance(info.get("transparency"), int):
            plain.putalpha(Image.fromarray(np.where(values == info["transparency"], 0, 255).astype(np.uint8)))
        return plain
    if format_name == "XBM":  # in which 1 is black
        return ImageOps.invert(picture.convert("L"))
    if mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB") and "transparency" not in info:
        return picture
    clear = mode in _WITH_ALPHA or "transparency" in info
    grey = mode in ("1", "L", "LA", "La")
    return picture.convert(("LA" if grey else "RGBA") if clear else ("L" if grey else "RGB"))


def _unidentified(file: Path, decoder: int) -> str:
    try:
        with file.open("rb") as opened:
            head = opened.read(12)
    except OSError as error:
        return error.strerror or "cannot be read"
    if decoder > 1 and head[4:8] == b"ftyp" and head[8:12] in _HEIF and not has_heif():
        return "HEIC; the plug-in reads it: pip install pillow-heif"
    return "not an image that Pillow reads"


def check_memory(reason: str) -> None:
    """Whether the reason why there is no picture is its own, and not a lack of memory.

    Raises:
      UserError: where it is not.
    """
    if reason.endswith(NO_MEMORY):
        raise UserError(f"{reason}; rerun the command where there is more, or with a lower data.max_megapixels")


def has_heif() -> bool:
    """Whether the optional plug-in for what telephones write is installed."""
    return "pillow_heif" in sys.modules or importlib.util.find_spec("pillow_heif") is not None


def libraries() -> str:
    """What decodes pictures, and in which version."""
    found = [f"Pillow {PIL.__version__}", f"revision {_REVISION}"]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found.append(f"pillow-heif {importlib.metadata.version('pillow-heif')}")
    return ", ".join(found)


def _register_heif() -> None:
    """The optional plug-in for what telephones write."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
