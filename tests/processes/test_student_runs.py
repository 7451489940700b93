"""Students, stopped at any moment, end as if they were not, with their teacher's run gone since."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.support.processes import check_interrupted, ended, interrupt, result, start
from tf_ddpm.runs import checkpoint_files, probes

FIRST = Path(__file__).parents[1] / "fixtures" / "first_runs"
OWN = {"train.steps": 400, "train.checkpoint_every": 10, "train.log_every": 7, "train.preview_every": 100}
METHODS = {
    "consistency": (["--guide=6", "--guidance=2"], {"distill.probe_every": 40, "distill.stages": 2}),
    "progressive": ([], {"distill.teacher_steps": 16, "distill.steps": 4, "distill.convert": 100}),
}


@pytest.mark.parametrize("method", ["consistency", pytest.param("progressive", marks=pytest.mark.slow)])
def test_a_student_killed_and_terminated_ends_bit_identical_without_its_teachers_run(method, tmp_path):
    flags, own = METHODS[method]
    prediction = {"diffusion.prediction": "v" if method == "consistency" else "eps"}
    ((code, _, errors),) = ended([start(tmp_path / "teacher", **prediction, **{"train.steps": 20})])
    assert code == 0, errors
    flags = [f"--teacher={tmp_path}/teacher", f"--method={method}", *flags]
    begin = lambda path: [start(path, mode="distill", flags=flags, **OWN, **own)]  # noqa: E731
    ((code, _, errors),) = ended(begin(tmp_path / "whole"))
    assert code == 0, errors
    ((code, _, errors),) = interrupt(tmp_path / "run", signal.SIGKILL, 0.1, 0, begin)
    assert code == -signal.SIGKILL, errors
    shutil.rmtree(tmp_path / "teacher")
    numbers = [signal.SIGTERM, signal.SIGKILL]
    assert check_interrupted(tmp_path / "run", numbers, result(tmp_path / "whole"), begin) == 2
    assert probes.read(tmp_path / "run") == probes.read(tmp_path / "whole")


def test_a_folder_of_diffusers_teaches_a_student_that_goes_on_without_it(tmp_path):
    shutil.copytree(FIRST / "plain", tmp_path / "plain")
    ((code, _, errors),) = ended([start(tmp_path / "plain", mode="export_diffusers")])
    assert code == 0, errors
    flags = [f"--teacher={tmp_path}/plain/diffusers", "--method=consistency"]
    for steps in (10, 20):
        settings = {"data.name": "digits"} if steps == 10 else {}
        own = {"train.steps": steps, "train.checkpoint_every": 10, "train.preview_every": 10} | settings
        ((code, _, errors),) = ended([start(tmp_path / "run", mode="distill", flags=flags, **own)])
        assert code == 0, errors
        shutil.rmtree(tmp_path / "plain", ignore_errors=True)
    assert checkpoint_files.steps(tmp_path / "run")[-1] == 20
    flags = [f"--teacher={tmp_path}", "--method=consistency"]
    ((code, _, errors),) = ended([start(tmp_path / "run", mode="distill", flags=flags)])
    assert code == 1 and f"is a student of {tmp_path}/plain/diffusers; without --teacher it goes on" in errors, errors


def test_what_stands_where_a_student_keeps_its_teacher_is_left_alone(tmp_path):
    shutil.copytree(FIRST / "plain", tmp_path / "plain")
    (tmp_path / "teacher").mkdir()
    flags = [f"--teacher={tmp_path}/plain", "--method=consistency"]
    ((code, _, errors),) = ended([start(tmp_path, mode="distill", flags=flags)])
    assert code == 1 and "is there, where the student keeps its teacher; choose another" in errors, errors
    assert (tmp_path / "teacher").is_dir() and not (tmp_path / "config.json").exists()
