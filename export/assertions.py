"""Assertions inside the graph, whose words a caller is answered."""

from __future__ import annotations

import tensorflow as tf


def require(condition: tf.Tensor, message: str, *values: object) -> tf.Operation:
    """Fails with `message` and the `values` where the `condition` is not true; TF Serving answers INVALID_ARGUMENT."""
    # (`tf.debugging.Assert` puts a condition around it, which costs more than all that is checked.)
    return tf.raw_ops.Assert(condition=condition, data=[message, *values], summarize=8)
