"""SIGKILL while samples are written and while they are moved into place: what is there is not drawn again."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.support.processes import ROOT, ended, start

RUN = Path(__file__).parents[1] / "fixtures" / "first_runs" / "plain"
# main.py, which kills itself where WHEN holds of what is renamed to what.
_KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from absl import app
from tf_ddpm.commands import cli
replace = os.replace
def killed(source, target):
    source, target = str(source), str(target)
    if WHEN:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
app.run(cli.main)
"""


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("file_format", ["png", pytest.param("both", marks=pytest.mark.slow)])
def test_samples_that_were_killed_while_written_and_while_moved_are_those_of_one_run_through(tmp_path, file_format):
    run_dir = shutil.copytree(RUN, tmp_path / "run")

    def draw(folder, when=None):
        flags = ["--num_images=9", "--sampling_steps=2", f"--out={folder}", f"--format={file_format}"]
        code = when and _KILLED.replace("WHEN", when)
        return ended([start(run_dir, mode="sample", flags=flags, code=code, **{"sample.batch_size": 4})])[0]

    assert draw(tmp_path / "through")[0] == 0
    # The images of the second batch are there, and nothing says so; then all but the grid and the manifest have moved.
    in_add = "target.endswith('done.json') and os.path.exists(os.path.join(os.path.dirname(target), 'done.json'))"
    assert draw(tmp_path / "killed", in_add)[0] == -signal.SIGKILL
    (left,) = (tmp_path / "killed").glob(".partial-*")
    assert len(list((left / "samples").glob("0*.png"))) == 8 and (left / "done.json").read_text() == "4"
    code, told, _ = draw(
        tmp_path / "killed", "source.endswith('samples/grid.png') and target.endswith('killed/grid.png')"
    )
    assert code == -signal.SIGKILL and "going on behind 4 images" in told
    assert (tmp_path / "killed" / "000008.png").exists()
    code, told, errors = draw(tmp_path / "killed", "'done.json' in target")  # which nothing that draws would survive
    assert code == 0, errors
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "through")
