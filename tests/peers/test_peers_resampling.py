"""Images made smaller and larger as PyTorch does it."""

import numpy as np
import pytest
import tensorflow as tf
import torch
from torch.nn import functional

from tf_ddpm.codecs import resampling

SHAPES = [(8, 8), (4, 12), (20, 16)]


def torch_of(image):
    return torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


def numpy_of(tensor):
    return tensor.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_enlarging_is_pytorchs_bilinear_interpolation_without_aligned_corners(shape, factor):
    image = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    impulse = np.zeros_like(image)
    impulse[:, 1, 2] = 1.0
    for x in (image, impulse):
        theirs = functional.interpolate(torch_of(x), scale_factor=factor, mode="bilinear", align_corners=False)
        np.testing.assert_allclose(resampling.enlarged(tf.constant(x), factor), numpy_of(theirs), atol=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_making_smaller_is_pytorchs_area_interpolation(shape, factor):
    image = np.random.default_rng(1).normal(size=(2, *shape, 3)).astype(np.float32)
    theirs = functional.interpolate(torch_of(image), scale_factor=1 / factor, mode="area")
    np.testing.assert_allclose(resampling.area_mean(tf.constant(image), factor), numpy_of(theirs), atol=1e-6)
