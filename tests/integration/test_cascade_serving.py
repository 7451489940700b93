"""A pipeline and a run that enlarges in one SavedModel each, as a program without Python asks them."""

import dataclasses
import io
import shutil
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from export import cascade_comparison, check, encoded, saved_model
from tests.support.served import Served, decoded, grey
from tests.support.tiny import make_tiny_config
from tf_ddpm import build
from tf_ddpm.config import plans
from tf_ddpm.errors import UserError
from tf_ddpm.runs import pipelines
from tf_ddpm.sampling.guide import OpenGuide
from tf_ddpm.sampling.pipeline import Pipeline, open_pipeline
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.upscaler import Upscaler
from tf_ddpm.training import loop

MAX_BATCH, MAX_PIXELS = 8, 128 * 128

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to build the program that serves")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Digits in colour: 4x4 by class, enlarged to 8x8 by a network of two levels."""
    folder = tmp_path_factory.mktemp("cascade")
    common = {"sample__sampler": "ddim", "sample__steps": 3, "train__preview_images": 4, "data__channels": 3}
    classes = {"model__classes": 10, "model__null_class": True, "train__label_dropout": 0.1}
    loop.run(make_tiny_config(data__image_size=(4, 4), **classes, **common), folder / "base")
    larger = {"model__condition": "low_res", "model__factor": 2, "train__crop": 4, "model__multipliers": (1, 2)}
    loop.run(make_tiny_config(**larger, **common), folder / "larger")
    return open_pipeline(pipelines.find(f"{folder / 'base'},{folder / 'larger'}"))


@pytest.fixture(scope="module")
def served(pipeline, program, tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    wanted = plans.parse_staged("ddim-3,ddpm-4+ddim-2", [run.config for run in pipeline.runs])
    version = saved_model.export_pipeline(pipeline, path / "ddpm", wanted, MAX_BATCH, max_pixels=MAX_PIXELS)
    with Served(pipeline, version, program, path / "exchange") as served:
        yield served


def png(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **{"format": "PNG"} | options)
    return buffer.getvalue()


def given(rows, **inputs):
    seeds = np.arange(rows, dtype=np.int64)
    return inputs | {"augmentation": np.zeros(rows, np.float32), "seed": seeds} | classes(rows)


def classes(rows, label=3):
    return {"label": np.full(rows, label, np.int32), "guidance": np.ones(rows, np.float32)}


def image(*shape):
    return np.random.default_rng(list(shape)).integers(0, 256, (*shape, 3), np.uint8)


def test_all_stages_are_drawn_as_in_python_alone_and_together(served, pipeline):
    seeds, labels = np.arange(5), np.full(5, 3)
    known = np.concatenate([images for images, _ in pipeline.batches(seeds, labels)])
    small = pipeline.runs[0].sample(range(5), label=3)
    inputs = {"seed": seeds, **classes(5)}
    one = {name: value[2:3] for name, value in inputs.items()}
    names = ["serving_default", "ddim_3", "png", "base"]
    answers = served.ask(*[(name, inputs) for name in names], ("serving_default", one), ("png", one))
    default, plan, pngs, base, alone, png_alone = answers
    assert grey(default["image"], known) <= 1 and grey(plan["image"], default["image"]) == 0
    assert grey(base["image"], small) <= 1 and base["image"].shape == (5, 4, 4, 3)
    assert grey([decoded(row) for row in pngs["png_bytes"]], known) <= 1
    assert grey(alone["image"], default["image"][2:3]) == 0
    assert grey(decoded(png_alone["png_bytes"][0]), decoded(pngs["png_bytes"][2])) == 0
    np.testing.assert_array_equal(default["seed"], seeds)


def test_each_stage_takes_its_own_plan(served, pipeline):
    parts = plans.parse_staged("ddpm-4+ddim-2", [run.config for run in pipeline.runs])[0].stages
    runs = [
        Run(dataclasses.replace(run.config, sample=part.sample), run.network, run.checkpoint_step)
        for run, part in zip(pipeline.runs, parts, strict=True)
    ]
    known = np.concatenate([images for images, _ in Pipeline(runs).batches(np.arange(3), np.full(3, 3))])
    (answer,) = served.ask(("ddpm_4_ddim_2", {"seed": np.arange(3), **classes(3)}))
    assert grey(answer["image"], known) <= 1


def test_images_of_any_size_and_a_bad_one_asked_at_once_are_each_answered_right(served, pipeline):
    enlarge = Upscaler(pipeline.runs[-1])
    wide, squares = image(1, 24, 40), image(3, 32, 32)
    files = [png(image(6, 9)), png(image(7, 5), format="JPEG", quality=95), png(image(5, 5)[..., 0])]
    requests = [
        ("upscale", given(1, image=wide)),
        ("upscale", given(3, image=squares)),
        ("upscale_bytes", given(1, encoded=np.array([b"no picture"], object))),
        ("upscale_bytes", given(3, encoded=np.array(files, object))),
        ("upscale_bytes", given(1, encoded=np.array([png(image(9, 9))[:-30]], object))),
    ] * 4
    answers, _ = served.ask_at_once(requests, 8)
    for i in range(0, len(requests), 5):
        one, three, bad, mixed, cut = answers[i : i + 5]
        assert grey(one["image"][0], enlarge(wide[0], 0)) <= 1 and one["image"].shape == (1, 48, 80, 3)
        assert all(grey(three["image"][row], enlarge(squares[row], row)) <= 1 for row in range(3))
        assert "expected PNG or JPEG, got other bytes in row" in bad
        sizes = [decoded(row).shape for row in mixed["png_bytes"]]
        assert sizes == [(12, 18, 3), (14, 10, 3), (10, 10, 3)]
        assert grey(decoded(mixed["png_bytes"][0]), enlarge(image(6, 9), 0)) <= 1
        jpeg = np.array(Image.open(io.BytesIO(files[1])))  # decoded as Pillow does it, to the last bit
        assert grey(decoded(mixed["png_bytes"][1]), enlarge(jpeg, 1)) <= 1
        assert isinstance(cut, str) and "INVALID_ARGUMENT" in cut.upper().replace(" ", "_")


def test_augmentation_0_is_the_clean_path_and_more_changes_what_is_drawn(served):
    inputs = given(2, image=image(2, 6, 6))
    noisy = inputs | {"augmentation": np.array([0.0, 300.0], np.float32)}
    clean, mixed = served.ask(("upscale", inputs), ("upscale", noisy))
    assert grey(clean["image"][0], mixed["image"][0]) == 0 and grey(clean["image"][1], mixed["image"][1]) > 0


def bomb(side=100_000):
    """A PNG that says it is so large, and is short."""
    chunk = lambda kind, data: (  # noqa: E731
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def animation():
    frames = [Image.fromarray(image(6, 6)), Image.fromarray(image(6, 7)[:, :6])]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("signature", "changed", "words"),
    [
        ("upscale_bytes", {"encoded": [bomb()]}, "expected at most 4096 pixels in a request"),
        ("upscale_bytes", {"encoded": [animation()]}, "expected still pictures, got an animation in row"),
        ("upscale_bytes", {"encoded": [png(image(64, 65))]}, "expected at most 4096 pixels in a request"),
        ("upscale_bytes", {"encoded": [b""]}, "expected PNG or JPEG"),
        ("upscale_bytes", {"encoded": [b"\x89PNG\r\n\x1a\n"]}, "expected PNG or JPEG"),
        ("upscale_bytes", {"encoded": [b"GIF89a" + bytes(40)]}, "expected PNG or JPEG"),
        ("upscale_bytes", {"encoded": [bomb(2**31 - 1)]}, "expected at most 4096 pixels in a request"),
        ("upscale", {"image": image(1, 64, 65)}, "expected at most 4096 pixels in a request"),
        ("upscale", {"image": image(1, 0, 5)}, r"image: expected the shape [B, h, w, 3], got"),
        ("upscale", {"image": image(1, 4, 5)[..., :1]}, r"image: expected the shape [B, h, w, 3], got"),
        ("upscale", {"image": image(2, 4, 5)}, "expected as many rows of each input"),
        ("upscale", {"augmentation": np.array([301.0], np.float32)}, "augmentation: expected 0 to 300"),
        ("upscale", {"augmentation": np.array([np.nan], np.float32)}, "augmentation: expected 0 to 300"),
        ("upscale", {"label": np.array([10], np.int32)}, "label: expected -1 to 9"),
    ],
)
def test_what_is_not_legal_is_said_and_the_model_goes_on(served, signature, changed, words):
    inputs = given(1, image=image(1, 4, 4)) if signature == "upscale" else given(1)
    changed = {name: np.array(value, object) if name == "encoded" else value for name, value in changed.items()}
    refused, right = served.ask((signature, inputs | changed), ("upscale", given(1, image=image(1, 4, 4))))
    assert isinstance(refused, str) and words in refused, refused
    assert right["image"].shape == (1, 8, 8, 3)


def test_transparency_becomes_white_and_other_pngs_are_read_as_pillow_reads_them(served):
    clear = np.dstack([image(6, 6), np.zeros((6, 6), np.uint8)])
    palette = Image.fromarray(image(6, 6)).quantize(16)
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG")
    about = PngImagePlugin.PngInfo()
    about.add_text("Comment", "of acTL, tRNS and IDAT chunks")
    files = [png(clear), buffer.getvalue(), png(image(6, 6), pnginfo=about)]
    pixels = np.stack([np.full((6, 6, 3), 255, np.uint8), np.array(palette.convert("RGB")), image(6, 6)])
    requests = [given(3, encoded=np.array(files, object)), given(3, image=pixels)]
    answer, plain = served.ask(*zip(("upscale_bytes", "upscale"), requests, strict=True))
    assert grey([decoded(row) for row in answer["png_bytes"]], plain["image"]) <= 1


def test_the_check_passes_and_the_facts_are_told(served, monkeypatch, capsys):
    import sys

    kept = dict(sys.modules)
    try:
        assert check.main(["check", str(served.version.parent)]) == 0
    finally:
        sys.modules.update({name: kept[name] for name in ("tf_ddpm", "keras")})
    shown = capsys.readouterr().out
    assert "fit to serve" in shown and "upscale_bytes" in shown
    info = served.info
    assert info["plans"]["ddpm_4_ddim_2"][1] == {"sampler": "ddim", "steps": 2, "eta": 0.0}
    assert info["enlarging"] == {"factor": 2, "augmentation": 300, "unit": 1, "max_pixels": MAX_PIXELS}
    assert [stage["image_shape"] for stage in info["stages"]] == [[4, 4, 3], [8, 8, 3]]


def test_a_run_that_enlarges_is_exported_alone(pipeline, program, tmp_path):
    larger = pipeline.runs[-1]
    version = saved_model.export_run(larger, tmp_path / "ddpm", None, MAX_BATCH)
    with Served(larger, version, program, tmp_path / "exchange") as alone:
        inputs = {"image": image(2, 5, 6), "augmentation": np.zeros(2, np.float32), "seed": np.arange(2)}
        default, named = alone.ask(("serving_default", inputs), ("upscale", inputs))
        assert grey(default["image"], named["image"]) == 0
        assert grey(default["image"][1], Upscaler(larger)(image(2, 5, 6)[1], 1)) <= 1
        assert set(alone.info["signatures"]) == {"serving_default", "upscale", "upscale_bytes"}
    with pytest.raises(UserError, match="with one plan"):
        two = plans.parse("ddim-2,ddim-3", larger.config)
        saved_model.export_run(larger, tmp_path / "ddpm", two, MAX_BATCH)


def test_the_sum_of_sizes_cannot_overflow_and_sides_count_as_the_network_sees_them():
    def checked(files, most, unit):
        @tf.function(autograph=False)
        def size(files):
            with tf.control_dependencies(encoded.checked(files, most, unit)):
                return tf.size(files)

        return size(tf.constant(files))

    with pytest.raises(tf.errors.InvalidArgumentError, match="expected at most"):
        checked([bomb(2**31 - 1)] * 64, (2**31 - 1) // 4, 1)
    thin = png(image(1, 100))
    assert checked([thin], 832, 8) == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected at most 831 pixels"):
        checked([thin], 831, 8)  # 8 x 104


def test_no_class_is_asked_of_a_pipeline_only_if_all_of_its_stages_know_it(pipeline):
    base, larger = (run.config.model for run in pipeline.runs)
    assert base.null_class and not larger.classes
    module = saved_model.CascadeModule(pipeline.runs, True, default_plans(pipeline), 4, MAX_PIXELS, 0.01)
    assert module.limits.ranges()["label"] == (-1, 9) and "guidance" in module.limits.specs()
    model = dataclasses.replace(larger, classes=10)
    config = dataclasses.replace(pipeline.runs[1].config, model=model)
    both = [pipeline.runs[0], Run(config, build.network(config, "float32"), 0)]
    module = saved_model.CascadeModule(both, True, default_plans(pipeline), 4, MAX_PIXELS, 0.01)
    assert module.limits.ranges()["label"] == (0, 9) and "guidance" not in module.limits.specs()


def test_a_stage_with_a_guide_keeps_its_own_weight_and_no_caller_sends_it(pipeline):
    base, larger = pipeline.runs
    config = dataclasses.replace(base.config, sample=dataclasses.replace(base.config.sample, guidance=2.0))
    guided = Run(config, base.network, 8, guide=OpenGuide(base.config, base.network, 4, "its weights"))
    module = saved_model.CascadeModule([guided, larger], True, default_plans(pipeline), 4, MAX_PIXELS, 0.01)
    assert not module.limits.takes_guidance
    for run, own in ((guided, 2.0), (base, 1.0)):
        used = cascade_comparison._used(run, config.sample, None, sent=True)
        assert used.guide is run.guide and used.config.sample.guidance == own


def default_plans(pipeline):
    return plans.parse_staged("ddim-2", [run.config for run in pipeline.runs])


def test_an_export_of_one_row_at_a_time_is_made_and_one_that_could_enlarge_nothing_is_refused(pipeline, tmp_path):
    larger = pipeline.runs[-1]
    version = saved_model.export_run(larger, tmp_path / "ddpm", None, 1, max_pixels=64)
    assert (version / "saved_model.pb").is_file()
    with pytest.raises(UserError, match="max_pixels=63: one image of this run has 64 pixels"):
        saved_model.export_run(larger, tmp_path / "ddpm", None, 1, max_pixels=63)
