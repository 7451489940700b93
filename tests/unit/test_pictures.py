"""Picture files of every kind become the right pixels, or are named with a reason."""

import io
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tf_ddpm.datasets import colour, first_decoder, pictures
from tf_ddpm.datasets.pictures import Reader, Rules

RAMP = np.arange(32 * 48 * 3, dtype=np.int64).reshape(32, 48, 3)
SCENE = np.stack([RAMP[..., 0] % 251, 255 - RAMP[..., 1] // 19, RAMP[..., 2] * 7 % 253], axis=-1).astype(np.uint8)
# EXIF orientation -> what a camera stored, of the picture as it is to be seen.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def read(path, size=None, channels=None, **rules):
    with Reader(Rules(**rules)).open() as reader:
        return reader.read(path, size, channels)


def smooth(height=32, width=48):
    """A scene that JPEG keeps."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 9)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("turn", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
def test_every_turn_of_a_camera_is_undone(tmp_path, kind, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    path, seen = tmp_path / "picture", smooth()
    lossless = {"JPEG": {"quality": 98, "subsampling": 0}, "WebP": {"lossless": True}}.get(kind, {})
    Image.fromarray(np.ascontiguousarray(STORED[turn](seen))).save(path, format=kind, exif=exif, **lossless)
    image = read(path)
    assert image.shape == seen.shape
    assert np.abs(image.astype(int) - seen).max() <= (6 if kind == "JPEG" else 0)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def grey_png(values, depth, transparent=None, more=b"", colour_type=0):
    """A PNG of `values` [H, W] of so many bits, or [H, W, 3] of 16 bits with the colour type 2."""
    height, width = values.shape[:2]
    if depth == 16:
        lines = [b"\0" + row.astype(">u2").tobytes() for row in values]
    else:
        bits = ((values[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(height, -1)
        lines = [b"\0" + np.packbits(row).tobytes() for row in bits.astype(np.uint8)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    clear = b"" if transparent is None else chunk(b"tRNS", np.asarray(transparent, ">u2").tobytes())
    data = chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + clear + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_of_every_depth_keeps_its_values_and_its_transparent_one(tmp_path, depth, channels):
    most = 2**depth - 1
    values = np.linspace(0, most, 64).round().astype(np.int64).reshape(8, 8)
    clear = int(values[3, 4])
    (tmp_path / "a.png").write_bytes(grey_png(values, depth, [clear]))
    image = read(tmp_path / "a.png", channels=channels)
    grey, alpha = np.round(values * 255 / most), np.where(values == clear, 0, 255)
    if channels == 4:
        np.testing.assert_array_equal(image[..., 3], alpha)
        np.testing.assert_array_equal(image[..., :3][alpha > 0], np.repeat(grey[alpha > 0][:, None], 3, axis=1))
    else:
        np.testing.assert_array_equal(image, np.repeat(np.where(alpha > 0, grey, 255)[..., None], channels, axis=2))


def test_the_transparent_colour_of_sixteen_bits_is_found(tmp_path):
    values = np.full((4, 4, 3), 51400)
    values[0] = 257 * 9
    (tmp_path / "a.png").write_bytes(grey_png(values.reshape(4, 4, 3), 16, [257 * 9] * 3, colour_type=2))
    np.testing.assert_array_equal(read(tmp_path / "a.png", channels=4)[..., 3], [[0] * 4] + [[255] * 4] * 3)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    picture = Image.fromarray(np.full((4, 4), 100, np.uint8))
    alpha = Image.fromarray(np.repeat(np.array([[0, 51, 102, 255]], np.uint8), 4, axis=0))
    picture = picture.convert("RGB" if mode in ("RGBA", "P") else "L")
    picture.putalpha(alpha)
    if mode == "P":
        picture = picture.quantize(8, method=Image.Quantize.FASTOCTREE)
    kind = "TIFF" if mode == "PA" else "PNG"
    (picture.convert("LA") if mode == "PA" else picture).save(tmp_path / "a", format=kind)
    np.testing.assert_allclose(read(tmp_path / "a", channels=3)[0, :, 0], [255, 224, 193, 100], atol=1)


def adobe_rgb(linear):
    """Linear light in sRGB's primaries -> values in Adobe RGB (1998), from its published primaries and gamma."""
    to_xyz = lambda primaries: primaries * np.linalg.solve(primaries, white)  # noqa: E731
    white = np.array([0.9505, 1.0, 1.0890])
    column = lambda x, y: [x / y, 1.0, (1 - x - y) / y]  # noqa: E731
    srgb = to_xyz(np.array([column(0.64, 0.33), column(0.30, 0.60), column(0.15, 0.06)]).T)
    adobe = to_xyz(np.array([column(0.64, 0.33), column(0.21, 0.71), column(0.15, 0.06)]).T)
    return np.clip(linear @ (np.linalg.inv(adobe) @ srgb).T, 0, 1) ** (256 / 563)


ADOBE_RGB = "tests/fixtures/first_runs/pictures/0/adobe_rgb.png"


@pytest.fixture
def adobe_profile(request):
    return Image.open(request.config.rootpath / ADOBE_RGB).info["icc_profile"]


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_a_profile_become_those_of_srgb(tmp_path, adobe_profile, alpha):
    srgb = (32 + smooth() * 0.75).astype(np.uint8)  # (dark ones, 8 bits of a pure gamma curve hold badly)
    encoded = srgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    picture = Image.fromarray(np.round(255 * adobe_rgb(linear)).astype(np.uint8))
    if alpha:
        picture.putalpha(Image.fromarray(np.full(srgb.shape[:2], 255, np.uint8)))
    picture.save(tmp_path / "a.png", icc_profile=adobe_profile)
    with Reader(Rules()).open() as reader:
        image = reader.read(tmp_path / "a.png", None, 3)
    assert np.abs(image.astype(int) - srgb).max() <= 3 and np.abs(image.astype(int) - srgb).mean() < 0.6
    assert sum(reader.notes.values()) == 1 and "Adobe" in next(iter(reader.notes))
    before = read(tmp_path / "a.png", size=srgb.shape[:2], channels=3, decoder=1)
    assert np.abs(before.astype(int) - srgb).mean() > 4  # as the first decoder reads it


def test_srgb_itself_is_left_as_it_is(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(SCENE).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), SCENE)
    picture = Image.open(tmp_path / "a.png")
    assert colour.to_srgb(picture, picture.info)[1] is None


@pytest.mark.parametrize("gamma", [1.0, 0.45455, 0.55])
def test_the_gamma_of_a_png_is_that_of_its_values(tmp_path, gamma):
    values = np.arange(256).reshape(16, 16)
    named = chunk(b"gAMA", struct.pack(">I", round(1e5 * gamma)))
    (tmp_path / "a.png").write_bytes(grey_png(values, 8, more=named))
    light = (values / 255) ** (1 / gamma)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    expected = values if gamma == 0.45455 else np.round(255 * srgb)  # (what is nearly sRGB is sRGB)
    np.testing.assert_array_equal(read(tmp_path / "a.png")[..., 0], expected)


def test_an_orientation_in_xmp_alone_turns_nothing(tmp_path):
    words = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp" + b"\0" * 5 + words)
    (tmp_path / "a.png").write_bytes(grey_png(np.arange(32).reshape(4, 8), 8, more=text))
    assert read(tmp_path / "a.png").shape == (4, 8, 1)
    assert read(tmp_path / "a.png", size=(8, 4), channels=1, decoder=1).ravel()[0] == 24  # as the first decoder does


@pytest.mark.parametrize("profile", [b"", b"no profile", b"\0" * 200])
def test_a_damaged_profile_loses_no_picture(tmp_path, profile):
    Image.fromarray(SCENE).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), SCENE)


def test_a_profile_of_another_kind_of_pixels_is_ignored_and_said(tmp_path, adobe_profile):
    Image.fromarray(SCENE[..., 0]).save(tmp_path / "a.png", icc_profile=adobe_profile)
    with Reader(Rules()).open() as reader:
        np.testing.assert_array_equal(reader.read(tmp_path / "a.png", None, 1)[..., 0], SCENE[..., 0])
    assert "does not fit" in next(iter(reader.notes))


@pytest.mark.parametrize("kind", ["int32", "int32_signed", "float32", "int16"])
def test_pixels_without_an_agreed_range_are_refused_with_the_reason(tmp_path, kind):
    values = {
        "int32": np.linspace(0, 2**31 - 1, 64).astype(np.int32),
        "int32_signed": np.linspace(-5, 5, 64).astype(np.int32),
        "float32": np.linspace(0, 1, 64).astype(np.float32),
        "int16": np.linspace(0, 255, 64).astype(np.int32),
    }[kind]
    Image.fromarray(values.reshape(8, 8)).save(tmp_path / "a.tif")
    assert "no agreed range" in read(tmp_path / "a.tif")


def test_sixteen_bits_of_other_formats_are_scaled(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.pgm", "a.tif"):
        image = read(tmp_path / name)
        assert image.shape == (8, 8, 1)
        np.testing.assert_allclose(image[..., 0], values / 257, atol=0.51)


def test_a_picture_above_the_limit_of_pixels_names_the_limit(tmp_path):
    Image.fromarray(np.zeros((100, 100), np.uint8)).save(tmp_path / "a.png")
    assert "data.max_megapixels=0.005" in read(tmp_path / "a.png", max_megapixels=0.005)
    assert read(tmp_path / "a.png", max_megapixels=0.01).shape == (100, 100, 1)


def test_a_photograph_of_a_hundred_megapixels_is_read(tmp_path):
    Image.new("L", (12_000, 9_000)).save(tmp_path / "a.png", compress_level=1)
    assert read(tmp_path / "a.png", size=(8, 8)).shape == (8, 8, 1)
    assert "too large" in read(tmp_path / "a.png", size=(8, 8), channels=1, decoder=1)


def test_a_long_text_in_a_png_is_no_reason_to_lose_it(tmp_path):
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b" " * (2 << 20)))
    (tmp_path / "a.png").write_bytes(grey_png(np.arange(64).reshape(8, 8), 8, more=text))
    assert read(tmp_path / "a.png")[..., 0].ravel().tolist() == list(range(64))


def jpeg(progressive, size=(120, 400), restart=0):
    """A JPEG of noise, which has something to lose everywhere."""
    noise = np.random.default_rng(0).normal(128, 40, (*size, 3)).clip(0, 255).astype(np.uint8)
    saved = io.BytesIO()
    Image.fromarray(noise).save(
        saved, format="JPEG", quality=80, progressive=progressive, restart_marker_blocks=restart
    )
    return saved.getvalue()


@pytest.mark.parametrize("restart", [0, 7])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_whole(tmp_path, progressive, restart):
    content, path = jpeg(progressive, restart=restart), tmp_path / "a.jpg"
    path.write_bytes(content)
    whole = read(path)
    for lost in (1, 2):
        path.write_bytes(content[:-lost])
        np.testing.assert_array_equal(read(path), whole)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_more_is_truncated_however_small_it_is_drawn(tmp_path, progressive):
    content, path = jpeg(progressive), tmp_path / "a.jpg"
    cuts = set(np.random.default_rng(0).integers(700, len(content) - 3, 60).tolist())
    cuts |= {content.find(b"\xff\xda", at + 1) for at in range(0, len(content), 500)} - {-1}  # between two scans
    for cut in cuts:
        path.write_bytes(content[:cut])
        assert isinstance(read(path, size=(16, 16), channels=3), str), cut
    path.write_bytes(content[: len(content) // 2])
    assert read(path, truncated="read").shape == (120, 400, 3)


def test_a_file_that_is_no_picture_is_not_read_whole(tmp_path):
    with open(tmp_path / "video.tar", "wb") as file:
        file.truncate(8 << 30)  # a hole: more than the memory
    assert "not an image that Pillow reads" in read(tmp_path / "video.tar")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_arrays_are_brought_to_size_by_the_rules_of_their_decoder(mode, channels):
    array = np.array(Image.fromarray(smooth()).convert(mode)).reshape(32, 48, -1)
    first = first_decoder.to_array(Image.fromarray(array.squeeze()), (12, 10), channels)
    np.testing.assert_array_equal(pictures.array_to_array(array, (12, 10), channels, 1), first)
    assert np.abs(pictures.array_to_array(array, (12, 10), channels).astype(int) - first).max() <= 5


def test_heic_names_its_plug_in_and_is_read_with_it(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "pip install pillow-heif" in read(tmp_path / "a.heic")
    called = []
    plug_in = types.SimpleNamespace(register_heif_opener=lambda: called.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    read(tmp_path / "a.heic")
    assert called


def test_pillows_limits_are_its_own_again_afterwards(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    with Reader(Rules(max_megapixels=5)).open():
        assert Image.MAX_IMAGE_PIXELS == 5_000_000
    assert before == Image.MAX_IMAGE_PIXELS


def test_what_fits_already_is_not_touched():
    array = np.zeros((4, 4, 3), np.uint8)
    assert pictures.array_to_array(array, (4, 4), 3) is array
