"""Sets of TensorFlow Datasets at random access: the same batches, and no decoded copy."""

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.support.array_record_set import Shapes
from tests.support.tiny import make_tiny_config
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import array_records, tfds_set
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.errors import UserError
from tf_ddpm.training import loop


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folders of one set in both formats."""
    found = {}
    for name in ("array_record", "tfrecord"):
        found[name] = tmp_path_factory.mktemp(name)
        Shapes(data_dir=found[name], file_format=name).download_and_prepare()
    return found


def shapes(folder, tmp_path, **changes):
    values = {"data_dir": str(folder), "cache_dir": str(tmp_path / "cache"), "image_size": (6, 6)}
    return DataConfig("shapes", **values | changes)


def check_alike(one, other):
    """Whether two sets give the same batches."""
    assert one.label_names == other.label_names == ("round", "square")
    np.testing.assert_array_equal(one.whole(), other.whole())
    for parts in zip(*(batch_dataset(part, 8, 5, 3, True).take(6) for part in (one, other)), strict=True):
        for name in parts[0]:
            np.testing.assert_array_equal(*(part[name] for part in parts))


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["in-memory", "in-a-file"])
@pytest.mark.parametrize("size", [(6, 6), (8, 8)])
def test_array_record_and_decoded_sets_give_the_same_batches(prepared, tmp_path, size, memory_gb):
    random = datasets.load(shapes(prepared["array_record"], tmp_path, image_size=size))
    random.whole()
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()] == ["labels"]  # and no decoded copy
    decoded = datasets.load(shapes(prepared["tfrecord"], tmp_path, image_size=size, memory_gb=memory_gb))
    assert type(decoded.images) is (np.ndarray if memory_gb else np.memmap)
    assert not isinstance(random.images, np.ndarray)
    check_alike(random, decoded)


def test_a_small_set_is_decoded_once_and_then_read_into_memory(prepared, tmp_path, monkeypatch):
    data = shapes(prepared["tfrecord"], tmp_path)
    first, decode = datasets.load(data), tfds_set._decoded

    def never(*_):
        yield pytest.fail("decoded again")

    monkeypatch.setattr(tfds_set, "_decoded", never)
    again = datasets.load(data)
    assert type(again.images) is np.ndarray and again.label_names == first.label_names
    for one, other in ((again.images, first.images), (again.labels, first.labels)):
        np.testing.assert_array_equal(one, other)
    assert again.place == first.place and str(tmp_path / "cache" / "shapes-1.0.0-") in again.place
    monkeypatch.setattr(tfds_set, "_decoded", decode)
    (tmp_path / "file").touch()
    unkept = datasets.load(shapes(prepared["tfrecord"], tmp_path, cache_dir=str(tmp_path / "file")))
    np.testing.assert_array_equal(unkept.images, first.images)
    assert unkept.place is None


def test_the_command_that_a_large_set_is_answered_with_makes_a_copy_of_the_same_batches(
    prepared, tmp_path, monkeypatch, capsys
):
    source = shutil.copytree(prepared["tfrecord"], tmp_path / "a folder")
    monkeypatch.setattr("tf_ddpm.datasets.tfds_set._LARGE", 1e-6)
    decoded = datasets.load(shapes(source, tmp_path))
    (words,) = re.findall(r"python -m tf_ddpm .*", capsys.readouterr().err)
    _, *command = shlex.split(words)
    subprocess.run([sys.executable, *command], check=True)
    check_alike(datasets.load(shapes(source / "array_record", tmp_path)), decoded)
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match="is there already; train on it with"):
        datasets.copy_as_array_record(shapes(source, tmp_path), source / "array_record")


def test_a_copy_that_fails_leaves_nothing(prepared, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tf_ddpm.datasets.array_records._copy_records", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left"):
        datasets.copy_as_array_record(shapes(prepared["tfrecord"], tmp_path), tmp_path / "copy")
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    with pytest.raises(UserError, match=r"shapes is not in .*; nothing to copy"):
        datasets.copy_as_array_record(shapes(tmp_path / "none", tmp_path), tmp_path / "copy")


def test_a_large_set_that_is_not_there_yet_is_prepared_at_random_access(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tf_ddpm.datasets.tfds_set._size_gb", lambda *_: 21.0)
    images = datasets.load(shapes(tmp_path / "new", tmp_path))
    assert "prepared in ArrayRecord files: decoded it takes 21 GB" in capsys.readouterr().err
    assert len(images) == 20 and list((tmp_path / "new").rglob("*.array_record-*"))


def test_labels_that_do_not_fit_are_told_before_anything_is_decoded(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("tf_ddpm.datasets.tfds_set._decoded", None)
    for folder in prepared.values():
        data = DataConfig("shapes", data_dir=str(folder), cache_dir=str(tmp_path), image_size=(6, 6))
        with pytest.raises(UserError, match=r"model\.classes=3: expected model\.classes=2 \(round, square\)"):
            datasets.load(data, classes=3)


def test_a_digest_is_of_the_encoded_pictures(prepared, tmp_path):
    digest = lambda size: datasets.load(  # noqa: E731
        DataConfig("shapes", data_dir=str(prepared["array_record"]), cache_dir=str(tmp_path), image_size=(size, size))
    ).images.digest()
    assert digest(6) == digest(6) != digest(5)


def test_labels_are_read_once(prepared, tmp_path, monkeypatch):
    data = DataConfig("shapes", data_dir=str(prepared["array_record"]), cache_dir=str(tmp_path))
    first = datasets.load(data)
    monkeypatch.setattr("tf_ddpm.datasets.array_records.Progress", None)
    np.testing.assert_array_equal(datasets.load(data).labels, first.labels)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    with pytest.raises(TypeError):  # read again, with the bar that is missing here
        datasets.load(data)


def test_a_reading_of_labels_that_was_killed_goes_on(prepared, tmp_path, monkeypatch):
    once, read = array_records.once, []

    def killed(path, compute):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(path.name)
        return once(path, compute)

    monkeypatch.setattr(array_records, "_PART", 6)
    monkeypatch.setattr(array_records, "_TOGETHER", 4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(array_records, "once", killed)
        datasets.load(shapes(prepared["array_record"], tmp_path))
    seen, getitems = (
        [],
        type(array_records._encoded(tfds.builder("shapes", data_dir=prepared["array_record"]), "train")),
    )
    whole = getitems.__getitems__
    monkeypatch.setattr(getitems, "__getitems__", lambda self, rows: seen.extend(rows) or whole(self, rows))
    labels = datasets.load(shapes(prepared["array_record"], tmp_path)).labels
    assert sorted(seen) == list(range(12, 20))
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.suffix == ".npy"
    np.testing.assert_array_equal(labels, datasets.load(shapes(prepared["tfrecord"], tmp_path)).labels)


@pytest.mark.parametrize("name", ["array_record", "tfrecord"])
def test_a_set_that_was_built_anew_is_not_taken_for_what_was_kept_of_it(tmp_path, monkeypatch, name):
    def built(change):
        made = Shapes._generate_examples
        with monkeypatch.context() as patch:
            patch.setattr(
                Shapes,
                "_generate_examples",
                lambda self: (
                    (i, {"image": change(row["image"]), "label": row["label"]}) for i, row in rows(made(self))
                ),
            )
            Shapes(data_dir=tmp_path / "set", file_format=name).download_and_prepare()
        return datasets.load(shapes(tmp_path / "set", tmp_path, memory_gb=0.0)).whole()

    rows = lambda examples: list(examples)[:8]  # noqa: E731 (arrays, and no files)
    first = built(lambda image: image)
    shutil.rmtree(tmp_path / "set")
    np.testing.assert_array_equal(np.sort(built(lambda image: 255 - image), axis=0), np.sort(255 - first, axis=0))


def test_images_that_do_not_suit_are_told_before_anything_is_decoded(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("tf_ddpm.datasets.tfds_set._decoded", None)
    config = make_tiny_config(**{"model.multipliers": (1, 1, 1, 1, 1)})
    for folder in prepared.values():
        data = shapes(folder, tmp_path, image_size=None)
        with pytest.raises(UserError, match=r"data\.image_size=8,8: 5 levels need sides divisible by 16"):
            loop.run(dataclasses.replace(config, data=data), tmp_path / "run")
