"""Random words, files and images: each works, or is at most three lines that a person can act on."""

import io
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig, presets
from tf_ddpm.diffusers_format import reading
from tf_ddpm.errors import UserError

FEW, MANY = 150, 10_000
_AMOUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]
_MOST_MEMORY = 2**30  # bytes, beside what the process held before


def fuzzed(count, strategy, check):
    """`check` of so many examples."""
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run = how(max_examples=count, deadline=10_000, derandomize=True, database=None, suppress_health_check=health)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    run(given(strategy)(check))()
    assert memory("VmHWM") - before < _MOST_MEMORY


def memory(name):
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def refused(error):
    """Whether an error is one that a person can act on."""
    text = str(error)
    assert text.strip() and text.count("\n") < 3 and "Traceback" not in text, text


numbers = st.one_of(
    st.integers().map(str),
    st.integers(-3, 3).map(str),
    st.floats().map(str),
    st.sampled_from(["0", "-0", "1e308", "-1e-320", "nan", "inf", "1_000", "0x10", "٣", "10" * 200]),
)
texts = st.one_of(
    numbers,
    st.lists(numbers, max_size=4).map(",".join),
    st.text(max_size=20),
    st.sampled_from(["", "none", "true", "False", "[]", "()", "../..", "~", "\0", "a=b", "digits", "folder"]),
    st.sampled_from(sorted({word for key in config_lib.keys().values() for word in key.choices or ()})),
)
one_setting = st.one_of(
    st.tuples(st.sampled_from(sorted(config_lib.keys())), texts).map("=".join), st.text(max_size=30)
)


@pytest.mark.parametrize("count", _AMOUNTS)
def test_random_settings_are_understood_or_refused_in_words(count):
    def check(example):
        preset, words = example
        try:
            config = config_lib.validated(config_lib.with_settings(presets.preset(preset), words))
        except UserError as error:
            refused(error)
            return
        assert config_lib.from_json(config_lib.to_json(config)) == config

    fuzzed(count, st.tuples(st.sampled_from(sorted(presets.PRESETS)), st.lists(one_setting, max_size=4)), check)


words = st.one_of(st.sampled_from(sorted(config_lib.keys())).map(lambda key: key.split(".")[1]), st.text(max_size=8))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
sections = st.one_of(st.sampled_from(["model", "diffusion", "data", "train", "sample", "format_version"]), st.text())
config_texts = st.one_of(
    st.dictionaries(sections, values | st.dictionaries(words, values), max_size=6).map(
        lambda content: json.dumps({"format_version": 1} | content)
    ),
    st.text(),
)


@pytest.mark.parametrize("count", _AMOUNTS)
def test_random_config_files_are_understood_or_refused_in_words(count):
    def check(text):
        try:
            config_lib.from_json(text)
        except UserError as error:
            refused(error)

    fuzzed(count, config_texts, check)


def _encoded(picture, name, **options):
    file = io.BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


def _files():
    """An image of every kind that people have."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    wide = Image.fromarray(rng.integers(0, 65536, (9, 12), np.uint16))
    modes = [colours.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    files = [_encoded(picture, "PNG") for picture in [*modes, wide]]
    files += [_encoded(colours.convert(mode), "JPEG") for mode in ("L", "RGB", "CMYK")]
    files += [_encoded(colours.convert(mode), "TIFF") for mode in ("L", "RGB", "CMYK", "F")]
    files += [_encoded(colours, name) for name in ("BMP", "WEBP", "GIF", "ICO", "TGA", "PPM")]
    files += [_encoded(colours.convert("P"), "GIF", save_all=True, append_images=modes[3:5])]
    huge = bytearray(files[4])
    huge[16:24] = struct.pack(">II", 60_000, 60_000)  # a PNG that says it is so wide and high
    return [*files, bytes(huge), b"", b"no image"]


def damaged(data):
    """Bytes of `data` cut, changed, and with others put in between."""
    place = st.integers(0, max(len(data) - 1, 0))
    changes = st.lists(st.tuples(place, st.binary(min_size=1, max_size=4)), max_size=6)

    def change(example):
        cut, inserts, edits = example
        content = bytearray(data)
        for at, other in edits:
            content[at : at + len(other)] = other
        for at, other in inserts[:1]:
            content[at:at] = other
        return bytes(content[:cut]) if cut is not None else bytes(content)

    return st.tuples(st.none() | place, changes, changes).map(change)


names = st.sampled_from(["a.png", "a.jpg", "a", "ü 画像.gif", "a.tar.gz"])
kinds = _files()
a_file = st.integers(0, len(kinds) - 1).flatmap(lambda i: damaged(kinds[i]))
picture_files = st.lists(st.tuples(names, a_file), min_size=1, max_size=2)


@pytest.mark.parametrize("count", _AMOUNTS)
def test_random_image_files_are_read_or_named(count, tmp_path, capsys):
    loaded, root = [], tmp_path / "pictures"

    def check(files):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, content in files:
            (root / name).write_bytes(content)
        for channels in (1, 3):
            data = DataConfig("folder", str(root), image_size=(8, 8), channels=channels, cache_dir=str(tmp_path / "c"))
            try:
                images = datasets.load(data)
                pixels = images.whole()
            except UserError as error:
                refused(error)
                assert str(root) in str(error)
                capsys.readouterr()
                continue
            loaded.append(len(images))
            assert pixels.shape == (len(images), 8, 8, channels) and pixels.dtype == np.uint8
            words = capsys.readouterr().err
            assert ("passed over" in words) == (len(images) < len({name for name, _ in files}))
            assert ("takes its place" in words) == (len(images.all_bad) > len(images.bad))
            np.testing.assert_array_equal(datasets.load(data).whole(), pixels)  # as kept
            capsys.readouterr()

    fuzzed(count, picture_files, check)
    assert len(loaded) > count / 4  # many are damaged where it does no harm


weights = save({"conv_in.weight": np.ones((2, 1, 3, 3), np.float32), "conv_in.bias": np.zeros(2, np.float16)})


@pytest.mark.parametrize("count", _AMOUNTS)
def test_random_weights_are_read_or_refused_in_words(count, tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def check(content):
        (tmp_path / f"{reading.WEIGHTS}.safetensors").write_bytes(content)
        try:
            assert all(array.dtype == np.float32 for array in reading.read_weights(tmp_path).values())
        except UserError as error:
            refused(error)

    fuzzed(count, damaged(weights), check)
