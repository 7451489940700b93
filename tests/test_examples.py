"""The small programs beside the package."""

import numpy as np
import tensorflow as tf

from examples import swiss_roll


def test_the_swiss_rolls_bound_falls_and_points_come_back():
    process = swiss_roll.chain()
    denoiser, bounds = swiss_roll.train(process, 300, 0)
    assert bounds[-1] < bounds[0] - 0.2 and np.all(np.isfinite(bounds))
    path = swiss_roll.reverse(process, denoiser, 500, 0)
    assert len(path) == swiss_roll.STEPS + 1
    data = swiss_roll.swiss_roll(500, 1)
    assert 0.9 < path[0].std() < 1.1
    np.testing.assert_allclose(path[-1].std(axis=0), data.std(axis=0), rtol=0.3)
    assert bounds.prior_term(process, tf.constant(data)).numpy().max() < 1e-3  # the chain does end in noise
