"""What a request may hold, checked inside the graph: TF Serving answers 400 (INVALID_ARGUMENT) with these words."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Limits:
    """The legal ranges of every input.

    Args:
      max_batch: rows of a request, or of the requests that the server joins.
      image_shape: (H, W, C). timesteps: T. classes: labels that are known, -1 apart. null_class: whether -1 is one.
    """

    max_batch: int
    image_shape: tuple[int, int, int]
    timesteps: int
    classes: int
    null_class: bool

    def specs(self) -> dict[str, tf.TensorSpec]:
        """Every input that a signature may have, by name."""
        shape = list(self.image_shape)
        specs = {
            "seed": tf.TensorSpec([None], tf.int64),
            "x_t": tf.TensorSpec([None, *shape], tf.float32),
            "t": tf.TensorSpec([None], tf.int32),
            "latent": tf.TensorSpec([None, *shape], tf.float32),
            "image": tf.TensorSpec([None, *shape], tf.uint8),
            "mask": tf.TensorSpec([None, *shape[:2], 1], tf.uint8),
        }
        if self.classes:
            specs["label"] = tf.TensorSpec([None], tf.int32)
        if self.null_class:
            specs["guidance"] = tf.TensorSpec([None], tf.float32)
        return {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}

    def checked(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`inputs`, behind the assertions that they are legal."""
        specs, checks = self.specs(), []
        # The shapes that the caller sent, and not those that the signature promises and the optimiser believes.
        sent = {
            name: tf.raw_ops.PlaceholderWithDefault(input=value, shape=tf.TensorShape([None] * value.shape.rank))
            for name, value in inputs.items()
        }
        rows = tf.shape(next(iter(sent.values())))[0]
        legal = (rows >= 1) & (rows <= self.max_batch)
        checks.append(_require(legal, f"batch: expected 1 to {self.max_batch} rows, got", rows))
        for name, value in sent.items():
            shape = tf.shape(value)
            wanted = specs[name].shape.as_list()
            text = f"{name}: expected the shape [{', '.join(['B', *map(str, wanted[1:])])}], got"
            fits = tf.reduce_all(tf.equal(shape, tf.stack([rows, *wanted[1:]])))
            checks.append(_require(fits, text, shape))
        with tf.control_dependencies(checks):
            sent = {name: tf.identity(value) for name, value in sent.items()}
        checks = [self._value(name, value) for name, value in sent.items()]
        with tf.control_dependencies([check for check in checks if check is not None]):
            return {name: tf.ensure_shape(tf.identity(value), specs[name].shape) for name, value in sent.items()}

    def _value(self, name: str, value: tf.Tensor) -> tf.Operation | None:
        ranges = {
            "label": (-1 if self.null_class else 0, self.classes - 1),
            "t": (0, self.timesteps - 1),
        }
        if name in ranges:
            low, high = ranges[name]
            legal = tf.reduce_all((value >= low) & (value <= high))
            words = " (-1: no class)" if name == "label" and self.null_class else ""
            return _require(legal, f"{name}: expected {low} to {high}{words}, got", value)
        if value.dtype.is_floating:
            finite = tf.reduce_all(tf.math.is_finite(value))
            return _require(finite, f"{name}: expected finite numbers, got", value)
        return None


def _require(condition: tf.Tensor, message: str, value: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(condition, [message, value], summarize=8)
