"""Of parts a whole: a gradient that is computed in parts, to save memory, and what all replicas have seen."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_ddpm.config import TrainConfig
from tf_ddpm.errors import UserError


def in_parts(
    of_rows: Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]], parts: int, rows: tuple, address: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`of_rows` of all rows, so many at a time: sums of its gradients and losses, and the losses side by side."""
    if parts == 1:
        return of_rows(*rows, address)
    each = tf.shape(rows[0])[0] // parts

    def of_part(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        first = i * each
        moved = address + tf.stack([0, 0, tf.cast(first, tf.int64)])
        return of_rows(*tf.nest.map_structure(lambda part: part[first : first + each], rows), moved)

    def body(i: tf.Tensor, gradient: tf.Tensor, loss: tf.Tensor, losses: tf.TensorArray) -> tuple:
        more = of_part(i)
        return i + 1, gradient + more[0], loss + more[1], losses.write(i, more[2])

    first = of_part(tf.constant(0))
    losses = tf.TensorArray(first[2].dtype, size=parts, element_shape=first[2].shape).write(0, first[2])
    _, gradient, loss, losses = tf.while_loop(
        lambda i, *_: i < parts, body, (1, first[0], first[1], losses), parallel_iterations=1
    )
    return gradient, loss, losses.concat()


def of_all_replicas(own: tf.Tensor, address: tf.Tensor, batch_size: int) -> tf.Tensor:
    """The numbers of a replica's rows, [..., rows], among those of all rows of the global batch, [..., batch_size].

    Args:
      address: of its first row.
    """
    first, rows = tf.cast(address[2], tf.int32), tf.shape(own)[-1]
    paddings = [[0, 0]] * (own.shape.rank - 1) + [[first, batch_size - first - rows]]
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.pad(own, paddings))


def check_shares(train: TrainConfig, replicas: int) -> None:
    """Whether a batch can be shared out over so many devices, each in its parts.

    Raises:
      UserError: with a batch size that can.
    """
    shares = replicas * train.accumulate
    if train.batch_size % shares:
        parts = f", each in {train.accumulate} parts (train.accumulate)" if train.accumulate > 1 else ""
        raise UserError(
            f"train.batch_size={train.batch_size} cannot be shared equally by {replicas} devices{parts}; "
            f"train.batch_size={-(-train.batch_size // shares) * shares} can"
        )
