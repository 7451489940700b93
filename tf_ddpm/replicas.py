"""A batch shared out over the devices of a strategy, and its results put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf


def over_replicas(strategy: tf.distribute.Strategy, function: Callable[..., tf.Tensor]) -> Callable[..., np.ndarray]:
    """`function` of arrays [B, ...] that gives [B, ...], each device at work on a part of the rows.

    Rows must not depend on each other. The last row is repeated where the devices do not divide B.
    """
    count = strategy.num_replicas_in_sync
    spread = tf.function(lambda *parts: strategy.run(function, parts), autograph=False, reduce_retracing=True)

    def call(*arrays: np.ndarray) -> np.ndarray:
        rows = len(arrays[0])
        each = -(-rows // count)
        order = np.minimum(np.arange(each * count), rows - 1).reshape(count, each)

        def of_replica(array: np.ndarray) -> Callable:
            return lambda context: tf.constant(array[order[context.replica_id_in_sync_group]])

        parts = [strategy.experimental_distribute_values_from_function(of_replica(array)) for array in arrays]
        return _together(strategy.experimental_local_results(spread(*parts)))[:rows]

    return call


def _together(results: Sequence[tf.Tensor]) -> np.ndarray:
    return np.concatenate([result.numpy() for result in results])
