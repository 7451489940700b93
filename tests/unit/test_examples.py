"""The small programs beside the package."""

import numpy as np
import tensorflow as tf

from examples import swiss_roll
from tf_ddpm.diffusion import bounds


def test_the_swiss_rolls_bound_falls_and_points_come_back():
    chain = swiss_roll.chain()
    denoiser, losses = swiss_roll.train(chain, 300, 0)
    assert losses[-1] < losses[0] - 0.2 and np.all(np.isfinite(losses))
    path = swiss_roll.reverse(chain, denoiser, 500, 0)
    assert len(path) == swiss_roll.STEPS + 1
    data = swiss_roll.swiss_roll(500, 1)
    assert 0.9 < path[0].std() < 1.1
    np.testing.assert_allclose(path[-1].std(axis=0), data.std(axis=0), rtol=0.3)
    assert bounds.prior_term(chain, tf.constant(data)).numpy().max() < 1e-3  # the chain does end in noise
