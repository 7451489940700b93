"""A batch split over the devices of a strategy, and its results gathered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_ddpm.errors import UserError


def over_replicas(strategy: tf.distribute.Strategy, function: Callable) -> Callable:
    """`function` of arrays [B, ...] that gives [B, ...], or a structure of such, each device at work on some rows.

    Rows must not depend on each other. The last row is repeated where the devices do not divide B. Where several
    processes work together, all call it with the same arrays, and each gets all the rows.
    """
    count = strategy.num_replicas_in_sync
    on_replica = lambda *parts: function(*parts)  # noqa: E731 - a tf.function would be given the parts of all at once
    spread = tf.function(lambda *parts: strategy.run(on_replica, parts), autograph=False, reduce_retracing=True)
    widened = tf.function(lambda part: strategy.run(tf.cast, (part, tf.int32)), autograph=False, reduce_retracing=True)

    def together(results: tf.distribute.DistributedValues) -> np.ndarray:
        parts = strategy.experimental_local_results(results)
        if len(parts) == count:
            return np.concatenate([part.numpy() for part in parts])
        dtype = parts[0].dtype
        if dtype == tf.uint8:  # which TensorFlow does not send
            results = widened(results)
        return strategy.gather(results, axis=0).numpy().astype(dtype.as_numpy_dtype)

    def call(*arrays: np.ndarray) -> np.ndarray:
        rows = len(arrays[0])
        each = -(-rows // count)
        order = np.minimum(np.arange(each * count), rows - 1).reshape(count, each)

        def of_replica(array: np.ndarray) -> Callable:
            return lambda context: tf.constant(array[order[context.replica_id_in_sync_group]])

        parts = [strategy.experimental_distribute_values_from_function(of_replica(array)) for array in arrays]
        return tf.nest.map_structure(lambda part: together(part)[:rows], spread(*parts))

    return call


def all_gather(strategy: tf.distribute.Strategy, *numbers: int) -> np.ndarray:
    """The int64 `numbers` [N] of every process, as [processes x devices, N]; a process waits here for all others."""
    mine = strategy.experimental_distribute_values_from_function(lambda _: tf.constant([numbers], tf.int64))
    return strategy.gather(mine, axis=0).numpy()


def all_have(strategy: tf.distribute.Strategy, found: bool) -> bool:
    """Whether every process has `found` something; all ask together."""
    return bool(all_gather(strategy, int(found)).all())


def agree(strategy: tf.distribute.Strategy, **facts: object) -> None:
    """Whether all workers have the same `facts`, each a value whose `repr` says all; all ask together.

    Raises:
      UserError: on each of them, naming a fact that is not the same.
    """
    digests = [hashlib.sha256(repr(fact).encode()).digest()[:8] for fact in facts.values()]
    everyone = all_gather(strategy, *(int.from_bytes(digest, "big", signed=True) for digest in digests))
    for name, column in zip(facts, everyone.T, strict=True):
        if len(set(column.tolist())) > 1:
            raise UserError(f"the workers differ in their {name.replace('_', ' ')} (here {str(facts[name])[:60]})")
