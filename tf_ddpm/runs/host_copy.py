"""A checkpoint's variables, copied into the host's memory, so that they can be written while training goes on."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def host_copy(checkpoint: tf.train.Checkpoint) -> tf.train.Checkpoint:
    """A checkpoint of the same names, shapes and values, which no later update changes.

    On a CPU the memory is shared until a variable changes, and copied then.
    """
    return _copy(checkpoint, tf.train.TrackableView(checkpoint), {})


def _copy(node: Any, view: tf.train.TrackableView, copies: dict[int, Any]) -> Any:
    """The copy of a node and of all below it, each made once.

    (A function within another would hold itself, and the copies with it, until the next collection of garbage.)
    """
    if id(node) not in copies:
        if isinstance(node, tf.Variable | keras.Variable):
            with tf.device("CPU:0"):
                copies[id(node)] = tf.Variable(tf.identity(node), trainable=False)
        else:
            copies[id(node)] = tf.train.Checkpoint()
            for name, child in view.children(node).items():
                setattr(copies[id(node)], name, _copy(child, view, copies))
    return copies[id(node)]
