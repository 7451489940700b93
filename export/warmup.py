"""Warm-up: requests that the server replays before it takes others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export.bundle import MODEL_NAME
from export.endpoints import Endpoints
from export.joining import FREE, allowed_batch_sizes
from export.limits import Limits

_EVERY_SIZE = ("serving_default", "denoise")
_BUDGET = 60.0  # seconds that the warm-up may take: until it is done a new version answers nothing


def example(limits: Limits, names: list[str], rows: int) -> dict[str, np.ndarray]:
    """A legal request of so many rows, the same each time."""
    inputs = {}
    for name in names:
        spec = limits.specs()[name]
        height, width, _ = limits.image_shape
        factor = limits.enlarging.factor if limits.enlarging else 1
        known = [height // factor, width // factor]  # of images of any size
        shape = [rows, *(side or known[i] for i, side in enumerate(spec.shape.as_list()[1:]))]
        rng = np.random.default_rng([rows, len(name)])
        if name == "guidance":
            value = np.full(shape, 1.5)
        elif name == "mask":
            value = np.full(shape, 255) * (np.arange(shape[2]) < shape[2] // 2)[:, None]
        elif name == "image":
            value = rng.integers(0, 256, shape)
        elif name in ("mix", "strength"):
            value = np.linspace(1.0, 0.0, rows)
        elif name == "augmentation":
            value = np.zeros(shape)
        elif name == "encoded":
            inputs[name] = np.array([_picture(rng, known) for _ in range(rows)], object)
            continue
        elif spec.dtype.is_floating:
            value = rng.normal(size=shape)
        else:
            value = np.arange(rows) % {"label": limits.classes, "t": limits.timesteps}.get(name, 2**31)
        inputs[name] = value.astype(spec.dtype.as_numpy_dtype)
    return inputs


def _picture(rng: np.random.Generator, size: list[int]) -> bytes:
    return tf.io.encode_png(rng.integers(0, 256, (*size, 3), np.uint8)).numpy()


def sizes(module: Endpoints, seconds: float, budget: float = _BUDGET) -> dict[str, list[int]]:
    """Signature -> the batch sizes that it is warmed up with, within the budget.

    Every signature is asked for one row, since the server optimises a graph for each; the usual ones for every size,
    since the CPU library compiles for each.

    Args:
      seconds: of a call of the network for one row. budget: seconds for all requests.
    """
    chosen: dict[str, list[int]] = {}
    wanted = [(module.calls[name], 1, name) for name in module.endpoints if name != module.default]
    rows = allowed_batch_sizes(module.limits.max_batch)[1:]
    every_size = [name for name in _EVERY_SIZE if name in module.calls and module.lanes[name] != FREE]
    wanted += [(module.calls[name] * size, size, name) for name in every_size for size in rows]
    for cost, size, name in sorted(wanted):
        if size > 1 and name not in chosen:
            continue
        budget -= cost * seconds
        if budget < 0:
            break
        chosen.setdefault(name, []).append(size)
    return chosen


def write(path: Path, module: Endpoints, chosen: dict[str, list[int]]) -> None:
    """Writes `tf_serving_warmup_requests`, a TFRecord of PredictionLog, with requests of the `chosen` sizes."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, rows in ((name, rows) for name, found in chosen.items() for rows in found):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = MODEL_NAME
            request.model_spec.signature_name = name
            for key, value in example(module.limits, module.inputs[name], rows).items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
