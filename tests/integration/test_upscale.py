"""A folder of pictures enlarged by a run."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.support.tiny import make_tiny_config
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import own_files
from tf_ddpm.sampling import upscale, upscaler
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """A run of two levels that enlarges twice, trained on digits in colour."""
    folder = tmp_path_factory.mktemp("larger") / "run"
    values = {"model__condition": "low_res", "model__factor": 2, "train__crop": 4, "data__channels": 3}
    levels = {"model__multipliers": (1, 2), "sample__sampler": "ddim", "sample__steps": 3}
    loop.run(make_tiny_config(**values, **levels, train__preview_images=4), folder)
    return load_run(folder)


@pytest.fixture
def pictures(tmp_path):
    """Pictures of odd sizes and kinds, in folders."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    colours = lambda height, width: rng.integers(0, 256, (height, width, 3), np.uint8)  # noqa: E731
    Image.fromarray(colours(6, 9)).save(folder / "a.b.png")
    Image.fromarray(colours(5, 5)[..., 0]).save(folder / "grey.png")
    Image.fromarray(colours(6, 4)).save(folder / "twice.jpg")
    Image.fromarray(colours(4, 6)).save(folder / "twice.png")
    Image.fromarray(colours(3, 7)).save(folder / "more" / "c.bmp")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not meant")
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_picture_of_any_size_is_enlarged_under_its_own_name(larger, pictures, tmp_path, capsys):
    out = upscale.upscale(larger, str(pictures), tmp_path / "out")
    sizes = {str(path.relative_to(out)): Image.open(path).size for path in out.rglob("*.png")}
    expected = {"a.b.png": (18, 12), "grey.png": (10, 10), "more/c.png": (14, 6)}
    assert sizes == expected | {"twice.jpg.png": (8, 12), "twice.png.png": (12, 8)}
    assert own_files.is_marked(Image.open(out / "grey.png"))
    told = capsys.readouterr().err
    assert "passed over" in told and "bad.png" in told and "notes.txt" not in told


def test_what_is_drawn_depends_on_picture_and_seed_alone_and_is_what_the_run_draws(larger, pictures, tmp_path):
    enlarge = upscaler.Upscaler(larger)
    image = np.random.default_rng(1).integers(0, 256, (4, 4, 3), np.uint8)
    np.testing.assert_array_equal(enlarge(image, 5), larger.sample([5], low_res=image[None])[0])
    one = content(upscale.upscale(larger, str(pictures), tmp_path / "one", seed=5))
    for path in pictures.glob("twice.*"):
        path.unlink()
    two = content(upscale.upscale(larger, str(pictures), tmp_path / "two", seed=5))
    assert two["a.b.png"] == one["a.b.png"]
    three = content(upscale.upscale(larger, str(pictures), tmp_path / "three", seed=6))
    assert three["a.b.png"] != one["a.b.png"]


def test_tiles_give_nearly_the_whole_and_a_picture_that_fits_is_exactly_the_whole(larger):
    image = np.random.default_rng(1).integers(0, 256, (12, 20, 3), np.uint8)
    whole, tiled = upscaler.Upscaler(larger)(image, 0), upscaler.Upscaler(larger, tile=16, overlap=8)(image, 0)
    assert whole.shape == tiled.shape == (24, 40, 3) and np.abs(whole.astype(int) - tiled).mean() < 4
    np.testing.assert_array_equal(upscaler.Upscaler(larger, tile=40, overlap=8)(image, 0), whole)


def test_stopped_it_goes_on_and_what_is_done_is_not_done_again(larger, pictures, tmp_path, monkeypatch):
    done, call = [], upscaler.Upscaler.__call__

    def counted(self, image, seed, label=-1):
        done.append(image.shape)
        if len(done) == 3:
            raise KeyboardInterrupt
        return call(self, image, seed, label)

    monkeypatch.setattr(upscaler.Upscaler, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        upscale.upscale(larger, str(pictures), tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2
    upscale.upscale(larger, str(pictures), tmp_path / "out")
    assert len(done) == 6  # 2, the stopped one, and 3 that were left
    os.utime(pictures / "grey.png")
    upscale.upscale(larger, str(pictures), tmp_path / "out")
    assert len(done) == 6
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(pictures / "grey.png")  # another picture of the same name
    upscale.upscale(larger, str(pictures), tmp_path / "out")
    assert len(done) == 7
    upscale.upscale(larger, str(pictures), tmp_path / "out", seed=1)  # other settings: all of them again
    assert len(done) == 12
    upscale.upscale(larger, str(pictures), tmp_path / "out", seed=1)
    assert len(done) == 12


def test_nothing_of_anybody_else_is_overwritten(larger, pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "grey.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"grey\.png is there already, and not overwritten"):
        upscale.upscale(larger, str(pictures), out)
    assert content(out) == {"grey.png": b"mine"}
    (out / "grey.png").unlink()
    (out / "upscaled.jsonl").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"upscaled\.jsonl is not what this program writes"):
        upscale.upscale(larger, str(pictures), out)
    assert content(out) == {"upscaled.jsonl": b'{"mine": 1}'}


def test_what_cannot_be_done_is_said(larger, run_dir, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no")
    for folder, words in (
        ("nowhere", "no such folder"),
        ("empty", "no picture in it"),
        ("bad", "none of its 1 files"),
    ):
        with pytest.raises(UserError, match=words):
            upscale.upscale(larger, str(tmp_path / folder), tmp_path / "out")
    with pytest.raises(UserError, match="this run draws from noise alone"):
        upscale.upscale(load_run(run_dir), str(pictures), tmp_path / "out")


def test_what_it_wrote_is_no_picture_to_enlarge_and_no_two_pictures_get_one_name(larger, tmp_path):
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    (folder / "x.png").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "a.png.jpg", "x.jpg", "x.png/y.png"):
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(folder / name)
    for _ in range(2):
        upscale.upscale(larger, str(folder), folder / "large")
        large = sorted(str(path.relative_to(folder / "large")) for path in (folder / "large").rglob("*.png"))
        files = [name for name in large if (folder / "large" / name).is_file()]
        assert files == ["a.jpg.png", "a.png.jpg.png", "a.png.png", "x.jpg.png", "x.png/y.png.png"]
    with pytest.raises(UserError, match="the folder of the pictures themselves"):
        upscale.upscale(larger, str(folder), folder)


def test_a_file_that_somebody_has_put_in_the_place_of_a_result_stays(larger, pictures, tmp_path):
    out = upscale.upscale(larger, str(pictures), tmp_path / "out")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(out / "grey.png")
    with pytest.raises(UserError, match=r"grey\.png is there already"):
        upscale.upscale(larger, str(pictures), out, seed=1)
    assert Image.open(out / "grey.png").size == (3, 3)


def test_killed_before_a_picture_of_other_settings_is_written_it_makes_it_again(
    larger, pictures, tmp_path, monkeypatch
):
    out = upscale.upscale(larger, str(pictures), tmp_path / "out")

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(upscale.atomic_files, "atomic_write", killed)
        upscale.upscale(larger, str(pictures), out, seed=1)
    upscale.upscale(larger, str(pictures), out, seed=1)
    assert (
        content(out)["a.b.png"] == content(upscale.upscale(larger, str(pictures), tmp_path / "new", seed=1))["a.b.png"]
    )
