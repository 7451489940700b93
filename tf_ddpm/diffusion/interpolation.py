"""What lies between two noises."""

from __future__ import annotations

import tensorflow as tf


def great_circle(a: tf.Tensor, b: tf.Tensor, mix: tf.Tensor) -> tf.Tensor:
    """The point between `a` and `b` [B, ...] at `mix` float32 [B] of the arc from each row to the other (slerp).

    Shoemake 1985. 0 is `a` and 1 is `b`, bit for bit. Rows of the same direction, or of opposite ones, are joined by a
    straight line. The sums are float64: float32 loses the angle between near rows.
    """
    axes = list(range(1, a.shape.rank))
    dot = lambda x, y: tf.reduce_sum(tf.cast(x, tf.float64) * tf.cast(y, tf.float64), axes, keepdims=True)  # noqa: E731
    cosine = dot(a, b) / tf.maximum(tf.sqrt(dot(a, a) * dot(b, b)), 1e-300)
    angle, share = tf.acos(tf.clip_by_value(cosine, -1.0, 1.0)), tf.reshape(tf.cast(mix, tf.float64), tf.shape(cosine))
    sine = tf.sin(angle)
    straight = sine < 1e-6
    sine = tf.where(straight, tf.ones_like(sine), sine)
    of_a = tf.where(straight, 1.0 - share, tf.sin((1.0 - share) * angle) / sine)
    of_b = tf.where(straight, share, tf.sin(share * angle) / sine)
    return tf.cast(of_a, a.dtype) * a + tf.cast(of_b, a.dtype) * b
