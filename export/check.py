"""Is an export fit to serve?  python -m export.check runs/digits/serving/ddpm

Reloads the newest version in this process, which knows TensorFlow alone, replays every warm-up record, asks each
signature for rows alone and together, and prints a table. Exit code 1 where a row depends on its neighbours, or a
request that is legal fails.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def newest_version(export_dir: str) -> Path:
    """The version that TF Serving would serve."""
    folder = Path(export_dir)
    versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    if not versions:
        raise SystemExit(f"error: {export_dir} holds no version; export one with: python main.py --mode=export")
    return folder / str(max(versions))


def warmup_requests(version: Path) -> list[tuple[str, dict]]:
    """(signature, inputs) of every warm-up record."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    found = []
    for record in tf.data.TFRecordDataset(str(version / "assets.extra" / "tf_serving_warmup_requests")):
        log = prediction_log_pb2.PredictionLog()
        log.ParseFromString(record.numpy())
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        found.append((request.model_spec.signature_name, inputs))
    return found


def most_rows(version: Path) -> int:
    """The most rows of a request."""
    info = json.loads((version / "assets.extra" / "model_info.json").read_text(encoding="utf-8"))
    return info["limits"]["max_batch"]


def distance(answer: dict, rows: list[int], alone: dict) -> float:
    """How far the `rows` of an answer are from the one row `alone`, in grey levels, or of the largest value."""
    import numpy as np

    worst = 0.0
    for name, value in answer.items():
        for row in rows:
            if value.dtype.kind in "SO":
                worst = max(worst, 0.0 if len(value[row]) > 8 else 256.0)
                continue
            a, b = value[row].astype(np.float64), alone[name][0].astype(np.float64)
            scale = 1.0 if value.dtype.kind in "iu" else 1e-3 * max(np.abs(b).max(), 1e-6)
            worst = max(worst, float(np.abs(a - b).max() / scale))
    return worst


def main(argv: list[str]) -> int:
    """Prints the table; 1 if a signature fails."""
    if len(argv) != 2:
        raise SystemExit("usage: python -m export.check EXPORT_DIR")
    for name in ("tf_ddpm", "keras"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    version = newest_version(argv[1])
    import numpy as np
    import tensorflow as tf

    signatures = tf.saved_model.load(str(version)).signatures

    def ask(name: str, inputs: dict) -> tuple[dict, float]:
        tensors, began = {key: tf.constant(value) for key, value in inputs.items()}, time.perf_counter()
        answer = {key: value.numpy() for key, value in signatures[name](**tensors).items()}
        return answer, time.perf_counter() - began

    print(f"{version}\n{'signature':16s} {'rows':>5s} {'ms':>8s}  rows alone and together", flush=True)
    failed = 0
    for name, inputs in warmup_requests(version):
        rows = len(next(iter(inputs.values())))
        ask(name, inputs)  # the first call is slower
        answer, seconds = ask(name, inputs)
        one = {key: value[:1] for key, value in inputs.items()}
        alone, _ = ask(name, one)
        copies = min(3, most_rows(version))
        together = answer
        if rows == 1:
            together, _ = ask(name, {key: np.repeat(value, copies, axis=0) for key, value in one.items()})
        apart = distance(together, [0] if rows > 1 else list(range(copies)), alone)
        failed += apart > 1.0
        print(f"{name:16s} {rows:5d} {1000 * seconds:8.1f}  {'equal' if apart <= 1.0 else 'DIFFER'}", flush=True)
    print("failed" if failed else "fit to serve")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
