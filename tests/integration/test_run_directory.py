"""A run's directory that is not what it was, or cannot be what is asked of it: a line, and nothing lost."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from export import saved_model
from tests.support.processes import ROOT, ended, start
from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.diffusers_format import folders, reading
from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files, checkpoints, configuration, directory
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop


@pytest.fixture
def copy(run_dir, tmp_path):
    return shutil.copytree(run_dir, tmp_path / "copy")


def further(config):
    return config_lib.with_values(config, {"train.steps": 12})


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["lr[1e-3]", "back\\slash", "not-utf8-\udcff"])
def test_a_name_below_which_tensorflow_cannot_read_is_refused_before_anything_is_written(tiny_config, tmp_path, name):
    with pytest.raises(UserError, match="TensorFlow cannot read below"):
        loop.run(tiny_config(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_neither_import_nor_export_writes_below_such_a_name(run_dir, tmp_path):
    with pytest.raises(UserError, match="TensorFlow cannot read below"):
        saved_model.export_run(load_run(run_dir), tmp_path / "export[1]")
    source = ROOT / "pretrained" / "fashion_mnist"
    with pytest.raises(UserError, match="TensorFlow cannot read below"):
        folders.import_run(source, reading.read_config(source, []), tmp_path / "import[1]")
    assert not list(tmp_path.iterdir())


def test_a_second_trainer_of_a_new_run_is_refused_before_it_decodes_anything(tiny_config, tmp_path, monkeypatch):
    load, refused = datasets.load, []

    def slow(*arguments):
        if refused:
            raise AssertionError("the second one decodes as well")
        refused.append("")
        with pytest.raises(UserError, match="another process is training in") as error:
            loop.run(tiny_config(train__steps=4), tmp_path / "run")
        refused[:] = [str(error.value)]
        return load(*arguments)

    monkeypatch.setattr(datasets, "load", slow)
    assert loop.run(tiny_config(train__steps=4), tmp_path / "run").updates == 4 and refused[0]


def test_a_run_whose_images_cannot_be_read_leaves_no_directory(tiny_config, tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("no such images")

    monkeypatch.setattr(datasets, "load", fails)
    with pytest.raises(UserError, match="no such images"):
        loop.run(tiny_config(), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a{b,c} d?*é", "a[b", "a]b"])
def test_other_odd_names_are_a_run_like_any(tiny_config, tmp_path, name):
    loop.run(tiny_config(train__steps=4), tmp_path / name)
    assert loop.run(tiny_config(), tmp_path / name).updates == 8


def test_checkpoints_without_a_configuration_are_not_gone_on_with(tiny_config, copy):
    (copy / "config.json").unlink()
    before = content(copy)
    with pytest.raises(UserError, match=r"checkpoints and no config\.json"):
        loop.run(further(tiny_config(train__learning_rate=0.5)), copy)
    assert content(copy) == before


@pytest.mark.parametrize(("kind", "words"), [("nowhere", "No such file"), ("file", "Not a directory")])
def test_checkpoints_that_cannot_be_seen_do_not_make_a_run_begin_again(tiny_config, copy, kind, words):
    shutil.rmtree(copy / "checkpoints")
    if kind == "file":
        (copy / "checkpoints").touch()
    else:  # as where a disk is not mounted
        (copy / "checkpoints").symlink_to(copy / "nowhere")
    before = content(copy)
    with pytest.raises(UserError, match=f"cannot read the checkpoints.*{words}"):
        loop.run(further(tiny_config()), copy)
    assert content(copy) == before


def test_a_run_that_has_lost_its_checkpoints_says_what_is_done_again(tiny_config, copy, capsys):
    shutil.rmtree(copy / "checkpoints")
    loop.run(tiny_config(), copy)
    assert "its updates up to step 8 are repeated" in capsys.readouterr().err


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_whose_directory_is_moved_or_removed_ends_with_a_line(tiny_config, tmp_path, monkeypatch, moved):
    run_dir, save = tmp_path / "run", checkpoints.CheckpointManager.save

    def saved(self, step):
        save(self, step)
        self.finish()
        run_dir.rename(tmp_path / "elsewhere") if moved else shutil.rmtree(run_dir)

    monkeypatch.setattr(checkpoints.CheckpointManager, "save", saved)
    with pytest.raises(UserError, match="moved or removed while it was trained"):
        loop.run(tiny_config(), run_dir)
    assert not run_dir.exists()
    if moved:
        (tmp_path / "elsewhere").rename(run_dir)
        monkeypatch.undo()
        assert checkpoint_files.steps(run_dir) == [4] and loop.run(tiny_config(), run_dir).updates == 8


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (70, 8, 8), np.uint8)):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder


def began(folder, tiny_config, run_dir):
    """As a run, or a part of it, begins."""
    data = {"data__name": "folder", "data__path": str(folder), "data__image_size": (8, 8), "data__channels": 1}
    config = tiny_config(**data, data__cache_dir=str(run_dir.parent / "cache"))
    images = datasets.load(config.data)
    run_dir.mkdir(exist_ok=True)
    directory.write(run_dir, config, images, 0)
    return images


def changed_picture(folder):
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(folder / "03.png")


def added_picture(folder):
    shutil.copy(folder / "00.png", folder / "99.png")


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (lambda folder: os.utime(folder / "03.png", (1, 1)), None),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), None),
        (changed_picture, 70),
        (lambda folder: (folder / "03.png").unlink(), 69),
        (added_picture, 71),
    ],
    ids=["touched", "moved", "replaced", "removed", "added"],
)
def test_images_that_have_changed_between_two_parts_of_a_run_are_told(
    tiny_config, tmp_path, capsys, pictures, change, now
):
    """Every one of them, and no time and no place."""
    run_dir = tmp_path / "run"
    for part in range(3):
        began(pictures if pictures.exists() else tmp_path / "elsewhere", tiny_config, run_dir)
        told = capsys.readouterr().err
        assert ("the images are not those" in told) == (f"(70 then, {now} now)" in told) == (part == 1 and bool(now))
        if part == 0:
            change(pictures)
    assert json.loads((run_dir / "data.json").read_text())["images"] == (now or 70)


def test_a_run_that_knows_some_of_its_pictures_alone_compares_these_and_then_knows_all(
    tiny_config, tmp_path, capsys, pictures
):
    run_dir = tmp_path / "run"
    images = began(pictures, tiny_config, run_dir)
    digest = hashlib.sha256(repr(list(images.fingerprint()[2:])).encode()).hexdigest()
    for some, told in ((digest, False), ("0" * 64, True)):
        (run_dir / "data.json").write_text(json.dumps({"images": 70, "labels": ["."], "sha256": some}))
        began(pictures, tiny_config, run_dir)
        assert ("the images are not those" in capsys.readouterr().err) == told
        assert json.loads((run_dir / "data.json").read_text()).keys() == {"images", "labels", "files"}


@pytest.mark.processes
def test_a_run_goes_on_where_nobody_reads_what_it_prints(tmp_path):
    """Its reader leaves after the first line."""
    process = start(tmp_path / "run", **{"train.steps": 60})
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=300) == 0 and "Traceback" not in errors and "BrokenPipe" not in errors, errors
    assert checkpoint_files.steps(tmp_path / "run")[-1] == 60


@pytest.mark.processes
@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_run_needs_neither_stdout_nor_stderr(tmp_path, closed):
    code = f"""
import subprocess, sys
sys.exit(subprocess.call(["sh", "-c", 'exec "$0" "$@" {closed}', sys.executable, "main.py", *sys.argv[1:]]))
"""
    for _ in range(2):  # the second time there is nothing to do, and little to print
        ((number, _, errors),) = ended([start(tmp_path / "run", code=code, **{"train.steps": 20})])
        assert number == 0 and not errors, errors
    assert checkpoint_files.steps(tmp_path / "run")[-1] == 20


def test_until_its_first_checkpoint_a_run_may_be_configured_anew(tiny_config, tmp_path, capsys):
    """As after a first try that took too much memory."""
    config = tiny_config(train__steps=6)
    loop.run(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    other = configuration.training_config(tmp_path, None, ["train.batch_size=8", "model.channels=16"])
    assert other.train.steps == 6 and other.data.image_size == (8, 8)
    state = loop.run(other, tmp_path)
    assert configuration.read(tmp_path).train.batch_size == 8 and state.network.model.channels == 16
    with pytest.raises(UserError, match=r"model\.channels is 16, not 8"):
        configuration.training_config(tmp_path, None, ["model.channels=8"])
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"data\.name is"):
        configuration.training_config(tmp_path, "mnist", [])


def test_what_somebody_keeps_in_the_directory_stays(tiny_config, tmp_path):
    (tmp_path / "data.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"data\.json is not what this program writes"):
        loop.run(tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]
    (tmp_path / "data.json").unlink()
    loop.run(tiny_config(), tmp_path)
    (tmp_path / "checkpoints" / "step-8.backup").mkdir()
    assert load_run(tmp_path).checkpoint_step == 8


_WRITES = """
import pathlib, sys, time
from tf_ddpm.runtime import atomic_files
with atomic_files.atomic_write(pathlib.Path(sys.argv[1])) as beside, beside.open("w") as file:
    file.write("{")
    print(flush=True)
    time.sleep(600)
"""


def test_what_killed_processes_were_writing_is_removed_and_what_others_write_stays(tiny_config, copy):
    def partial():
        return sorted(path.name for path in copy.rglob(".partial*"))

    def write(name):
        process = subprocess.Popen([sys.executable, "-c", _WRITES, copy / name], cwd=ROOT, stdout=subprocess.PIPE)
        process.stdout.readline()
        return process

    for own in (".partial-note", ".partial-my-own"):
        (copy / own).touch()
    others, before = write("report.html"), partial()
    for dead in (write("config.json"), write("previews/preview-8.png")):
        dead.kill()
        dead.wait()
    assert len(partial()) == len(before) + 2
    loop.run(further(tiny_config()), copy)
    assert partial() == before and len(before) == 3
    others.kill()
    others.wait()
