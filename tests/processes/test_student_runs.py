"""Students, stopped at any moment, end as if they were not, with their teacher's run gone since."""

import shutil
import signal

import pytest

from tests.support.processes import check_interrupted, ended, interrupt, result, start
from tf_ddpm.runs import probes

OWN = {"train.steps": 400, "train.checkpoint_every": 10, "train.log_every": 7, "train.preview_every": 100}
METHODS = {
    "consistency": (["--guide=6", "--guidance=2"], {"distill.probe_every": 40, "distill.stages": 2}),
    "progressive": ([], {"distill.teacher_steps": 16, "distill.steps": 4, "distill.convert": 100}),
}


@pytest.mark.parametrize("method", list(METHODS))
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
