"""The logs of a training run: a progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.util import event_pb2
from tqdm import tqdm

from tf_ddpm.errors import first_line
from tf_ddpm.runtime import atomic_files
from tf_ddpm.runtime.progress import Progress

# Of the time, for images: more is worth a warning. A GPU still has work while the host, ahead of it, waits for images.
_LONG_WAIT, _LONG_WAIT_OF_GPU = 0.3, 0.8
_MOST_WAITS = 1000  # that are kept before they are read, for which the host must wait


class NullLog:
    """The log of a worker that is not the chief."""

    def update(self, *_: Any, **__: Any) -> None:
        """Does nothing, like all other methods."""

    scalars = image = note = pause = resume = close = update


class RunLog(NullLog):
    """The logs, opened at `step`: what they hold of later, lost updates is dropped.

    Its methods raise OSError where the disk takes no more.

    Args:
      total: the step at which the bar is full.
    """

    def __init__(self, run_dir: Path, step: int, total: int):
        self._path = run_dir / "metrics.jsonl"
        lost = _drop_after(self._path, step)
        if lost and not step:
            print(
                f"warning: {run_dir} resumes from step 0; its updates up to step {lost} are repeated",
                file=sys.stderr,
            )
        with _errors_of_disk():
            _drop_events_after(run_dir / "logs", step)
            self._writer = tf.summary.create_file_writer(str(run_dir / "logs"))
        self._bar = tqdm(initial=step, total=total, unit="step", dynamic_ncols=True, disable=None)
        # (Images are waited for, and the graph is compiled.)
        self._first = Progress(1, "making the first update", quiet=not self._bar.disable)
        self._total, self._step, self._time = total, step, time.perf_counter()
        self._waits: list[tf.Tensor | float] = []
        self._judged: bool | None = None
        self._long_wait = _LONG_WAIT_OF_GPU if tf.config.list_logical_devices("GPU") else _LONG_WAIT

    def update(self, step: int, waited: tf.Tensor) -> None:
        """Moves the bar; `waited` is how many seconds images were waited for, and read when something is written."""
        self._first.close()
        self._bar.update(step - self._bar.n)
        self._waits.append(waited)
        if len(self._waits) >= _MOST_WAITS:
            self._waits = [self._waited()]

    def scalars(self, step: int, batch_size: int, values: dict[str, float]) -> None:
        """Writes `values` and the images/s since the last call, everywhere."""
        now = time.perf_counter()
        rate = (step - self._step) * batch_size / (now - self._time)
        left = (self._total - step) * batch_size / rate
        values = {**values, "images_per_second": round(rate, 2), "input_wait": round(self._wait(now), 3)}
        self._step, self._time = step, now
        with self._path.open("a", encoding="utf-8") as file:
            # JSON has no word for a mean of no updates (all skipped).
            known = {name: value if math.isfinite(value) else None for name, value in values.items()}
            file.write(json.dumps({"step": step, **known}) + "\n")
        with _errors_of_disk(), self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        shown = {"loss": f"{values['loss']:.4f}", "images/s": f"{rate:.0f}"}
        if self._bar.disable:  # not a terminal: a line each
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {step}/{self._total}  {text}  {left / 60:.1f} min left", flush=True)
        else:
            self._bar.set_postfix(shown, refresh=False)

    def _waited(self) -> float:
        return sum(float(waited) for waited in self._waits)

    def _wait(self, now: float) -> float:
        """The share of the time since the last call that went by waiting for images; a warning where it is large."""
        share, self._waits = self._waited() / (now - self._time), []
        if self._judged is None:  # the first time holds the start of everything
            self._judged = False
        elif share > self._long_wait and not self._judged:
            self._judged = True
            print(
                f"warning: {share:.0%} of the time goes by waiting for images; keep them on a faster disk "
                "(data.cache_dir) or, those of TensorFlow Datasets, in memory (data.memory_gb)",
                file=sys.stderr,
            )
        return share

    def image(self, step: int, name: str, image: np.ndarray, values: dict[str, float]) -> None:
        """Writes uint8 [H, W, C], and scalars about it, to TensorBoard."""
        with _errors_of_disk(), self._writer.as_default(step):
            tf.summary.image(name, image[None])
            for key, value in values.items():
                tf.summary.scalar(key, value)

    def note(self, step: int, name: str, value: float, remark: str) -> None:
        """Writes a number that is measured now and then, to TensorBoard and as a line."""
        with _errors_of_disk(), self._writer.as_default(step):
            tf.summary.scalar(name, value)
        tqdm.write(f"step {step}/{self._total}  {name} {value:.5g}{', ' * bool(remark)}{remark}")
        sys.stdout.flush()

    def pause(self) -> None:
        """Time until `resume` (a checkpoint, a preview) does not count as training."""
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Ends `pause`."""
        self._time += time.perf_counter() - self._paused

    def close(self) -> None:
        """Flushes everything."""
        self._first.close()
        self._bar.close()
        with contextlib.suppress(tf.errors.OpError):  # what is not on the disk yet has been complained of
            self._writer.close()
        sys.stderr.flush()


@contextlib.contextmanager
def _errors_of_disk() -> Iterator[None]:
    """Turns TensorFlow's write errors into OSError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(first_line(error).rpartition("; ")[2]) from None


def _drop_after(path: Path, step: int) -> int:
    """Drops the lines beyond `step`, and returns the last of their steps, 0 for none."""
    if not path.exists():
        return 0
    before = path.read_text(encoding="utf-8-sig", errors="replace")
    kept, lost = [], 0
    for line in before.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
            else:
                lost = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a line cut short when the run was killed
    if "".join(kept) != before:
        atomic_files.write_text(path, "".join(kept))
    return lost


def _drop_events_after(folder: Path, step: int) -> None:
    """Drops TensorBoard's events beyond `step`, whose curves would fold back otherwise."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept, lost = [], 0
        with contextlib.suppress(tf.errors.DataLossError):  # cut short when the run was killed
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                if event_pb2.Event.FromString(record).step <= step:
                    kept.append(record)
                else:
                    lost += 1
        if lost:
            with atomic_files.atomic_write(path) as beside, tf.io.TFRecordWriter(str(beside)) as writer:
                for record in kept:
                    writer.write(record)
