"""Images on disk."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tf_ddpm
from tf_ddpm import build, datasets
from tf_ddpm.errors import UserError
from tf_ddpm.sampling import image_files, sample_files
from tf_ddpm.sampling.generate import generate
from tf_ddpm.sampling.run import Run


@pytest.fixture(scope="module")
def run(run_dir):
    return tf_ddpm.load_run(run_dir)


def test_a_generation_is_pngs_a_grid_an_animation_and_a_manifest(run, tmp_path):
    grid = generate(run, tmp_path, 6, seed=40, batch_size=4)
    assert grid == tmp_path / "grid.png"
    names = [f"{i:06d}.png" for i in range(6)]
    assert {path.name for path in tmp_path.iterdir()} == {*names, "grid.png", "progress.gif", "manifest.json"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seeds"] == {"first": 40, "count": 6} and manifest["steps"] == 20
    assert manifest["sampler"] == "ddpm" and manifest["checkpoint_step"] == 8
    pixels = np.asarray(Image.open(tmp_path / "000003.png"))
    assert np.abs(pixels.astype(int) - run.sample([43])[0, ..., 0]).max() <= 1
    with Image.open(tmp_path / "progress.gif") as gif:
        assert gif.n_frames >= 20


def test_a_smaller_generation_replaces_a_larger_one_and_nothing_else(run, tmp_path):
    generate(run, tmp_path, 5, seed=0, steps=2)
    (tmp_path / "mine.txt").write_text("keep")
    generate(run, tmp_path, 2, seed=0, steps=2)
    assert {p.name for p in tmp_path.glob("0*.png")} == {"000000.png", "000001.png"}
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize("manifest", ['{"files": ["mine.txt"]}', '{"files": [1]}', "[]", "x"])
def test_a_foreign_manifest_is_refused_and_no_file_of_it_removed(run, tmp_path, manifest):
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match="choose another folder"):
        generate(run, tmp_path, 1, seed=0, steps=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "mine.txt"]


def test_a_manifest_cannot_remove_files_that_are_no_samples(run, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "manifest.json").write_text('{"made_by": "tf_ddpm", "files": ["mine.txt", "../x", "000009.png"]}')
    (tmp_path / "000009.png").write_text("old")
    generate(run, tmp_path, 1, seed=0, steps=2)
    assert (tmp_path / "mine.txt").exists() and not (tmp_path / "000009.png").exists()


def test_a_generation_that_fails_leaves_the_earlier_one(run, tmp_path, monkeypatch):
    generate(run, tmp_path, 2, seed=0, steps=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(image_files, "save_gif", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="No space left"):
        generate(run, tmp_path, 3, seed=9, steps=2)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_channels_without_a_png_form_are_saved_as_npy(tiny_config, tmp_path, capsys):
    config = tiny_config(data__name="other", data__image_size=(4, 8), data__channels=5)
    run = Run(config, build.network(config, "float32"), 0)
    grid = generate(run, tmp_path, 2, seed=0, steps=2)
    assert grid.name == "grid.npy" and np.load(tmp_path / "000001.npy").shape == (4, 8, 5)
    assert ".npy" in capsys.readouterr().out


def test_an_unwritable_folder_is_one_clear_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write samples"):
        generate(run, tmp_path / "file", 1, seed=0, steps=2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pngs_hold_the_very_pixels(channels, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with Image.open(image_files.save_image(image, tmp_path / "x")) as loaded:
        np.testing.assert_array_equal(np.asarray(loaded).reshape(image.shape), image)


def test_a_grid_shows_every_image_once():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(64, 1).repeat(64, 2) * 10
    sheet = image_files.grid(images)
    assert sheet.shape == (2 * 66 + 2, 3 * 66 + 2, 1)
    assert [int(sheet[10 + 66 * (i // 3), 10 + 66 * (i % 3), 0]) for i in range(5)] == [0, 10, 20, 30, 40]


def test_what_a_killed_generation_left_is_removed(run, tmp_path):
    (tmp_path / ".partial-dead").mkdir()
    (tmp_path / ".partial-dead" / "lock").touch()
    generate(run, tmp_path, 1, seed=0, steps=2)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("file_format", ["png", "both"])
def test_a_generation_that_was_killed_three_times_ends_as_one_run_through(run, tmp_path, monkeypatch, file_format):
    settings = {"seed": 3, "steps": 2, "batch_size": 2, "file_format": file_format}
    generate(run, tmp_path / "through", 9, **settings)
    add, calls = sample_files.Parts.add, []

    def killed(parts, images):
        calls.append(parts.done)
        if len(calls) in (2, 3, 5):
            raise KeyboardInterrupt  # after the images were drawn, and before they are written
        add(parts, images)

    monkeypatch.setattr(sample_files.Parts, "add", killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            generate(run, tmp_path / "killed", 9, **settings)
        assert not (tmp_path / "killed" / "manifest.json").exists()
    generate(run, tmp_path / "killed", 9, **settings)
    assert calls == [0, 2, 2, 2, 4, 4, 6, 8]
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "through")
    # Other work begins anew, and removes what it finds.
    monkeypatch.setattr(sample_files.Parts, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        generate(run, tmp_path / "killed", 9, **settings)
    monkeypatch.setattr(sample_files.Parts, "add", add)
    generate(run, tmp_path / "killed", 3, **settings)
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kills", [0, 1, 3, 5])
def test_a_generation_that_was_killed_while_it_was_moved_is_moved_on_and_not_drawn_again(
    run, tmp_path, monkeypatch, kills
):
    monkeypatch.setattr(sample_files, "_FOLDER", 4)
    monkeypatch.setattr(sample_files, "_OUR_FOLDERS", re.compile(r"\d{6}"))
    settings = {"seed": 3, "steps": 2, "batch_size": 3}
    generate(run, tmp_path / "through", 9, **settings)
    generate(run, tmp_path / "killed", 10, seed=0, steps=2)  # whose files have the same names
    replace, drawn, moved = os.replace, [], []

    def killed(source, target):
        if "killed" in Path(target).parts[-2:-1] and Path(source).parent.name == "samples":
            if len(moved) == kills:
                raise KeyboardInterrupt
            moved.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(sample_files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):  # of three folders, the grid, the animation and the manifest
            generate(run, tmp_path / "killed", 9, **settings)
    assert json.loads((tmp_path / "killed" / "manifest.json").read_text())["complete"] is False
    add = sample_files.Parts.add
    monkeypatch.setattr(sample_files.Parts, "add", lambda *args: (drawn.append(args), add(*args)))
    grid = generate(run, tmp_path / "killed", 9, **settings)
    assert grid.exists() and drawn == [] and len(moved) == kills
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "through")


def test_an_npz_holds_the_images_and_labels_of_the_pngs(run, tmp_path):
    generate(run, tmp_path, 5, seed=0, steps=2, batch_size=2, file_format="both")
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as found:
        assert list(found) == ["arr_0"] and found["arr_0"].dtype == np.uint8
        for i, image in enumerate(found["arr_0"]):
            np.testing.assert_array_equal(image[..., 0], np.asarray(Image.open(tmp_path / f"{i:06d}.png")))
    generate(run, tmp_path, 5, seed=0, steps=2, batch_size=2, file_format="npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "grid.png", "manifest.json", "progress.gif", "samples.npz"
    ]  # fmt: skip


def test_many_files_go_into_folders_that_are_read_back_and_replaced(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_files, "_FOLDER", 4)
    monkeypatch.setattr(sample_files, "_OUR_FOLDERS", re.compile(r"\d{6}"))
    generate(run, tmp_path, 9, seed=0, steps=2, batch_size=3)
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["000000", "000004", "000008"]
    assert (folders[1] / "000007.png").exists() and (folders[2] / "000008.png").exists()
    assert len(datasets.load_pictures(str(tmp_path))) == 9
    (folders[1] / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="000004"):  # it would have to go
        generate(run, tmp_path, 9, seed=1, steps=2, batch_size=3)
    (folders[1] / "mine.txt").unlink()
    generate(run, tmp_path, 3, seed=1, steps=2)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_two_processes_do_not_draw_the_same_into_one_folder(run, tmp_path, monkeypatch):
    def meanwhile(parts, images):
        with pytest.raises(UserError, match="another process is drawing the same images"):
            generate(run, tmp_path, 2, seed=0, steps=2)
        monkeypatch.setattr(sample_files.Parts, "add", add)
        add(parts, images)

    add = sample_files.Parts.add
    monkeypatch.setattr(sample_files.Parts, "add", meanwhile)
    generate(run, tmp_path, 2, seed=0, steps=2)
    assert (tmp_path / "000001.png").exists()
