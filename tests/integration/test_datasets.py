"""Images from every source, and batches as a function of (seed, step)."""

import os
import shutil
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.datasets.image_set import ImageSet, collect
from tf_ddpm.errors import UserError


def test_digits_are_scikit_learns_scaled_to_bytes():
    images = datasets.load(DataConfig())
    assert images.images.shape == (1797, 8, 8, 1) and images.images.dtype == np.uint8
    np.testing.assert_array_equal(images.images[5, ..., 0], np.round(load_digits().images[5] / 16 * 255))
    assert images.labels[5] == load_digits().target[5] and images.label_names == tuple("0123456789")


def test_digits_at_another_size():
    assert datasets.load(DataConfig(image_size=(16, 12), channels=3)).image_shape == (16, 12, 3)


def unlabelled(images):
    return ImageSet(images, np.full(len(images), -1, np.int32), ())


def rows(dataset, count):
    return np.concatenate([element["image"].numpy() for element in dataset.take(count)])


NUMBERED = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)


def test_each_epoch_visits_every_image_once_in_an_order_of_its_own():
    seen = rows(batch_dataset(unlabelled(NUMBERED), 20, 0, 0, False), 10).ravel()
    epochs = seen.reshape(4, 50)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(50))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert tuple(rows(batch_dataset(unlabelled(NUMBERED), 20, 1, 0, False), 10).ravel()) != tuple(seen)


def test_each_image_keeps_its_label():
    numbered = ImageSet(NUMBERED, np.arange(50, dtype=np.int32) * 3, tuple(map(str, range(150))))
    for element in batch_dataset(numbered, 20, 0, 0, False, shards=2).take(10):
        np.testing.assert_array_equal(element["label"], element["image"].numpy().ravel() * 3)


def test_batches_resume_at_any_step_and_shard_without_changing():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
    whole = rows(batch_dataset(unlabelled(images), 12, 7, 0, True), 9)
    np.testing.assert_array_equal(whole[5 * 12 :], rows(batch_dataset(unlabelled(images), 12, 7, 5, True), 4))
    np.testing.assert_array_equal(whole, rows(batch_dataset(unlabelled(images), 12, 7, 0, True, shards=3), 27))


def test_each_shard_knows_its_address():
    addresses = [
        e["address"].numpy().tolist() for e in batch_dataset(unlabelled(NUMBERED), 12, 7, 5, False, shards=2).take(4)
    ]
    assert addresses == [[7, 5, 0], [7, 5, 6], [7, 6, 0], [7, 6, 6]]


def test_flips_mirror_half_of_the_images():
    images = np.tile(np.arange(4, dtype=np.uint8).reshape(1, 1, 4, 1), (10, 2, 1, 1))
    flipped = rows(batch_dataset(unlabelled(images), 100, 0, 0, True), 20)[:, 0, 0, 0] == 3
    assert abs(flipped.mean() - 0.5) < 0.05
    assert not np.any(rows(batch_dataset(unlabelled(images), 100, 0, 0, False), 2)[:, 0, 0, 0] == 3)


@pytest.fixture
def mixed_folder(tmp_path):
    """Images of every mode in nested folders, one corrupt, one that is no image."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    grey = rng.integers(0, 256, (20, 30), np.uint8)
    rgb = rng.integers(0, 256, (40, 21, 3), np.uint8)
    Image.fromarray(grey).save(tmp_path / "cats/grey.png")
    Image.fromarray(rgb).save(tmp_path / "cats/rgb.jpg")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cats/cmyk.jpg")
    Image.fromarray(rgb).quantize(16).save(tmp_path / "cats/palette.gif")
    Image.fromarray(np.dstack([rgb, np.zeros((40, 21), np.uint8)])).save(tmp_path / "dogs/clear.png")
    Image.fromarray((grey.astype(np.uint16) << 8) | grey).save(tmp_path / "dogs/deep.png")
    Image.fromarray(rgb).save(tmp_path / "dogs/wrong_extension.txt", format="PNG")
    (tmp_path / "dogs/corrupt.png").write_bytes((tmp_path / "dogs/clear.png").read_bytes()[:60])
    (tmp_path / "notes.md").write_text("not an image")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "dogs/again").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


def folder(path, **changes):
    """Read by the rules that decode everything at once (test_lazy_images.py has the newest)."""
    return DataConfig(name="folder", path=str(path), **{"image_size": (16, 16), "decoder": 2, **changes})


def test_a_folder_of_mixed_images_loads_and_names_the_bad_files(mixed_folder, capsys):
    images = datasets.load(folder(mixed_folder))
    assert images.images.shape == (7, 16, 16, 3)
    assert images.label_names == ("cats", "dogs")
    assert np.bincount(images.labels).tolist() == [4, 3]
    warning = capsys.readouterr().err
    assert "4 of 11 files" in warning and "clear.png" not in warning
    assert all(name in warning for name in ("corrupt.png", "notes.md", "dangling.png", "pipe.png"))


def test_a_bad_file_ends_it_where_none_may_be_passed_over(mixed_folder, tmp_path):
    strict = {"on_bad_file": "fail"}
    with pytest.raises(UserError, match=r"dangling\.png: No such file(.|\n)*on_bad_file=warn"):
        datasets.load(folder(mixed_folder, **strict))
    (mixed_folder / "dangling.png").unlink()
    (mixed_folder / "pipe.png").unlink()
    in_file = {"memory_gb": 0.0, "cache_dir": str(tmp_path / ".cache")}
    for where in ({}, in_file):
        with pytest.raises(UserError, match=r"(corrupt\.png|notes\.md): "):
            datasets.load(folder(mixed_folder, **strict, **where))
    assert not list((tmp_path / ".cache").iterdir())
    datasets.load(folder(mixed_folder, **in_file))
    with pytest.raises(UserError, match="2 of the 9 files"):  # kept by a run that passed over them
        datasets.load(folder(mixed_folder, **strict, **in_file))
    for path in ("notes.md", "corrupt.png"):
        next(mixed_folder.rglob(path)).unlink()
    assert len(datasets.load(folder(mixed_folder, **strict))) == 7


def test_transparency_becomes_white_and_sixteen_bits_become_eight(mixed_folder):
    images = datasets.load(folder(mixed_folder, image_size=(20, 30))).images
    (clear, deep, _) = images[4:]
    assert np.all(clear == 255)
    grey = np.asarray(Image.open(mixed_folder / "cats/grey.png"))
    assert np.abs(deep[..., 0].astype(int) - grey).max() <= 1


def test_grey_and_rgba_folders(mixed_folder):
    assert datasets.load(folder(mixed_folder, channels=1)).image_shape == (16, 16, 1)
    assert np.all(datasets.load(folder(mixed_folder, channels=4)).images[4, ..., 3] == 0)


def test_large_folders_are_kept_in_a_file_and_read_from_it(mixed_folder, tmp_path):
    in_memory = datasets.load(folder(mixed_folder))
    cache = tmp_path / ".cache"
    for _ in range(2):
        in_file = datasets.load(folder(mixed_folder, memory_gb=0.0, cache_dir=str(cache)))
        assert isinstance(in_file.images, np.memmap)
        np.testing.assert_array_equal(in_file.images, in_memory.images)
        np.testing.assert_array_equal(in_file.labels, in_memory.labels)
        assert len(list(cache.iterdir())) == 1
    assert rows(batch_dataset(in_file, 7, 0, 0, False), 1).shape == (7, 16, 16, 3)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("meta.json", b""), ("meta.json", b"[]"), ("meta.json", None), ("images.npy", b"\x93NUMPY"), ("labels.npy", b"")],
)
def test_a_damaged_cache_is_made_again(mixed_folder, tmp_path, name, damage):
    kept = folder(mixed_folder, memory_gb=0.0, cache_dir=str(tmp_path / ".cache"))
    before = datasets.load(kept)
    (file,) = (tmp_path / ".cache").glob(f"*/{name}")
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)
    again = datasets.load(kept)
    np.testing.assert_array_equal(again.images, before.images)
    np.testing.assert_array_equal(again.labels, before.labels)
    assert len(list((tmp_path / ".cache").iterdir())) == 1


def test_a_cache_that_is_not_read_for_a_while_is_not_made_again(mixed_folder, tmp_path, monkeypatch):
    kept = folder(mixed_folder, memory_gb=0.0, cache_dir=str(tmp_path / ".cache"))
    datasets.load(kept)
    before = {path: path.stat().st_ino for path in (tmp_path / ".cache").rglob("*")}

    def fails(*_, **__):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="Input/output error"):
        patch.setattr(np, "load", fails)
        datasets.load(kept)
    assert {path: path.stat().st_ino for path in (tmp_path / ".cache").rglob("*")} == before


def test_processes_that_keep_the_same_images_at_once_all_get_them(tmp_path, monkeypatch):
    """Each finds nothing kept, or something damaged, and is done at the same moment as the other."""
    # Threads stand for the processes, and Python 3.11's parser, which reads a header, is not safe for two of them.
    load, one_at_a_time = np.load, threading.Lock()

    def locked(*args, **kwargs):
        with one_at_a_time:
            return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", locked)
    rows = [(np.full((2, 2, 1), i, np.uint8), 0) for i in range(3)]
    failures = []

    def collected(key, together):
        def slowly():
            yield from rows
            together.wait()

        try:
            found = collect(slowly(), 3, (2, 2, 1), ("a",), DataConfig(memory_gb=0.0, cache_dir=str(tmp_path)), key)
            assert np.array_equal(found.images, [image for image, _ in rows])
        except Exception as error:
            failures.append(error)

    for i in range(100):
        if i % 2:
            (tmp_path / str(i)).mkdir()
            (tmp_path / str(i) / "meta.json").touch()
        together = threading.Barrier(2)
        both = [threading.Thread(target=collected, args=(str(i), together)) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert not failures


def test_a_damaged_cache_that_another_process_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "meta.json").touch()
    replace = os.replace

    def refused_then_gone(source, target):
        try:
            replace(source, target)
        except OSError:
            shutil.rmtree(tmp_path / "key")
            raise

    monkeypatch.setattr(os, "replace", refused_then_gone)
    rows = [(np.full((2, 2, 1), i, np.uint8), 0) for i in range(3)]
    data = DataConfig(memory_gb=0.0, cache_dir=str(tmp_path))
    for again in (rows, ()):
        found = collect(again, 3, (2, 2, 1), ("a",), data, "key")
        np.testing.assert_array_equal(found.images, [image for image, _ in rows])
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_cache_with_labels_missing_is_made_again(mixed_folder, tmp_path):
    kept = folder(mixed_folder, memory_gb=0.0, cache_dir=str(tmp_path / ".cache"))
    (count,) = datasets.load(kept).labels.shape
    (file,) = (tmp_path / ".cache").glob("*/labels.npy")
    np.save(file, np.zeros(2, np.int32))
    assert datasets.load(kept).labels.shape == (count,)


def test_a_folder_within_that_cannot_be_read_is_named(mixed_folder, monkeypatch, capsys):
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("cats"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    for name in ("dangling.png", "pipe.png"):
        (mixed_folder / name).unlink()
    assert len(datasets.load(folder(mixed_folder))) == 3
    assert "cats: Permission denied" in capsys.readouterr().err
    with pytest.raises(UserError, match="cats: Permission denied"):
        datasets.load(folder(mixed_folder, on_bad_file="fail"))


@pytest.mark.parametrize("where", ["a_file", "/proc/nope"])
def test_a_cache_that_cannot_be_written_is_one_clear_line(mixed_folder, where):
    cache = mixed_folder / "notes.md" if where == "a_file" else where
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        datasets.load(folder(mixed_folder, memory_gb=0.0, cache_dir=str(cache)))


def test_damaged_exif_data_loses_no_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    start = data.index(b"Exif")
    (tmp_path / "a.jpg").write_bytes(data[: start + 10] + b"\xff" * 16 + data[start + 26 :])
    assert len(datasets.load(folder(tmp_path))) == 1


def test_images_are_cropped_around_their_centre(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert np.all(datasets.load(folder(tmp_path, image_size=(10, 10))).images == 200)


@pytest.mark.parametrize("kind", ["missing", "empty", "no_images"])
def test_a_folder_without_images_is_one_clear_line(tmp_path, kind):
    if kind == "no_images":
        (tmp_path / "a.txt").write_text("x")
    path = tmp_path / "nowhere" if kind == "missing" else tmp_path
    with pytest.raises(UserError, match=str(path)) as error:
        datasets.load(folder(path))
    assert "\n" not in str(error.value)


@pytest.fixture
def tfds_dir(tmp_path):
    """A set of ten 6x6 images in the format of TensorFlow Datasets, prepared without a network."""
    images = np.arange(10 * 36 * 3, dtype=np.int64).reshape(10, 6, 6, 3) % 251
    examples = tf.data.Dataset.from_tensor_slices({"image": images.astype(np.uint8), "label": np.arange(10) % 2})
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_set",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={"train": examples},
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(6, 6, 3)),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
            }
        ),
        disable_shuffling=True,
    )
    return tmp_path, images.astype(np.uint8)


def test_a_prepared_tensorflow_dataset_loads_without_a_network(tfds_dir):
    path, expected = tfds_dir
    images = datasets.load(DataConfig(name="tiny_set", data_dir=str(path)))
    np.testing.assert_array_equal(images.images, expected)
    assert images.labels.tolist() == [0, 1] * 5 and images.label_names == ("even", "odd")
    assert datasets.load(DataConfig(name="tiny_set", data_dir=str(path), image_size=(4, 8))).image_shape == (4, 8, 3)
    with pytest.raises(UserError, match="has the splits train"):
        datasets.load(DataConfig(name="tiny_set", data_dir=str(path), split="test"))


def test_a_download_that_cannot_happen_is_found_out_within_ten_seconds(tmp_path, monkeypatch):
    # A proxy that nobody listens on stands for a machine without a network.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"data\.data_dir") as error:
        datasets.load(DataConfig(name="cifar10", data_dir=str(tmp_path)))
    assert time.perf_counter() - start < 10
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mnist:9.9.9", "mnist:x", "mnist/none", "huggingface:mnist", "Mnist!"])
def test_a_name_that_tfds_does_not_understand_is_one_clear_line(name, tmp_path):
    with pytest.raises(UserError, match=r"data\.name="):
        datasets.load(DataConfig(name=name, data_dir=str(tmp_path)))


def test_an_unknown_set_names_the_closest(tmp_path):
    with pytest.raises(UserError, match="fashion_mnist"):
        datasets.load(DataConfig(name="fasion_mnist", data_dir=str(tmp_path)))


def test_batches_are_the_same_in_graph_and_eager():
    eager = rows(batch_dataset(unlabelled(NUMBERED), 5, 0, 0, False), 1)
    graph = tf.function(lambda: next(iter(batch_dataset(unlabelled(NUMBERED), 5, 0, 0, False)))["image"])
    np.testing.assert_array_equal(eager, graph())
