"""Sets of TensorFlow Datasets at random access: the same batches, and no decoded copy."""

import numpy as np
import pytest

from tests.support.array_record_set import Shapes
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folders of one set in both formats."""
    found = {}
    for name in ("array_record", "tfrecord"):
        found[name] = tmp_path_factory.mktemp(name)
        Shapes(data_dir=found[name], file_format=name).download_and_prepare()
    return found


def test_array_record_and_decoded_sets_give_the_same_batches(prepared, tmp_path):
    cache = tmp_path / "cache"
    sets = {
        name: datasets.load(DataConfig("shapes", data_dir=str(folder), cache_dir=str(cache), image_size=(6, 6)))
        for name, folder in prepared.items()
    }
    random, decoded = sets["array_record"], sets["tfrecord"]
    assert isinstance(decoded.images, np.ndarray) and random.label_names == decoded.label_names == ("round", "square")
    # (The order of a set's examples is a matter of its format.)
    where = [int(np.flatnonzero((decoded.whole() == image).all(axis=(1, 2, 3)))[0]) for image in random.whole()]
    assert sorted(where) == list(range(20))
    np.testing.assert_array_equal(random.labels, decoded.labels[where])
    reordered = datasets.ImageSet(decoded.images[where], decoded.labels[where], decoded.label_names)
    for one, other in zip(*(batch_dataset(part, 8, 5, 3, True).take(6) for part in (random, reordered)), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert [path.name.split("-")[0] for path in cache.iterdir()] == ["labels"]  # and no decoded copy


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
    monkeypatch.setattr("tf_ddpm.datasets.tfds_set.Progress", None)
    np.testing.assert_array_equal(datasets.load(data).labels, first.labels)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    with pytest.raises(TypeError):  # read again, with the bar that is missing here
        datasets.load(data)
