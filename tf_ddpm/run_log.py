"""What a training run tells: a progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm


class RunLog:
    """Opened at `step`; lines of metrics.jsonl beyond it (of updates that were lost) are dropped.

    Args:
      total: the step at which the bar is full.
    """

    def __init__(self, run_dir: Path, step: int, total: int):
        self._path = run_dir / "metrics.jsonl"
        _drop_after(self._path, step)
        self._writer = tf.summary.create_file_writer(str(run_dir / "logs"))
        self._bar = tqdm(initial=step, total=total, unit="step", dynamic_ncols=True, disable=None)
        self._total, self._step, self._time = total, step, time.perf_counter()

    def update(self, step: int) -> None:
        """Moves the bar."""
        self._bar.update(step - self._bar.n)

    def scalars(self, step: int, batch_size: int, values: dict[str, float]) -> None:
        """Writes `values` and the images/s since the last call, everywhere."""
        now = time.perf_counter()
        rate = (step - self._step) * batch_size / (now - self._time)
        left = (self._total - step) * batch_size / rate
        self._step, self._time = step, now
        values = {**values, "images_per_second": round(rate, 2)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        with self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        shown = {"loss": f"{values['loss']:.4f}", "images/s": f"{rate:.0f}"}
        if self._bar.disable:  # not a terminal: a line each
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {step}/{self._total}  {text}  {left / 60:.1f} min left", flush=True)
        else:
            self._bar.set_postfix(shown, refresh=False)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows uint8 [H, W, C] in TensorBoard."""
        with self._writer.as_default(step):
            tf.summary.image(name, image[None])

    def pause(self) -> None:
        """Time until `resume` (a checkpoint, a preview) does not count as training."""
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Ends `pause`."""
        self._time += time.perf_counter() - self._paused

    def close(self) -> None:
        """Flushes everything."""
        self._bar.close()
        self._writer.close()
        sys.stderr.flush()


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short when the run was killed
    path.write_text("".join(kept), encoding="utf-8")
