"""A network over images too large for it at once: in tiles that overlap, blended at each call."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm.networks.backbone import Backbone, Condition


class Tiled(Backbone):
    """`network` whose `forward` sees images of more than `side` pixels a side in tiles of at most side x side.

    Each pixel is the mean of the tiles that cover it, a tile weighing less towards its edges, so that no seam shows;
    of a sampling loop every step is blended, and neighbours grow into each other. Tiles are as far apart from each
    other as they can be with at least `overlap` pixels in common. An image that fits is one tile: as without this.

    Args:
      side: a multiple of `phase`. overlap: at least `phase`, at most half of the side.
      phase: tiles begin at multiples of it, so that the network's levels, and what enlarges images, see each alike.

    Raises:
      ValueError: for what does not fit.
    """

    def __init__(self, network: Backbone, side: int, overlap: int, phase: int):
        if side % phase or not phase <= overlap <= side // 2:
            raise ValueError(
                f"tiles of {side} with an overlap of {overlap}: expected multiples of {phase}, half of it"
            )
        self._network, self._side, self._overlap, self._phase = network, side, overlap, phase
        self.out_channels = network.out_channels
        self.conditions, self.image_conditions = network.conditions, network.image_conditions

    def embed_time(self, time: tf.Tensor) -> tf.Tensor:
        """See `Backbone`."""
        return self._network.embed_time(time)

    def modulation(self, embedded: tf.Tensor, condition: Condition) -> tf.Tensor:
        """See `Backbone`."""
        return self._network.modulation(embedded, condition)

    def null(self, name: str, like: tf.Tensor) -> tf.Tensor:
        """See `Backbone`."""
        return self._network.null(name, like)

    def forward(self, x: tf.Tensor, modulation: tf.Tensor, address: tf.Tensor | None = None) -> tf.Tensor:
        """See `Backbone`. H and W may be unknown to the graph; they are divisible as the network asks."""
        height, width = tf.unstack(tf.shape(x)[1:3])
        rows, tall = self._starts(height)
        columns, wide = self._starts(width)
        window = _ramp(tall, self._overlap)[:, None, None] * _ramp(wide, self._overlap)[None, :, None]
        across = tf.size(columns)

        def add(k: tf.Tensor, total: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            top, left = rows[k // across], columns[k % across]
            output = self._network.forward(x[:, top : top + tall, left : left + wide], modulation, address)
            beyond = [[top, height - top - tall], [left, width - left - wide], [0, 0]]
            total += tf.pad(output * window, [[0, 0], *beyond])
            return k + 1, tf.ensure_shape(total, shape), weight + tf.pad(window, beyond)

        shape = tf.TensorShape([None, x.shape[1], x.shape[2], self.out_channels])
        start = tf.zeros(tf.stack([tf.shape(x)[0], height, width, self.out_channels]))
        state = (0, tf.ensure_shape(start, shape), tf.zeros(tf.stack([height, width, 1])))
        invariant = (tf.TensorShape([]), shape, tf.TensorShape([None, None, 1]))
        count = tf.size(rows) * across
        _, total, weight = tf.while_loop(lambda k, *_: k < count, add, state, invariant, parallel_iterations=1)
        return tf.ensure_shape(total / weight, shape)

    def _starts(self, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the tiles along a side of `size` pixels begin [n], and how long they are."""
        step = self._side - self._overlap
        count = tf.maximum((size - self._overlap + step - 1) // step, 1)
        last = tf.maximum(size - self._side, 0) // self._phase
        return last * tf.range(count) // tf.maximum(count - 1, 1) * self._phase, tf.minimum(size, self._side)


def _ramp(length: tf.Tensor, overlap: int) -> tf.Tensor:
    """float32 [length]: rises over the first `overlap` pixels to 1, and falls over the last ones."""
    place = tf.cast(tf.range(length), tf.float32) + 0.5
    return tf.minimum(1.0, tf.minimum(place, tf.cast(length, tf.float32) - place) / overlap)
