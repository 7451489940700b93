"""Runs that draw one after the other: a base model and networks that enlarge."""

import dataclasses
import json

import numpy as np
import pytest

from tests.support import projection
from tests.support.tiny import make_tiny_config
from tf_ddpm import config as config_lib
from tf_ddpm.config import plans
from tf_ddpm.diffusers_format import folders
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate, sweep
from tf_ddpm.figures import catalogue
from tf_ddpm.report import page
from tf_ddpm.runs import pipelines
from tf_ddpm.sampling import generate
from tf_ddpm.sampling.pipeline import Pipeline, open_pipeline
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

QUICK = {"sampler": "ddim", "steps": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a base run of 4x4 digits by class, and one that enlarges them to 8x8."""
    folder = tmp_path_factory.mktemp("cascade")
    common = {"sample__sampler": "ddim", "sample__steps": 3, "train__preview_images": 4}
    classes = {"model__classes": 10, "model__null_class": True, "train__label_dropout": 0.1}
    loop.run(make_tiny_config(data__image_size=(4, 4), **classes, **common), folder / "base")
    larger = {"model__condition": "low_res", "model__factor": 2, "train__crop": 4, "train__blur": 0.5}
    loop.run(make_tiny_config(**larger, **common), folder / "larger")
    return folder


@pytest.fixture(scope="module")
def words(runs):
    return f"{runs / 'base'},{runs / 'larger'}"


@pytest.fixture(scope="module")
def pipeline(words):
    return open_pipeline(pipelines.find(words))


def drawn(source, seeds, **options):
    seeds = np.array(seeds)
    return np.concatenate([images for images, _ in source.batches(seeds, source.labels(seeds, None), **options)])


def test_an_image_depends_on_its_seed_alone_through_all_stages(pipeline):
    together = drawn(pipeline, range(5))
    assert together.shape == (5, 8, 8, 1) and together.dtype == np.uint8
    np.testing.assert_array_equal(drawn(pipeline, [3]), together[3:4])
    assert len(np.unique(together.reshape(5, -1), axis=0)) == 5


def test_stages_are_the_runs_one_after_the_other_so_that_a_stored_png_gives_the_same(runs, pipeline):
    base, larger = load_run(runs / "base"), load_run(runs / "larger")
    small = base.sample(range(4))
    np.testing.assert_array_equal(drawn(pipeline, range(4)), larger.sample(range(4), low_res=small))
    unrounded = Pipeline([base, larger], rounded=False)
    exact = larger.sample(range(4), low_res=base.sample(range(4), rounded=False))
    np.testing.assert_array_equal(drawn(unrounded, range(4)), exact)


def test_stages_draw_other_noise_for_the_same_seed(runs):
    base, larger = load_run(runs / "base"), load_run(runs / "larger")
    from tf_ddpm.sampling import drawing

    seeds = np.arange(200)
    noises = [drawing.image_noise(seeds, (4, 4, 1), drawing.stage_of(run.config)) for run in (base, larger)]
    one, other, again = (np.ravel(noise(count)) for noise, count in zip((*noises, noises[1]), (0, 0, -1), strict=True))
    for a, b in ((one, other), (other, again)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


def test_augmentation_changes_what_is_drawn_and_0_is_the_clean_path(runs):
    larger = load_run(runs / "larger")
    small = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    clean = larger.sample(range(3), low_res=small, **QUICK)
    np.testing.assert_array_equal(larger.sample(range(3), low_res=small, augmentation=0, **QUICK), clean)
    noisy = larger.sample(range(3), low_res=small, augmentation=300, **QUICK)
    assert np.abs(noisy.astype(int) - clean).max() > 0
    np.testing.assert_array_equal(larger.sample([2], low_res=small[2:], augmentation=300, **QUICK), noisy[2:])


def test_a_generation_says_how_each_stage_drew(pipeline, tmp_path):
    generate.generate(pipeline, tmp_path, 4, 0)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [stage["sampler"] for stage in manifest["stages"]] == ["ddim", "ddim"]
    assert manifest["pipeline"] == "base+larger" and manifest["image_shape"] == [8, 8, 1]
    assert manifest["labels"] == [0, 1, 2, 3] and (tmp_path / "grid.png").exists()


def test_of_a_run_that_enlarges_samples_are_of_its_own_pictures_beside_them(runs, tmp_path):
    from PIL import Image

    generate.generate(load_run(runs / "larger"), tmp_path, 4, 0)
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size[0] > 2.5 * grid.size[1] and len(list(tmp_path.glob("0*.png"))) == 4


def test_a_pipeline_is_found_again_by_its_file_with_its_settings(words, tmp_path):
    found = pipelines.find(words, str(tmp_path / "both"))
    first, larger = found.stages
    values = dataclasses.replace(larger.config.sample, augmentation=100, steps=2)
    chosen = dataclasses.replace(larger, config=dataclasses.replace(larger.config, sample=values))
    wanted = dataclasses.replace(found, stages=(first, chosen), rounded=False, receipts={"kid": 1})
    file = pipelines.write(wanted)
    for name in (str(file), str(file.parent), words):
        again = pipelines.find(name, str(tmp_path / "both"))
        assert [stage.config for stage in again.stages] == [stage.config for stage in wanted.stages]
        assert again.sha256 == wanted.sha256 != found.sha256 and not again.rounded and again.receipts == {"kid": 1}
    with pytest.raises(UserError, match="has its own directory"):
        pipelines.find(str(file), str(tmp_path / "another"))
    known = json.loads(file.read_text())
    deep = "[" * 100_000 + "]" * 100_000
    for wrong in ("{}", deep, json.dumps(known | {"stages": []}), json.dumps(known | {"rounded": "false"})):
        file.write_text(wrong)
        with pytest.raises(UserError, match="is no pipeline of this program"):
            pipelines.find(str(file))


def test_a_pipeline_takes_no_runs_directory_for_its_own(runs, words):
    with pytest.raises(UserError, match="is a run's own directory"):
        pipelines.find(words, str(runs / "base"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("larger,base", "larger enlarges images; the first run of a pipeline draws them"),
        ("base,base", "base draws from noise alone; .* expected one that enlarges"),
        ("base,larger,larger", "larger enlarges images of 4x4x1, and .*larger draws 8x8x1"),
        ("base,", "a name is empty"),
        ("base", r"expected runs that follow each other, BASE,LARGER, or a pipeline\.json"),
        ("base,nowhere", "no run in .*nowhere"),
    ],
)
def test_runs_that_do_not_fit_are_refused_by_name(runs, names, words):
    with pytest.raises(UserError, match=words):
        pipelines.find(",".join(str(runs / name) if name else "" for name in names.split(",")))


def test_plans_are_for_all_stages_or_one_for_each(words):
    configs = pipelines.find(words).configs
    same, each = plans.parse_staged("ddim-5,ddpm-4+dpmpp-2", configs)
    assert same.name == "ddim_5" and [plan.steps for plan in same.stages] == [5, 5]
    assert each.name == "ddpm_4_dpmpp_2" and [plan.sample.sampler for plan in each.stages] == ["ddpm", "dpmpp"]
    assert plans.parse_staged(None, configs)[0].name == "ddim_3"
    for wrong, message in (("ddim-5+ddim-5+ddim-5", "of 3 stages"), ("ddim-5,ddim-5", "listed twice"), ("x-3", "x")):
        with pytest.raises(UserError, match=message):
            plans.parse_staged(wrong, configs)


def test_enlarged_images_are_measured_beside_bilinear_ones(runs, tmp_path):
    config = load_run(runs / "larger").config
    wanted = evaluate.EvaluationRequest(("enlarging",), num_images=12)
    evaluate.evaluate(wanted, config, str(runs / "larger"), tmp_path / "metrics.json")
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["bilinear_psnr"]["value"] > figures["psnr"]["value"] > 3  # (hardly trained)
    assert figures["bilinear_consistency_psnr"]["value"] > figures["consistency_psnr"]["value"]
    assert 0 <= figures["bilinear_colour_drift"]["value"] < 2 and "ssim" not in figures  # 8x8 is below SSIM's window
    assert figures["psnr"]["receipt"]["drawn"]["enlarges"]["pictures"] == 1797
    with pytest.raises(UserError, match="draws from noise alone"):
        base = load_run(runs / "base").config
        evaluate.evaluate(wanted, base, str(runs / "base"), tmp_path / "metrics.json")


def test_bits_per_dim_of_a_run_that_enlarges_are_of_images_whose_small_one_is_known(runs, tmp_path):
    values = []
    for name in ("base", "larger"):
        wanted = evaluate.EvaluationRequest(("bpd",), num_images=4)
        evaluate.evaluate(wanted, load_run(runs / name).config, str(runs / name), tmp_path / f"{name}.json")
        values.append(json.loads((tmp_path / f"{name}.json").read_text())["bits_per_dim"])
    assert [value["receipt"]["given"] for value in values] == [None, "the image made smaller, without noise"]
    assert all(0 < value["value"] < 50 for value in values)


def test_the_best_augmentation_is_kept_in_the_pipeline_with_its_receipt(words, tmp_path, monkeypatch):
    projection.take_its_place(monkeypatch.setattr)
    found = pipelines.find(words, str(tmp_path / "both"))
    pipelines.write(found)
    config = config_lib.with_values(found.stages[-1].config, {"data.cache_dir": str(tmp_path / "cache")})
    wanted = evaluate.EvaluationRequest(("fid", "kid"), num_images=20, allow_few=True)
    path = sweep.sweep(wanted, config, str(found.directory), "augmentation:0,300", found)
    rows = json.loads(path.read_text())
    stages = [rows[point]["kid"]["receipt"]["generated"]["stages"] for point in ("0", "300")]
    assert [(base["augmentation"], larger["augmentation"]) for base, larger in stages] == [(0, 0), (0, 300)]
    best = min(rows, key=lambda point: rows[point]["kid"]["value"])
    kept = pipelines.find(str(tmp_path / "both"))
    assert kept.stages[-1].config.sample.augmentation == int(best)
    receipt = kept.receipts["augmentation"]
    assert receipt["chosen_by"] == "kid" and receipt["measured"].keys() == {"0", "300"}
    with pytest.raises(UserError, match="augmentation 301: this run was trained with up to 300"):
        sweep.sweep(wanted, config, str(found.directory), "augmentation:0,301", found)


def test_its_figures_and_report_are_those_of_a_run_that_enlarges(runs, tmp_path, capsys):
    context = catalogue.FigureContext(load_run(runs / "larger"), tmp_path, num_images=2)
    drawn = {path.stem for path in catalogue.draw("all", context)}
    assert drawn == {"schedules", "forward", "coding", "bound", "cascade"}
    assert "samples is of a run that draws from noise alone" in capsys.readouterr().out
    with pytest.raises(UserError, match="cascade is of a run that enlarges"):
        catalogue.draw("cascade", catalogue.FigureContext(load_run(runs / "base"), tmp_path))
    assert page.write_report(load_run(runs / "larger"), tmp_path).stat().st_size > 1e6


def test_a_run_that_enlarges_has_no_form_in_diffusers_and_that_is_said(runs, tmp_path):
    with pytest.raises(UserError, match="diffusers has no pipeline for a run that enlarges"):
        folders.export_run(load_run(runs / "larger"), tmp_path / "out")
    assert not list(tmp_path.iterdir())
