"""Numbers as functions of their address."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm import randomness


def address(seed=0, step=0, first_row=0):
    return randomness.row_address(seed, tf.constant(step, tf.int64), tf.constant(first_row, tf.int64))


@pytest.mark.parametrize("row_shape", [[4, 4, 3], [5, 5, 1], [1], [2, 3]])
@pytest.mark.parametrize("draw", [randomness.row_normal, randomness.row_bits])
def test_a_replica_draws_exactly_its_rows_of_the_global_batch(draw, row_shape):
    whole = draw(address(), 3, 12, row_shape).numpy()
    parts = [draw(address(first_row=first), 3, 4, row_shape).numpy() for first in (0, 4, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_every_part_of_the_address_matters():
    base = randomness.row_normal(address(), 1, 2, [64]).numpy()
    others = [
        randomness.row_normal(address(seed=1), 1, 2, [64]).numpy(),
        randomness.row_normal(address(step=1), 1, 2, [64]).numpy(),
        randomness.row_normal(address(first_row=2), 1, 2, [64]).numpy(),
        randomness.row_normal(address(), 2, 2, [64]).numpy(),
    ]
    for other in others:
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.4
        assert not np.any(base == other)


def test_normals_are_standard_normal():
    draw = randomness.row_normal(address(seed=3), 0, 1000, [101]).numpy()
    assert abs(draw.mean()) < 0.01 and abs(draw.std() - 1) < 0.01
    assert abs(np.mean(draw**4) - 3) < 0.1


def test_integers_are_uniform_and_below_the_limit():
    drawn = randomness.row_integers(address(), 0, 100_000, 10).numpy()
    counts = np.bincount(drawn, minlength=10)
    assert drawn.min() == 0 and drawn.max() == 9
    assert np.all(np.abs(counts - 10_000) < 500)
    assert randomness.row_integers(address(), 0, 1000, 1).numpy().max() == 0


def test_noise_of_an_image_depends_on_its_seed_and_count_alone():
    alone = randomness.image_normal(tf.constant([7], tf.int64), 2, [3, 3, 1]).numpy()
    among = randomness.image_normal(tf.constant([1, 7, -7, 2**40], tf.int64), 2, [3, 3, 1]).numpy()
    np.testing.assert_array_equal(alone[0], among[1])
    assert len(np.unique(among[:, 0, 0, 0])) == 4
    assert not np.any(randomness.image_normal(tf.constant([7], tf.int64), 3, [3, 3, 1]).numpy() == alone)
