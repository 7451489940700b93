"""A batch shared out over the devices of a strategy, and its results put together again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def over_replicas(strategy: tf.distribute.Strategy, function: Callable) -> Callable:
    """`function` of arrays [B, ...] that gives [B, ...], or a structure of such, each device at work on some rows.

    Rows must not depend on each other. The last row is repeated where the devices do not divide B. Where several
    processes work together, all call it with the same arrays, and each gets all the rows.
    """
    count = strategy.num_replicas_in_sync
    on_replica = lambda *parts: function(*parts)  # noqa: E731 - a tf.function would be given the parts of all at once
    spread = tf.function(lambda *parts: strategy.run(on_replica, parts), autograph=False, reduce_retracing=True)

    def call(*arrays: np.ndarray) -> np.ndarray:
        rows = len(arrays[0])
        each = -(-rows // count)
        order = np.minimum(np.arange(each * count), rows - 1).reshape(count, each)

        def of_replica(array: np.ndarray) -> Callable:
            return lambda context: tf.constant(array[order[context.replica_id_in_sync_group]])

        parts = [strategy.experimental_distribute_values_from_function(of_replica(array)) for array in arrays]
        return tf.nest.map_structure(lambda part: _together(strategy, part)[:rows], spread(*parts))

    return call


def _together(strategy: tf.distribute.Strategy, results: tf.distribute.DistributedValues) -> np.ndarray:
    parts = strategy.experimental_local_results(results)
    if len(parts) == strategy.num_replicas_in_sync:
        return np.concatenate([part.numpy() for part in parts])
    dtype = parts[0].dtype
    if dtype == tf.uint8:  # which TensorFlow does not send
        results = strategy.run(tf.cast, (results, tf.int32))
    return strategy.gather(results, axis=0).numpy().astype(dtype.as_numpy_dtype)


def of_all(strategy: tf.distribute.Strategy, *numbers: int) -> np.ndarray:
    """The int64 `numbers` [N] of every process, as [processes x devices, N]; a process waits here for all others."""
    mine = strategy.experimental_distribute_values_from_function(lambda _: tf.constant([numbers], tf.int64))
    return strategy.gather(mine, axis=0).numpy()
