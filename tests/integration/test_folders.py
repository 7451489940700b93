"""A folder as people have it: which files are its pictures, what subfolders mean, and what is said of the rest."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.tiny import make_tiny_config
from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import finding
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration, directory, kept_labels
from tf_ddpm.runtime import own_files, paths
from tf_ddpm.sampling import generate
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

ROOT = Path(__file__).parents[2]


def folder(path, **changes):
    return DataConfig(name="folder", path=str(path), **{"image_size": (8, 8), "channels": 3, **changes})


def picture(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(path, format=None if path.suffix else "PNG")


def tiny(path, **changes):
    data = {"data__name": "folder", "data__path": str(path), "data__image_size": (8, 8), "data__channels": 3}
    return make_tiny_config(**data, train__batch_size=4, train__preview_images=2, **changes)


def test_numbered_class_folders_are_in_the_order_of_their_numbers(tmp_path):
    for i in range(12):
        picture(tmp_path / str(i) / "a.png", 10 * i)
    images = datasets.load(folder(tmp_path))
    assert images.label_names == tuple(map(str, range(12)))
    np.testing.assert_array_equal(images.images[:, 0, 0, 0], 10 * images.labels)
    assert datasets.load(folder(tmp_path, decoder=1)).label_names[:4] == ("0", "1", "10", "11")


def test_natural_order_is_total():
    names = ["2", "10", "02", "1", "a2", "a10", "a", "b1", "1b", ""]
    ordered = sorted(names, key=finding.natural)
    assert ordered == ["", "1", "1b", "02", "2", "10", "a", "a2", "a10", "b1"]


def test_what_systems_leave_is_neither_a_picture_nor_a_bad_file(tmp_path, capsys):
    picture(tmp_path / "cats" / "a.png")
    for name in ("@eaDir/a.png", "__MACOSX/a.png", "cats/@eaDir/SYNOPHOTO.jpg"):
        picture(tmp_path / name)
    for name in ("Thumbs.db", "desktop.ini", "cats/._a.png", "cats/.DS_Store"):
        (tmp_path / name).write_bytes(b"\0")
    images = datasets.load(folder(tmp_path))
    assert (len(images), images.label_names, images.bad) == (1, ("cats",), ())
    assert not capsys.readouterr().err


def test_splits_are_told_from_classes(tmp_path, capsys):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("cat", "dog"):
            for i in range(count):
                picture(tmp_path / split / name / f"{i}.png")
    (tmp_path / "LICENSE").write_text("free")
    images = datasets.load(folder(tmp_path))
    assert len(images) == 6 and images.label_names == ("cat", "dog")
    assert [len(datasets.load(folder(tmp_path, split=split))) for split in ("validation", "val", "test")] == [4, 4, 2]
    with pytest.raises(UserError, match=r"data\.split=tset: .* has the splits test, train, validation"):
        datasets.check(folder(tmp_path, split="tset"))
    for name in ("paper.pdf", "data.h5", "docs/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    (tmp_path / "valid").mkdir()
    assert len(datasets.load(folder(tmp_path))) == 6
    elsewhere = tmp_path.with_name(tmp_path.name + "-elsewhere")
    picture(elsewhere / "a")  # linked, and without an ending
    (tmp_path / "test" / "dog" / "linked").symlink_to(elsewhere)
    assert len(datasets.load(folder(tmp_path, split="test"))) == 3
    picture(tmp_path / "birds" / "a.png")  # now they are classes like any other
    assert len(datasets.load(folder(tmp_path)).label_names) == 8
    assert "taken as labels, for birds is no split" in capsys.readouterr().err
    with pytest.raises(UserError, match="no folders named train"):
        datasets.check(folder(tmp_path, split="test"))


def test_a_run_inside_its_own_folder_never_sees_what_it_wrote(tmp_path):
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / f"{name}.png")
    inside = tmp_path / "runs" / "mine"
    loop.run(tiny(tmp_path), inside)
    for out_dir in (inside / "samples", tmp_path / "drawn"):
        generate.generate(load_run(inside), out_dir, 2, 0, sampler="ddim", steps=2)
    (tmp_path / "drawn" / "manifest.json").unlink()
    shutil.copytree(inside, tmp_path, dirs_exist_ok=True)  # the folder is a run directory itself
    images = datasets.load(configuration.read(tmp_path).data)
    assert len(images) == 4 and images.label_names == (".",) and not images.bad
    again = config_lib.with_values(configuration.read(tmp_path), {"train.steps": 12})
    assert loop.run(again, tmp_path).updates == 12


def test_the_files_that_were_passed_over_are_all_listed_in_the_run(tmp_path, capsys):
    for i in range(4):
        picture(tmp_path / "pictures" / f"{i}.png")
    for i in range(20):
        (tmp_path / "pictures" / f"bad{i:02d}.png").write_text("no")
    kept = {"data__memory_gb": 0.0, "data__cache_dir": str(tmp_path / "cache")}
    config = tiny(tmp_path / "pictures", **kept)
    for name in ("first", "from_the_cache"):
        (tmp_path / name).mkdir()
        directory.write(tmp_path / name, config, datasets.load(config.data), 0)
        header, *lines = (tmp_path / name / "passed_over.txt").read_text().splitlines()
        assert (
            header.startswith("# ")
            and len(lines) == 20
            and all("not an image that Pillow reads" in line for line in lines)
        )
        said = capsys.readouterr().err
        assert "20 of 24 files passed over" in said and str(tmp_path / name / "passed_over.txt") in said


def test_a_list_that_is_not_ours_stays_and_one_of_ours_goes_once_all_is_well(tmp_path, capsys):
    picture(tmp_path / "pictures" / "a.png")
    (tmp_path / "pictures" / "caf\udce9.png").write_text("no")  # a name that is no UTF-8
    config, run_dir = tiny(tmp_path / "pictures"), tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "passed_over.txt").write_text("my own list")
    directory.write(run_dir, config, datasets.load(config.data), 0)
    assert (run_dir / "passed_over.txt").read_text() == "my own list"
    assert "not this program's, and stays" in capsys.readouterr().err
    (run_dir / "passed_over.txt").unlink()
    directory.write(run_dir, config, datasets.load(config.data), 0)
    assert r"caf\udce9.png: not an image" in (run_dir / "passed_over.txt").read_text()
    (tmp_path / "pictures" / "caf\udce9.png").unlink()
    directory.write(run_dir, config, datasets.load(config.data), 0)
    assert not (run_dir / "passed_over.txt").exists()


def test_what_cannot_be_reached_is_told_as_it_is_today_though_images_come_from_the_cache(tmp_path, capsys):
    picture(tmp_path / "pictures" / "a.png")
    link = tmp_path / "pictures" / "dangling.png"
    link.symlink_to(tmp_path / "nowhere.png")
    kept = folder(tmp_path / "pictures", memory_gb=0.0, cache_dir=str(tmp_path / "cache"))
    assert len(datasets.load(kept).bad) == 1
    link.unlink()
    assert datasets.load(kept).bad == ()
    assert len(datasets.load(folder(tmp_path / "pictures", on_bad_file="fail"))) == 1


def test_a_new_run_among_the_pictures_takes_no_folder_of_theirs_for_its_own(tmp_path):
    for name in ("cats", "samples", "figures"):
        picture(tmp_path / name / "a.png")
    with pytest.raises(UserError, match="has figures already; choose another run directory"):
        loop.run(tiny(tmp_path), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cats", "figures", "samples"]


def test_pictures_of_this_program_alone_are_no_data_and_that_is_said(run_dir, tmp_path):
    for name in ("a", "b"):
        generate.generate(load_run(run_dir), tmp_path / name, 2, 0, sampler="ddim", steps=2)
    with pytest.raises(UserError, match="its 4 pictures were made by this program"):
        datasets.load(folder(tmp_path))
    assert len(datasets.load_pictures(str(tmp_path)).images) == 4  # to measure they are wanted


def test_samples_of_which_half_were_moved_are_not_measured_and_are_replaced(run_dir, tmp_path, monkeypatch):
    run, replace = load_run(run_dir), os.replace
    generate.generate(run, tmp_path, 4, 0, sampler="ddim", steps=2)

    def killed(source, target):
        if Path(target) == tmp_path / "000001.png":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        generate.generate(run, tmp_path, 2, 100, sampler="ddim", steps=2)
    with pytest.raises(UserError, match="not whole"):
        datasets.load_pictures(str(tmp_path))
    generate.generate(run, tmp_path, 2, 100, sampler="ddim", steps=2)
    names = {"000000.png", "000001.png", "grid.png", "progress.gif", "manifest.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_labels_have_names_wherever_one_is_asked_for(tmp_path, capsys):
    for i, name in enumerate(("rose", "10", "2")):
        picture(tmp_path / "pictures" / name / "a.png", 100 * i)
    with pytest.raises(UserError, match=r"model\.classes=4: expected model\.classes=3 \(2, 10, rose\)"):
        loop.run(tiny(tmp_path / "pictures", model__classes=4), tmp_path / "wrong")
    loop.run(tiny(tmp_path / "pictures", model__classes=3), tmp_path / "run")
    assert "labels: 0 2, 1 10, 2 rose" in capsys.readouterr().out
    assert kept_labels.label_names(tmp_path / "run") == ("2", "10", "rose")
    run = load_run(tmp_path / "run")
    quick = {"sampler": "ddim", "steps": 2}
    np.testing.assert_array_equal(run.sample([1], label="rose", **quick), run.sample([1], label=2, **quick))
    for word, value in (("rose", 2), ("2", 2), ("all", None)):
        assert config_lib.parse_label(run.config, word, run.label_names) == value
    with pytest.raises(UserError, match="this run knows rose"):
        config_lib.parse_label(run.config, "roze", run.label_names)
    generate.generate(run, tmp_path / "samples", 2, 0, label=2, **quick)
    manifest = json.loads((tmp_path / "samples" / "manifest.json").read_text())
    assert manifest["label_names"] == ["2", "10", "rose"] and manifest["labels"] == [2, 2]


@pytest.mark.parametrize("name", ["000000.png", "grid.png", "progress.gif"])
def test_samples_never_overwrite_what_another_wrote(run_dir, tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    run = load_run(run_dir)
    with pytest.raises(UserError, match=rf"{name}.*not overwritten"):
        generate.generate(run, tmp_path, 2, 0, sampler="ddim", steps=2)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == b"mine"
    (tmp_path / name).rename(tmp_path / "photo.png")
    for _ in range(2):  # and over its own
        generate.generate(run, tmp_path, 2, 0, sampler="ddim", steps=2)
    assert (tmp_path / "photo.png").read_bytes() == b"mine"


def test_pictures_to_measure_are_read_as_those_to_train_on(tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "turned" / "z.png")
    (tmp_path / "turned" / "z.png").unlink()
    Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1))).save(tmp_path / "turned" / "a.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "turned" / "b.png")
    np.testing.assert_array_equal(datasets.load_pictures(str(tmp_path / "turned")).images, [upright, upright])


def test_somebody_elses_manifest_hides_no_picture(tmp_path):
    for name in ("0", "1", "extra_0", "extra_1"):
        picture(tmp_path / f"{name}.png")
    for text in ('{"name": "my album"}', "[]", "no json", '{"made_by": "other", "files": ["0.png"]}'):
        (tmp_path / "manifest.json").write_text(text)
        assert len(datasets.load_pictures(str(tmp_path)).images) == 4


def test_of_samples_of_this_program_the_images_alone_are_measured(run_dir, tmp_path):
    generate.generate(load_run(run_dir), tmp_path, 3, 0, sampler="ddim", steps=2)
    picture(tmp_path / "other.png")
    assert datasets.load_pictures(str(tmp_path)).images.shape == (3, 8, 8, 1)
    assert own_files.is_marked(Image.open(tmp_path / "grid.png"))
    assert own_files.is_marked(Image.open(tmp_path / "progress.gif"))


def test_grey_and_coloured_pictures_together_are_rgb(tmp_path):
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / "rgb.png")
    images = datasets.load_pictures(str(tmp_path)).images
    assert images.shape == (2, 4, 4, 3) and images[:, 0, 0, 2].tolist() == [7, 9]


def test_a_home_directory_that_is_not_there_is_one_clear_line(monkeypatch):
    with pytest.raises(UserError, match=r"data\.path=~nobody_here/x: user 'nobody_here' has no home directory"):
        paths.home_expanded("~nobody_here/x", "data.path")

    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(UserError, match=r"data\.cache_dir=~/\.cache: this process has no home directory"):
        paths.home_expanded("~/.cache", "data.cache_dir")


@pytest.mark.processes
def test_a_process_without_a_home_directory_trains_and_leaves_no_folder_named_so(tmp_path):
    # As for a user id without a name: Python answers with the ~ that it was asked about.
    env = {name: value for name, value in os.environ.items() if name != "KERAS_HOME"} | {"HOME": "~"}
    words = ["train.steps=2", "train.preview_every=2", "train.preview_images=1", "model.channels=8", "model.groups=2"]

    def main(*more):
        command = [sys.executable, str(ROOT / "main.py"), "--mode=train", *(f"--set={word}" for word in words), *more]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    done = main("--run_dir=run")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    wrong = main("--run_dir=other", "--set=data.name=folder", "--set=data.path=~/p", "--set=data.image_size=8")
    assert wrong.returncode == 1 and "error: data.path=~/p: " in wrong.stderr.splitlines()[-1], wrong.stderr
    wrong = main("--run_dir=other", "--set=data.name=mnist")
    assert wrong.returncode == 1 and "data.data_dir" in wrong.stderr.splitlines()[-1], wrong.stderr
    assert "Traceback" not in wrong.stderr and "Matplotlib" not in wrong.stderr


def test_what_is_held_out_is_never_trained_on_and_a_copy_goes_with_its_original(tmp_path):
    for i in range(60):
        picture(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png", 4 * i)
    shutil.copy(tmp_path / "dog" / "0.png", tmp_path / "cat" / "copy.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no class")
    parts = [datasets.load(folder(tmp_path, holdout=0.3, split=split)) for split in ("train", "holdout")]
    greys = [set(part.images[:, 0, 0, 0].tolist()) for part in parts]
    assert len(parts[0]) + len(parts[1]) == 61 and not greys[0] & greys[1]
    assert 8 <= len(parts[1]) <= 30
    assert all(part.label_names == ("cat", "dog") for part in parts)
    for part in parts:
        own = part.images[:, 0, 0, 0] // 4
        copies = (own == 0) & (part.labels == 0)
        np.testing.assert_array_equal(part.labels[~copies], np.where(own % 2, 0, 1)[~copies])
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    shutil.copytree(tmp_path, moved)  # by content, wherever they lie
    again = datasets.load(folder(moved, holdout=0.3, split="holdout"))
    np.testing.assert_array_equal(again.images, parts[1].images)


def test_a_picture_with_an_odd_ending_is_not_lost_when_some_are_held_out(tmp_path):
    for i in range(6):
        picture(tmp_path / "a" / f"{i}.png", 10 * i)
    for i in range(3):
        (tmp_path / "a" / f"{i}.png").rename(tmp_path / "a" / f"img_{i}.03")
    parts = [datasets.load(folder(tmp_path, holdout=0.5, split=split)) for split in ("train", "holdout")]
    assert sum(map(len, parts)) == 6
    with pytest.raises(UserError, match="none of 6 files falls into it"):
        datasets.load(folder(tmp_path, holdout=1e-9, split="holdout"))


def test_nothing_is_held_out_unless_a_share_is_named(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"data\.split=holdout: nothing is held out; expected data\.holdout=0\.1"):
        datasets.check(folder(tmp_path, split="holdout"))
