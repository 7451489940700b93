"""A checkpoint's variables, copied into the host's memory, so that they can be written while training goes on."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def host_copy(checkpoint: tf.train.Checkpoint) -> tf.train.Checkpoint:
    """A checkpoint of the same names, shapes and values, which no later update changes.

    On a CPU the memory is shared until a variable changes, and copied then.
    """
    view, copies = tf.train.TrackableView(checkpoint), {}

    def copy(node: Any) -> Any:
        if id(node) not in copies:
            if isinstance(node, tf.Variable | keras.Variable):
                with tf.device("CPU:0"):
                    copies[id(node)] = tf.Variable(tf.identity(node), trainable=False)
            else:
                copies[id(node)] = tf.train.Checkpoint()
                for name, child in view.children(node).items():
                    setattr(copies[id(node)], name, copy(child))
        return copies[id(node)]

    return copy(checkpoint)
