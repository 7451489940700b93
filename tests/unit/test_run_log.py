"""What a run tells of itself."""

import json
import time

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm.runtime import progress
from tf_ddpm.training import run_log
from tf_ddpm.training.run_log import RunLog


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run_log, "time", clock)
    return clock


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def steps(log, clock, waits, work=1.0):
    """Steps of so much work, each batch waited for so long; a line each."""

    for step, wait in enumerate(waits, 1):
        clock.now += wait + work
        log.update(step, tf.constant(wait))
        log.scalars(step, 10, {"loss": 0.5})


def test_the_share_of_time_that_images_are_waited_for_is_told(tmp_path, clock, capsys):
    log = RunLog(tmp_path, 0, 4)
    steps(log, clock, [3.0, 0.25, 0.0, 1.0])
    log.close()
    assert [line["input_wait"] for line in lines(tmp_path)] == [0.75, 0.2, 0.0, 0.5]
    assert [line["images_per_second"] for line in lines(tmp_path)] == [2.5, 8.0, 10.0, 5.0]
    # Once, and not for the first interval, in which everything starts.
    assert capsys.readouterr().err.count("warning: 50% of the time goes by waiting for images") == 1


def test_a_pipeline_that_keeps_up_is_not_warned_of(tmp_path, clock, capsys):
    log = RunLog(tmp_path, 0, 4)
    steps(log, clock, [9.0, 0.3, 0.2, 0.1])
    log.close()
    assert "waiting" not in capsys.readouterr().err


def test_the_first_update_is_waited_for_aloud(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS", 0.02)
    log = RunLog(tmp_path, 0, 4)
    time.sleep(0.2)
    assert "making the first update, for 0 s now" in capsys.readouterr().err
    log.update(1, tf.constant(0.0))
    time.sleep(0.1)
    assert capsys.readouterr().err.count("making") <= 1
    log.close()


def test_waits_are_summed_up_however_rarely_they_are_told(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(run_log, "_MOST_WAITS", 3)
    log = RunLog(tmp_path, 0, 7)
    for step in range(1, 8):
        log.update(step, tf.constant(0.5))
    clock.now += 7.0
    log.scalars(7, 10, {"loss": 0.5})
    log.close()
    assert lines(tmp_path)[0]["input_wait"] == 0.5


def test_pauses_are_no_training(tmp_path, clock):
    log = RunLog(tmp_path, 0, 4)
    clock.now += 1.0
    log.pause()
    clock.now += 100.0
    log.resume()
    log.scalars(1, 10, {"loss": 0.5})
    log.close()
    assert lines(tmp_path)[0]["images_per_second"] == 10.0


def test_tensorboard_shows_every_figure_and_the_preview_with_its_drift(tmp_path, clock):
    log = RunLog(tmp_path, 0, 4)
    clock.now += 1.0
    log.scalars(1, 10, {"loss": 0.5, "ema_distance": 0.25})
    log.image(1, "preview", np.zeros((4, 4, 1), np.uint8), {"preview_colour_drift": 3.0})
    log.close()
    (file,) = (tmp_path / "logs").iterdir()
    tags = {value.tag for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value}
    assert {"loss", "ema_distance", "images_per_second", "input_wait", "preview", "preview_colour_drift"} <= tags


def test_lines_of_lost_updates_are_dropped_and_the_others_stay_where_nothing_can_be_written(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(run_log.atomic_files.os, "replace", full)
        RunLog(tmp_path, 1, 4)
    assert path.read_text().startswith('{"step": 1}\n{"step": 2}\n')
    RunLog(tmp_path, 1, 4).close()
    assert path.read_text() == '{"step": 1}\n'


def test_lines_are_json_whatever_was_measured(tmp_path, clock):
    log = RunLog(tmp_path, 0, 4)
    clock.now += 1.0
    log.scalars(1, 10, {"loss": float("nan")})
    log.close()
    refuse = lambda word: pytest.fail(word)  # noqa: E731
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)["loss"] is None


@pytest.mark.parametrize("damage", ["\ufeff{}", "{}" + "[" * 200_000 + "\n"])
def test_a_log_that_somebody_has_edited_keeps_its_lines(tmp_path, damage):
    whole = '{"step": 1}\n{"step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(damage.replace("{}", whole, 1), encoding="utf-8")
    RunLog(tmp_path, 2, 4).close()
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8-sig") == whole


def scalars_of(run_dir):
    """step -> loss, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors("loss")]


def test_the_curves_of_a_killed_run_do_not_fold_back(tmp_path):
    for first, last, loss in ((0, 6, 1.0), (4, 8, 2.0), (5, 9, 3.0)):
        time.sleep(1.0)  # TensorBoard reads files in the order of their names, which begin with the second
        log = RunLog(tmp_path, first, 9)
        for step in range(first + 1, last + 1):
            log.scalars(step, 1, {"loss": loss})
            log.image(step, "preview", np.zeros((2, 2, 1), np.uint8), {})
        log.close()
        with open(next((tmp_path / "logs").iterdir()), "ab") as file:
            file.write(b"cut short")
    expected = [*((step, 1.0) for step in (1, 2, 3, 4)), (5, 2.0), *((step, 3.0) for step in (6, 7, 8, 9))]
    assert scalars_of(tmp_path) == expected
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == expected
    assert all(path.name.startswith("events.") for path in (tmp_path / "logs").iterdir())
