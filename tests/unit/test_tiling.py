"""Images too large for a network at once are seen in tiles, and nobody sees the tiles."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm.networks.tiling import Tiled


class Near:
    """A network whose output at a pixel depends on a few pixels around it; it counts the pixels that it sees."""

    conditions, image_conditions, out_channels = (), (), 2

    def __init__(self):
        self.kernel = tf.random.stateless_normal([3, 3, 1, 2], [0, 1])
        self.seen = []

    def forward(self, x, modulation, address=None):
        self.seen.append(x.shape[1:3])
        return tf.nn.conv2d(x, self.kernel, 1, "SAME") + modulation[:, None, None]


def image(height, width, rows=2):
    return tf.random.stateless_normal([rows, height, width, 1], [2, 3]), tf.constant([[0.5, -1.0]] * rows)


def graph(tiled):
    specs = [tf.TensorSpec([None, None, None, 1]), tf.TensorSpec([None, 2])]
    return tf.function(tiled.forward, input_signature=specs)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 40), (17 * 4, 20), (100, 36), (8, 64)])
def test_tiles_are_the_whole_where_the_network_sees_no_farther_than_they_overlap(height, width):
    network = Near()
    x, modulation = image(height, width)
    whole = network.forward(x, modulation)
    blended = graph(Tiled(network, 16, 8, 4))(x, modulation)
    # At a tile's own edge the network lacks a pixel; there the tile weighs 1/16 of its middle.
    inside = np.abs(blended - whole).max()
    assert inside < 0.35 * np.abs(whole).max()
    np.testing.assert_allclose(np.median(np.abs(blended - whole)), 0.0, atol=1e-6)


def test_an_image_that_fits_is_seen_whole_and_a_larger_one_never_more_than_a_tile_at_once():
    network = Near()
    x, modulation = image(16, 12)
    np.testing.assert_allclose(
        graph(Tiled(network, 16, 8, 4))(x, modulation), network.forward(x, modulation), atol=1e-6
    )
    sizes = []
    tiled = Tiled(network, 16, 8, 4)
    for size in range(4, 200, 4):
        starts, length = tiled._starts(tf.constant(size))
        ends = starts.numpy() + int(length)
        assert starts[0] == 0 and ends[-1] == size and not (starts.numpy() % 4).any()
        assert all(before - after >= 4 for before, after in zip(ends[:-1], starts.numpy()[1:], strict=True))
        sizes.append(int(length))
    assert max(sizes) == 16


def test_a_constant_output_has_no_seams():
    class Constant(Near):
        def forward(self, x, modulation, address=None):
            return tf.ones_like(x) * modulation[:, None, None]

    x, modulation = image(60, 44)
    blended = graph(Tiled(Constant(), 16, 8, 4))(x, modulation)
    np.testing.assert_allclose(blended, np.broadcast_to([0.5, -1.0], blended.shape), rtol=1e-6)


def test_a_row_is_the_same_alone_and_among_others():
    x, modulation = image(40, 28, rows=3)
    tiled = graph(Tiled(Near(), 16, 4, 4))
    np.testing.assert_allclose(tiled(x, modulation)[1:2], tiled(x[1:2], modulation[1:2]), atol=1e-6)


def test_tiles_that_do_not_fit_are_refused():
    for side, overlap in ((18, 8), (16, 2), (16, 12)):
        with pytest.raises(ValueError, match="expected multiples of 4"):
            Tiled(Near(), side, overlap, 4)
