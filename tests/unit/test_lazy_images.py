"""Pictures that are decoded when they are asked for, and kept."""

import hashlib
import io
import os
import re
import shutil
import sqlite3
import threading

import numpy as np
import pytest
from PIL import Image

from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import cache_folder, heads, pictures
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.datasets.picture_cache import PictureCache
from tf_ddpm.datasets.pictures import Reader, Rules
from tf_ddpm.errors import UserError

SHAPE = (2, 3, 1)


def picture(value):
    return np.full(SHAPE, value, np.uint8)


def keys(*names):
    return [name.encode() for name in names]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for i in range(12):
        path = root / ("cat" if i % 2 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(path)
    return root


def data(folder, **changes):
    values = {"name": "folder", "path": str(folder), "image_size": (8, 8), "channels": 3}
    return DataConfig(**values | {"cache_dir": str(folder.parent / "cache")} | changes)


def test_a_cache_gives_back_what_was_written_and_keeps_places(tmp_path):
    cache, into = PictureCache(tmp_path, SHAPE), picture(0)
    places, _ = cache.places(keys("a", "b", "a", "c"))
    assert places.tolist() == [0, 1, 0, 2]
    assert not cache.read(1, b"b", into)
    cache.write(1, b"b", picture(7))
    again = PictureCache(tmp_path, SHAPE)
    found, reasons = again.places(keys("d", "b"))
    assert found.tolist() == [3, 1] and reasons == {}
    assert again.read(1, b"b", into) and (into == 7).all() and not again.read(3, b"d", into)
    assert not again.read(1, b"x", into)  # of another key
    again.give_up(b"d", "no picture \udcff")
    assert PictureCache(tmp_path, SHAPE).places(keys("d"))[1] == {3: "no picture \\udcff"}
    assert PictureCache(tmp_path, SHAPE, "a newer library").places(keys("d"))[1] == {}
    assert again.digests() == {}
    again.keep_digests({b"d": b"1", b"e": b"2"})
    again.keep_digests({b"d": b"3"})
    assert PictureCache(tmp_path, SHAPE).digests() == {b"d": b"3", b"e": b"2"}


def test_what_was_half_written_is_no_picture(tmp_path):
    cache, into = PictureCache(tmp_path, SHAPE), picture(0)
    cache.places(keys("a", "b"))
    cache.write(0, b"a", picture(9))
    with (tmp_path / "pixels.bin").open("r+b") as file:
        file.seek(3)
        file.write(b"\1")
    assert not cache.read(0, b"a", into)
    cache.write(0, b"a", picture(9))
    assert cache.read(0, b"a", into)


def test_a_full_disk_leaves_the_cache_as_it_was(tmp_path, monkeypatch):
    cache = PictureCache(tmp_path, SHAPE)
    cache.places(keys("a"))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            cache.places(keys("b", "c"))
    assert cache.places(keys("c"))[0].tolist() == [1]


def test_processes_that_come_together_share_places(tmp_path):
    found = {}

    def ask(number):
        names = [f"{i}" for i in range(number, number + 40)]
        found[number] = dict(zip(names, PictureCache(tmp_path, SHAPE).places(keys(*names))[0].tolist(), strict=True))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(0, 100, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = {}
    for part in found.values():
        assert all(whole.setdefault(name, place) == place for name, place in part.items())
    assert sorted(whole.values()) == list(range(len(whole)))


@pytest.mark.parametrize("memory", [False, True])
def test_images_are_the_decoded_ones_whatever_asks_for_them(tmp_path, memory):
    rng, calls = np.random.default_rng(0), []
    whole = rng.integers(0, 256, (9, *SHAPE), np.uint8)

    def decode(index):
        calls.append(index)
        return whole[index]

    kept = {}
    if not memory:
        cache = PictureCache(tmp_path, SHAPE)
        kept = {"cache": cache, "keys": keys(*"abcdefghi"), "places": cache.places(keys(*"abcdefghi"))[0]}
    images = LazyImages(decode, whole.shape, np.zeros(9, np.int32), **kept)
    for index in (3, -1, slice(2, 7, 2), np.array([5, 5, 0]), [8, 1], np.arange(9) % 2 == 0, (slice(None), 0, 1)):
        np.testing.assert_array_equal(images[index], whole[index])
    np.testing.assert_array_equal(np.asarray(images), whole)
    assert sorted(set(calls)) == list(range(9)) and len(calls) <= 10  # the same twice in one request perhaps
    count = len(calls)
    images.read_all()
    images.fill()
    np.testing.assert_array_equal(images[:], whole)
    assert len(calls) == count


def test_one_picture_more_or_changed_is_one_decoded_and_a_moved_folder_none(folder, decodes):
    first = datasets.load(data(folder))
    assert decodes == []  # till somebody asks
    before = first.whole()
    assert len(decodes) == 12 and datasets.load(data(folder)).images[3, 0, 0, 0] == before[3, 0, 0, 0]
    np.testing.assert_array_equal(datasets.load(data(folder)).whole(), before)
    assert len(decodes) == 12
    Image.fromarray(np.full((8, 8, 3), 250, np.uint8)).save(folder / "cat" / "01.png")
    Image.fromarray(np.full((8, 8, 3), 251, np.uint8)).save(folder / "dog" / "99.png")
    after = datasets.load(data(folder)).whole()
    assert sorted(decodes[12:]) == ["01.png", "99.png"] and {250, 251} <= set(after[:, 0, 0, 0])
    moved = folder.rename(folder.with_name("elsewhere"))
    np.testing.assert_array_equal(datasets.load(data(moved)).whole(), after)
    shutil.copytree(moved, folder, copy_function=shutil.copy2)
    np.testing.assert_array_equal(datasets.load(data(folder)).whole(), after)
    assert len(decodes) == 14


def test_the_working_directory_is_a_folder_like_any_other(folder, monkeypatch):
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(folder / "beside.png")
    whole = datasets.load(data(folder))
    monkeypatch.chdir(folder)
    here = datasets.load(data(folder, path="."))
    assert here.label_names == whole.label_names == (".", "cat", "dog")
    np.testing.assert_array_equal(here.labels, whole.labels)
    np.testing.assert_array_equal(here.whole(), whole.whole())


def test_a_digest_of_images_in_memory_names_every_one_and_the_labels():
    images, labels = np.zeros((2500, 2, 2, 1), np.uint8), np.zeros(2500, np.int32)
    found = {ImageSet(images, labels, ("a", "b")).digest()}
    for index in (1, 1001, 2499):  # a fingerprint sees 64 of them
        changed = images.copy()
        changed[index, 0, 0] = 1
        found.add(ImageSet(changed, labels, ("a", "b")).digest())
    found.add(ImageSet(images, np.ones_like(labels), ("a", "b")).digest())
    assert len(found) == 5 and ImageSet(images, labels, ("a", "b")).digest() in found


def test_a_digest_names_what_the_files_hold_and_decodes_nothing(folder, decodes):
    digest = lambda **changes: datasets.load(data(folder, **changes)).images.digest()  # noqa: E731
    first = digest()
    for file in folder.rglob("*.png"):
        os.utime(file, (1, 1))
    assert digest() == first and decodes == []
    assert datasets.load(data(folder.rename(folder.with_name("elsewhere")))).images.digest() == first
    folder.with_name("elsewhere").rename(folder)
    others = [digest(image_size=(4, 4)), digest(max_megapixels=1.0)]
    (folder / "cat" / "01.png").rename(folder / "dog" / "01.png")  # another label
    others.append(digest())
    (folder / "dog" / "01.png").write_bytes((folder / "dog" / "00.png").read_bytes())
    others.append(digest())
    assert len({first, *others}) == 5 and decodes == []
    (folder / "dog" / "01.png").unlink()
    images = datasets.load(data(folder)).images
    (folder / "dog" / "00.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*00\.png: No such file"):
        images.digest()


def test_files_that_differ_in_their_bytes_alone_are_told_apart(tmp_path, decodes):
    for name, value in (("one", 10), ("two", 200)):
        path = tmp_path / name / "a.bmp"
        path.parent.mkdir()
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)
        os.utime(path, ns=(10**18, 10**18))
        found = datasets.load(data(path.parent, cache_dir=str(tmp_path / "cache"))).whole()
        assert (found == value).all()


def test_what_cannot_be_decoded_is_replaced_by_the_next_of_its_label_in_any_order(folder, decodes, capsys):
    for name in ("cat/01.png", "cat/03.png", "dog/10.png"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:60] + b"\0" * 40)
    images = datasets.load(data(folder))
    expected = {1: 5, 3: 5, 10: 0}
    order = [i for i in range(12) if images.labels[i] == 0] + [i for i in range(12) if images.labels[i] == 1]
    numbers = [*range(1, 12, 2), *range(0, 12, 2)]  # of cats, and of dogs
    assert order == list(range(12)) and images.label_names == ("cat", "dog")
    wanted = [20 * expected.get(number, number) for number in numbers]
    assert images.images[::-1][:, 0, 0, 0].tolist() == wanted[::-1]
    assert len(images.all_bad) == 3 and capsys.readouterr().err.count("another picture takes its place") == 3
    count = len(decodes)
    again = datasets.load(data(folder))
    assert again.images[:, 0, 0, 0].tolist() == wanted and len(again.all_bad) == 3 and len(decodes) == count
    with pytest.raises(UserError, match=r"Remove it, or pass over such files"):
        datasets.load(data(folder, on_bad_file="fail"))


def test_what_one_library_cannot_read_is_tried_again_by_the_next(folder, decodes, monkeypatch, tmp_path):
    path = folder / "cat" / "01.png"
    path.write_bytes(path.read_bytes()[:60] + b"\0" * 40)
    monkeypatch.setattr(pictures.PIL, "__version__", "12.0.0")
    assert len(datasets.load(data(folder)).whole()) == 12
    with sqlite3.connect(next((tmp_path / "cache").glob("pictures-*/index.sqlite"))) as index:
        index.execute("UPDATE entries SET reason = 'of an earlier version, which did not say whose it was'")
    count = len(decodes)
    datasets.load(data(folder)).whole()
    assert len(decodes) == count
    monkeypatch.setattr(pictures.PIL, "__version__", "14.0.0")
    assert len(datasets.load(data(folder)).all_bad) == 0
    datasets.load(data(folder)).whole()
    assert set(decodes[count:]) == {"01.png"}


def test_a_lack_of_memory_is_no_fault_of_a_picture(folder, monkeypatch):
    images = datasets.load(data(folder))

    def lacking(*_):
        np.empty(1 << 60, np.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_to_array", lacking)
        with pytest.raises(UserError, match=r"\.png: there is no memory for it; rerun the command where"):
            images.images[0]
    assert images.all_bad == () and datasets.load(data(folder)).all_bad == ()
    assert len(datasets.load(data(folder)).whole()) == 12


def test_a_cache_that_was_named_after_the_plug_in_for_telephones_is_used(folder, decodes, monkeypatch, tmp_path):
    datasets.load(data(folder)).whole()
    (kept,) = (tmp_path / "cache").iterdir()
    kept.rename(kept.with_name(f"{kept.name}-heif"))
    count = len(decodes)
    datasets.load(data(folder)).whole()
    assert len(decodes) == count and len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "progressive", "padded"])
def test_a_head_says_how_many_pixels_a_picture_has(form):
    into = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "what it shows" * 20
    picture = Image.fromarray(np.zeros((30, 50, 3), np.uint8))
    picture.save(into, "PNG" if form == "PNG" else "JPEG", exif=exif, progressive=form == "progressive")
    head = into.getvalue()[:4096]
    if form == "padded":
        head = head[:2] + b"\xff" * 3 + head[2:]
    assert heads.pixels(head) == 1500 and heads.pixels(head[:30]) in (0, 1500) and heads.pixels(b"GIF89a" * 9) == 0


def test_a_picture_that_is_too_large_is_known_before_anything_is_decoded(folder, decodes, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which is set here, and set back
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "cat" / "03.png")
    images = datasets.load(data(folder, max_megapixels=0.001))
    assert len(images) == 12 and "03.png: too large (data.max_megapixels=0.001)" in images.all_bad[0]
    assert "03.png: too large" in capsys.readouterr().err
    cats = images.whole()[:6, 0, 0, 0]
    assert cats.tolist() == [20, 100, 100, 140, 180, 220] and "03.png" not in decodes
    Reader(Rules(max_megapixels=0.001)).set_limits()
    assert Reader(Rules(max_megapixels=0.001)).read(folder / "cat" / "03.png", (8, 8), 3) == images.all_bad[0]
    with pytest.raises(UserError, match=r"03\.png: too large"):
        datasets.load(data(folder, max_megapixels=0.001, on_bad_file="fail", cache_dir=str(folder.parent / "other")))
    assert len(decodes) == 12  # all others, and the one that was read here


def test_labels_that_do_not_fit_are_told_before_a_strict_folder_is_decoded(folder, decodes):
    with pytest.raises(UserError, match=r"model\.classes=3: expected model\.classes=2 \(cat, dog\)"):
        datasets.load(data(folder, on_bad_file="fail"), classes=3)
    assert decodes == []


def test_what_files_hold_is_read_once_to_hold_some_out(folder, monkeypatch):
    read, digest = [], hashlib.file_digest

    def counted(file, name):
        read.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    parts = [datasets.load(data(folder, holdout=0.4, split=split)) for split in ("train", "holdout")]
    assert len(read) == 12 and len(parts[0]) + len(parts[1]) == 12
    expected = [
        int(hashlib.sha256(path.read_bytes()).hexdigest()[:16], 16) < 0.4 * 2**64 for path in folder.rglob("*.png")
    ]
    assert len(parts[1]) == sum(expected)
    os.utime(folder / "cat" / "01.png", (1, 1))
    assert len(datasets.load(data(folder, holdout=0.4, split="holdout"))) == sum(expected) and len(read) == 13


def test_files_that_are_no_pictures_are_found_by_their_heads(folder, decodes):
    (folder / "cat" / "notes.png").write_text("no picture")
    (folder / "dog" / "empty.jpg").touch()
    images = datasets.load(data(folder))
    assert len(images) == 12 and len(images.bad) == 2
    assert decodes == ["empty.jpg"]  # (text is known as such)
    for name in ("cat", "dog"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
        (folder / name / "x.png").write_text("no picture")
    with pytest.raises(UserError, match="none of its 2 files is an image"):
        datasets.load(data(folder))


def test_a_run_of_decoder_2_decodes_all_at_once_and_leaves_damaged_pictures_out(folder, decodes):
    path = folder / "cat" / "01.png"
    path.write_bytes(path.read_bytes()[:60] + b"\0" * 40)
    images = datasets.load(data(folder, decoder=2))
    assert len(images) == 11 and len(images.bad) == 1 and len(decodes) == 12
    assert isinstance(images.images, np.ndarray)
    path.unlink()
    images = datasets.load(data(folder, decoder=2))
    decodes.clear()
    np.testing.assert_array_equal(datasets.load(data(folder, decoder=2)).images, images.images)  # as kept
    assert not decodes


def test_a_label_of_which_nothing_can_be_read_is_a_clear_error(folder):
    for path in (folder / "cat").iterdir():
        path.write_bytes(path.read_bytes()[:60] + b"\0" * 40)
    images = datasets.load(data(folder))
    with pytest.raises(UserError, match="no picture with one of the labels can be read"):
        images.images[0]
    assert images.failure is not None


def test_where_the_cache_cannot_be_written_a_small_set_is_kept_in_memory(folder, tmp_path, decodes):
    (tmp_path / "file").touch()
    images = datasets.load(data(folder, cache_dir=str(tmp_path / "file")))
    images.whole()
    images.whole()
    assert len(decodes) == 12
    with pytest.raises(UserError, match=r"raise data\.memory_gb=0"):
        datasets.load(data(folder, cache_dir=str(tmp_path / "file"), memory_gb=0.0))


def test_caches_are_shown_and_removed(folder, tmp_path):
    datasets.load(data(folder)).whole()
    (one,) = cache_folder.kept(tmp_path / "cache")
    assert one.what == "12 pictures" and one.size >= 12 * 192 and one.days < 1
    cache_folder.remove(one)
    assert cache_folder.kept(tmp_path / "cache") == []
    np.testing.assert_array_equal(datasets.load(data(folder)).images[0, 0, 0, 0], 20)


def test_every_kind_of_what_is_kept_is_shown_and_nothing_else(folder, tmp_path):
    cache, changes = tmp_path / "cache", {"decoder": 2, "memory_gb": 0.0}
    place = datasets.load(data(folder, **changes)).place
    assert re.fullmatch(rf"{cache}/folder-\w+-8x8x3-d2-\S+ \(\S+ GB\)", place)
    assert datasets.load(data(folder, **changes | {"memory_gb": 1.0})).place == place
    assert datasets.load(data(folder)).place.startswith(f"{cache}/pictures-")
    (cache / "features" / "0123").mkdir(parents=True)
    (cache / "labels-x").mkdir()
    (cache / "mine").mkdir()
    for name in ("features/0123/a.npz", "labels-a.npy", "latents-b.npy", "notes.txt", "mine/images.npy", ".partial-c"):
        (cache / name).write_bytes(b"0" * 5000)
    kinds = {"12 pictures", "decoded images", "features of a reference", "labels", "latents"}
    found = cache_folder.kept(cache)
    assert {one.what for one in found} == kinds and len(found) == 6 and sum(one.size for one in found) > 15_000
    for path in cache.rglob("*"):
        os.utime(path, (1, 1))
    assert min(one.days for one in cache_folder.kept(cache)) > 10_000
    datasets.load(data(folder, **changes))
    assert [one.what for one in cache_folder.kept(cache) if one.days < 1] == ["decoded images"]  # it was used
    for one in found:
        cache_folder.remove(one)
    assert sorted(path.name for path in cache.iterdir()) == [".partial-c", "features", "mine", "notes.txt"]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_its_decoder_makes_smaller_is_the_same_picture(tmp_path, orientation):
    y, x = np.mgrid[0:900, 0:1200]
    waves = np.stack([127 + 120 * np.sin(x / 90 + c) * np.cos(y / (70 + 9 * c)) for c in range(3)], axis=-1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(waves.astype(np.uint8)).save(path, quality=95, exif=exif)
    sizes = []
    for decoder in (2, 3):
        reader = Reader(Rules(decoder))
        found = reader.read(path, (48, 64), 3)
        sizes.append(found.astype(int))
    assert np.abs(sizes[0] - sizes[1]).max() <= 1
    with Image.open(path) as picture_file:
        pictures._reduce(picture_file, (48, 64))
        assert max(picture_file.size) < 400


def test_what_may_pass_is_not_kept_as_a_picture_that_is_bad(folder, tmp_path):
    images = datasets.load(data(folder))
    away = folder.rename(folder.with_name("away"))
    with pytest.raises(UserError, match=r"No such file.*it was there and whole when the run began"):
        images.images[0]
    assert images.failure is not None and images.all_bad == ()
    away.rename(folder)
    assert datasets.load(data(folder)).whole()[:, 0, 0, 0].min() == 0


def test_a_lost_index_gives_no_picture_of_another_file(folder, tmp_path):
    datasets.load(data(folder)).whole()
    (kept,) = (tmp_path / "cache").iterdir()
    (kept / "index.sqlite").unlink()
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        Image.fromarray(np.full((8, 8, 3), 255 - i, np.uint8)).save(path)
    assert datasets.load(data(folder)).images[:, 0, 0, 0].tolist() == [255 - i for i in range(12)]


def test_files_that_differ_at_their_end_alone_are_told_apart(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    for name, value in (("one", 50), ("two", 200)):
        pixels[:8] = value  # a BMP begins with its lowest row
        path = tmp_path / name / "a.bmp"
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)
        os.utime(path, ns=(10**18, 10**18))
        found = datasets.load(data(path.parent, cache_dir=str(tmp_path / "cache"), image_size=(64, 64))).whole()
        assert found[0, 0, 0, 0] == value


def test_the_orientation_of_xmp_turns_no_jpeg(tmp_path):
    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[:80] = 255
    about = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'
    names = 'xmlns:x="adobe:ns:meta/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    xmp = f"<x:xmpmeta {names}><rdf:RDF>{about}</rdf:RDF></x:xmpmeta>".encode()
    Image.fromarray(pixels).save(tmp_path / "a.jpg", xmp=xmp, quality=95)
    found = [Reader(Rules(decoder)).read(tmp_path / "a.jpg", (16, 16), 3)[2, 2, 0] for decoder in (2, 3)]
    assert found[0] > 250 and found[1] > 250
