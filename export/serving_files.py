"""The files that an operator needs beside the model: configurations, warm-up requests, and what the model is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export.limits import Limits
from export.plans import Plan
from export.signatures import ServingModule
from tf_ddpm import config as config_lib
from tf_ddpm.sampling import Run

MODEL_NAME = "ddpm"
_LONGEST_WARMUP = 100  # steps: loading a version waits for its warm-up

_MODELS = """model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
}}
"""
_MONITORING = """prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""
_COMPOSE = """# docker compose up: REST on 8501, gRPC on 8500, metrics on 8501/monitoring/prometheus/metrics
services:
  {name}:
    image: tensorflow/serving
    ports: ["8501:8501", "8500:8500"]
    volumes: [".:/models/{name}:ro"]
    environment:
      MODEL_NAME: {name}
    command:
      - --model_config_file=/models/{name}/models.config
      - --enable_batching=true
      - --batching_parameters_file=/models/{name}/batching.config
      - --monitoring_config_file=/models/{name}/monitoring.config
      - --rest_api_timeout_in_ms=600000
      - --enable_model_warmup=true
"""


def allowed_batch_sizes(max_batch: int) -> list[int]:
    """Powers of two up to `max_batch`, and `max_batch` itself."""
    sizes = [2**n for n in range(max_batch.bit_length()) if 2**n < max_batch]
    return [*sizes, max_batch]


def bundle(max_batch: int) -> dict[str, str]:
    """Name -> text of the files beside the versions."""
    sizes = "\n".join(f"allowed_batch_sizes: {size}" for size in allowed_batch_sizes(max_batch))
    batching = (
        f"max_batch_size {{ value: {max_batch} }}\n"
        "batch_timeout_micros { value: 5000 }\n"
        "max_enqueued_batches { value: 1000 }\n"
        f"num_batch_threads {{ value: 2 }}\n{sizes}\n"
    )
    return {
        "models.config": _MODELS.format(name=MODEL_NAME),
        "batching.config": batching,
        "monitoring.config": _MONITORING,
        "docker-compose.yml": _COMPOSE.format(name=MODEL_NAME),
    }


def example(limits: Limits, names: list[str], rows: int) -> dict[str, np.ndarray]:
    """A legal request of so many rows, the same each time."""
    inputs = {}
    for name in names:
        spec = limits.specs()[name]
        shape = [rows, *spec.shape.as_list()[1:]]
        rng = np.random.default_rng([rows, len(name)])
        if name == "guidance":
            value = np.full(shape, 1.5)
        elif name == "mask":
            value = np.full(shape, 255) * (np.arange(shape[2]) < shape[2] // 2)[:, None]
        elif name == "image":
            value = rng.integers(0, 256, shape)
        elif spec.dtype.is_floating:
            value = rng.normal(size=shape)
        else:
            value = np.arange(rows) % {"label": limits.classes, "t": limits.timesteps}.get(name, 2**31)
        inputs[name] = value.astype(spec.dtype.as_numpy_dtype)
    return inputs


def warmup_sizes(module: ServingModule, plans: tuple[Plan, ...], max_batch: int) -> dict[str, list[int]]:
    """The batch sizes that each signature is warmed up with: all for the usual ones, one row for the others."""
    sizes, first, every = {}, plans[0], allowed_batch_sizes(max_batch)
    for name in module.endpoints:
        steps = module.steps[name]
        if steps <= _LONGEST_WARMUP:
            sizes[name] = every if name in ("serving_default", "denoise") else [1]
    if first.name in sizes:
        del sizes[first.name]  # the same function as serving_default
    return sizes


def write_warmup(path: Path, module: ServingModule, plans: tuple[Plan, ...], max_batch: int) -> None:
    """Writes `tf_serving_warmup_requests`: a TFRecord of PredictionLog."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, sizes in warmup_sizes(module, plans, max_batch).items():
            for rows in sizes:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = MODEL_NAME
                request.model_spec.signature_name = name
                for key, value in example(module.limits, module.inputs[name], rows).items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictLog(request=request)
                writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def model_info(run: Run, module: ServingModule, plans: tuple[Plan, ...]) -> dict:
    """What `model_info.json` says."""
    limits = module.limits
    return {
        "model_name": MODEL_NAME,
        "signatures": {name: module.inputs[name] for name in sorted(module.endpoints)},
        "default_plan": plans[0].name,
        "plans": {plan.name: plan.facts for plan in plans},
        "image_shape": list(limits.image_shape),
        "labels": limits.classes,
        "limits": {
            "max_batch": limits.max_batch,
            "label": [-1 if limits.null_class else 0, limits.classes - 1] if limits.classes else None,
            "t": [0, limits.timesteps - 1],
        },
        "precision": run.config.sample.precision,
        "checkpoint_step": run.checkpoint_step,
        "parameters": run.network.count_params(),
        "git_commit": _git_commit(),
        "config": json.loads(config_lib.to_json(config_lib.portable(run.config))),
    }


def _git_commit() -> str | None:
    """The commit of this program, where it is a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
