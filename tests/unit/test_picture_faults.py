"""What goes wrong with pictures and their cache: nothing good is lost, and nothing wrong is kept."""

import functools
import os
import sqlite3

import numpy as np
import pytest
from PIL import Image

from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import cache_folder, lazy_folder, picture_cache, pictures
from tf_ddpm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures"


def load_folder(folder, **changes):
    values = {"image_size": (8, 8), "channels": 3, "cache_dir": str(folder.parent / "cache")}
    return datasets.load(DataConfig("folder", str(folder), **values | changes))


@pytest.mark.parametrize("changes", [{}, {"memory_gb": 0.0}, {"holdout": 0.01}])
@pytest.mark.parametrize("where", ["head", "page"])
def test_a_damaged_index_is_told_and_begun_anew(folder, decodes, capsys, where, changes):
    load = functools.partial(load_folder, **changes)
    expected = load(folder).whole()
    (index,) = (folder.parent / "cache").glob("*/index.sqlite")
    content = bytearray(index.read_bytes())
    content[slice(100) if where == "head" else slice(4096, None)] = b"\xa5" * (
        100 if where == "head" else len(content) - 4096
    )
    index.write_bytes(content)
    assert [kept.what for kept in cache_folder.kept(folder.parent / "cache")] == [
        "pictures, of which the index is damaged"
    ]
    np.testing.assert_array_equal(load(folder).whole(), expected)
    assert "is damaged" in capsys.readouterr().err
    decodes.clear()
    np.testing.assert_array_equal(load(folder).whole(), expected)
    assert not decodes and not capsys.readouterr().err


def test_an_index_that_is_locked_is_left_as_it_is(folder, monkeypatch, capsys):
    load_folder(folder).whole()
    (index,) = (folder.parent / "cache").glob("*/index.sqlite")
    monkeypatch.setattr("tf_ddpm.datasets.picture_cache._WAIT", 0.1)
    other = sqlite3.connect(index, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert load_folder(folder).whole().shape == (6, 8, 8, 3)
    other.close()
    assert "cannot be written (database is locked)" in capsys.readouterr().err and index.exists()


def test_a_cache_that_cannot_be_written_is_told_where_memory_takes_its_place(folder, capsys):
    (folder.parent / "cache").write_text("a file")
    assert load_folder(folder).whole().shape == (6, 8, 8, 3)
    words = capsys.readouterr().err
    assert "cannot be written (Not a directory): pictures are held in memory, and decoded again" in words


def test_a_picture_that_is_replaced_during_a_run_is_not_kept_as_what_it_was(folder):
    images = load_folder(folder)
    file = folder / "2.png"
    before, status = file.read_bytes(), file.stat()
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert images.images[2].min() == 255
    file.write_bytes(before)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(load_folder(folder).images[2], np.full((8, 8, 3), 80))


def test_text_beside_pictures_is_not_tried_as_one(folder, decodes):
    texts = {"0.txt": "eine schöne Blume", "tags.json": "{}", "long.txt": "ö" * 5000, "car.txt": "BMW on a street"}
    for name, words in texts.items():
        (folder / name).write_text(words, encoding="utf-8")
    (folder / "raw.dat").write_bytes(b"\xff\xfe\x80 no text")
    (folder / "plain.ppm").write_text("P3 1 1 255 9 9 9\n")
    (folder / "old.imt").write_bytes(b"width 64\nheight 64\npixel n8\n\x0c" + b"2" * 4096)
    images = load_folder(folder)
    assert sorted(decodes) == ["old.imt", "raw.dat"] and len(images) == 8
    found = sorted(line.rpartition("/")[2].partition(":")[0] for line in images.bad)
    assert found == sorted([*texts, "raw.dat"])


@pytest.mark.parametrize("block", [b"no TIFF head", b"II*", b"II*\0\xff\xff\xff\xff"])
def test_damaged_exif_data_loses_no_jpeg(tmp_path, block):
    (tmp_path / "pictures").mkdir()
    file = tmp_path / "pictures" / "0.jpg"
    Image.new("RGB", (64, 64), (200, 20, 20)).save(file, exif=b"Exif\0\0" + block, dpi=(72, 72))
    images = load_folder(file.parent)
    assert np.abs(images.whole().astype(int) - (200, 20, 20)).max() < 4 and not images.all_bad


def test_what_decoder_2_could_not_read_for_a_moment_is_there_at_the_next_start(folder, monkeypatch):
    read = pictures.Reader.read
    fails = lambda self, file, *args: f"{file}: ?" if file.stem == "3" else read(self, file, *args)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(pictures.Reader, "read", fails)
        assert len(load_folder(folder, decoder=2)) == 5
    assert len(load_folder(folder, decoder=2)) == 6


def test_a_picture_that_could_not_be_read_for_a_moment_is_itself(folder, monkeypatch, capsys):
    read, failed = pictures.Reader.read, []

    def once(self, file, *args):
        if file.stem == "3" and not failed:
            failed.append(file)
            return f"{file}: Input/output error"
        return read(self, file, *args)

    monkeypatch.setattr(pictures.Reader, "read", once)
    np.testing.assert_array_equal(load_folder(folder).images[3], np.full((8, 8, 3), 120))
    assert failed and not capsys.readouterr().err


def test_a_digest_is_of_the_files_that_were_found(folder):
    images = load_folder(folder)
    images.decode_all()
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(folder / "2.png")
    os.utime(folder / "2.png", ns=(1, 1))
    with pytest.raises(UserError, match="pictures were replaced while they were read; rerun the command"):
        images.digest()


def test_a_lack_of_memory_for_a_format_that_does_not_tell_itself_ends_the_run(folder, monkeypatch):
    (folder / "6.dat").write_bytes(b"\xff\xfe\x80 which format?")
    monkeypatch.setattr(pictures.Reader, "read", lambda self, file, *args: f"{file}: {pictures.NO_MEMORY}")
    with pytest.raises(UserError, match=r"6\.dat: there is no memory for it; rerun the command where there is more"):
        load_folder(folder)


def test_formats_of_text_are_decoded_when_they_are_asked_for(folder, decodes):
    (folder / "6.pgm").write_text("P2 2 2 255\n0 50 100 255\n")
    (folder / "7.pgm").write_text("P2 is what I call this\n")
    images = load_folder(folder)
    assert len(images) == 7 and not decodes and "7.pgm" in images.all_bad[0]
    images.decode_all()
    assert len(decodes) == 7


def test_of_processes_that_find_a_damaged_index_one_begins_anew(folder):
    load_folder(folder).whole()
    (index,) = (folder.parent / "cache").glob("*/index.sqlite")
    index.write_bytes(b"\xa5" * 4096)
    data = DataConfig("folder", str(folder), image_size=(8, 8), channels=3, cache_dir=str(folder.parent / "cache"))
    asked = []

    class Second(picture_cache.PictureCache):
        """Another process mends what this one has found damaged, before this one does."""

        def __init__(self, *args):
            asked.append(args)
            if len(asked) == 2:
                os.replace(index.parent, folder.parent / "aside")
                np.testing.assert_array_equal(load_folder(folder).whole()[1], 40)
            super().__init__(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_folder, "PictureCache", Second)
        assert isinstance(lazy_folder.open_cache(data), picture_cache.PictureCache)
    assert load_folder(folder).images._is_there(1)
