"""To and from folders of diffusers, without PyTorch. The numbers are compared in test_peers_networks.py."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.tiny import DENOISERS, TWO_LEVELS, denoiser_preset, make_tiny_config
from tf_ddpm import config as config_lib
from tf_ddpm.config import students
from tf_ddpm.diffusers_format import folders, reading, scheduler_words, unet_words
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate
from tf_ddpm.runs import configuration
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A tiny run whose network has levels and an attention."""
    path = tmp_path_factory.mktemp("runs") / "levels"
    loop.run(make_tiny_config(**TWO_LEVELS), path)
    return path


@pytest.fixture(scope="module")
def folder(run_dir, tmp_path_factory):
    """The tiny run as a pipeline of diffusers, without our own words."""
    target = tmp_path_factory.mktemp("diffusers") / "pipeline"
    folders.export_run(load_run(run_dir), target)
    (target / reading.OURS).unlink()
    return target


@pytest.fixture
def copy(folder, tmp_path):
    """A copy to spoil."""
    import shutil

    return shutil.copytree(folder, tmp_path / "copy")


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("preset", DENOISERS)
def test_every_presets_network_and_chain_survive_the_words_of_diffusers(preset):
    config = denoiser_preset(preset, data__image_size=(256, 256), data__channels=3, data__path="pictures")
    if config.model.enlarges:
        with pytest.raises(UserError, match="no pipeline for a run that enlarges"):
            unet_words.unet_config(config)
        return
    if preset == "ldm_churches256":  # eight heads at every level
        with pytest.raises(UserError, match=r"no word for model\.heads=8 at levels of \[192, 384, 768\] channels"):
            unet_words.unet_config(config)
        return
    unet, scheduler = unet_words.unet_config(config), scheduler_words.scheduler_config(config)
    values = unet_words.model_words(unet) | scheduler_words.chain_words(scheduler, config.diffusion.learned_variance)
    values["train.label_dropout"] = 0.0
    back = config_lib.validated(config_lib.with_values(config, values))
    assert back.diffusion == config.diffusion and back.model.level_widths == config.model.level_widths
    without_null = config_lib.with_values(
        config,
        {
            "model.null_class": False,
            "model.classes": config.model.classes + config.model.null_class,
            "train.label_dropout": 0.0,
        },
    )
    ours, theirs = (wiring(shrunk(each)) for each in (without_null, back))
    attended = {"cifar10_iddpm": 256 // 4, "ldm_celebahq256": 32}.get(preset)
    assert theirs.pop("head_channels") == (attended and attended // 16)
    assert ours.pop("head_channels") == (2 if preset == "ldm_celebahq256" else None)
    assert {**theirs, "heads": ours["heads"]} == ours


def wiring(config):
    """The network of a configuration, however its keys say it."""
    model = config.model
    said = {"widths": model.level_widths, "time_width": model.time_width or 4 * model.channels}
    said["up_attention_levels"] = model.up_attention_levels or model.attention_levels
    said["middle_groups"] = model.groups if model.middle_groups is None else model.middle_groups
    return dataclasses.asdict(dataclasses.replace(model, multipliers=(), **said))


def shrunk(config):
    """The same wiring with few channels."""
    model = config.model
    heads = None if model.head_channels is None else model.head_channels // 16
    changes = {"model.channels": model.channels // 16 * 2, "model.groups": 2, "model.head_channels": heads}
    if model.channels >= 128:
        changes["model.channels"] = model.channels // 16
    if model.middle_groups:
        changes["model.middle_groups"] = 2
    return config_lib.with_values(config, changes | {"train.label_dropout": 0.0})


def test_an_imported_run_samples_evaluates_exports_and_trains_on(folder, run_dir, tmp_path):
    from export import saved_model

    config = reading.read_config(folder)
    target = folders.import_run(folder, config, tmp_path / "run")
    run, origin = load_run(target), load_run(run_dir)
    assert run.checkpoint_step == 0 and run.config.data.name is None
    np.testing.assert_array_equal(run.sample(range(3)), origin.sample(range(3)))
    assert (saved_model.export_run(run, tmp_path / "serving") / "saved_model.pb").exists()

    wanted, figures = evaluate.EvaluationRequest(("bpd",), num_images=4), []
    with pytest.raises(UserError, match=r"data\.name"):
        evaluate.evaluate(wanted, run.config, str(target), tmp_path / "metrics.json")
    for place, one in ((target, run), (run_dir, origin)):
        config = configuration.used(one.config, ["data.name=digits"], {}, measures=True)
        path = evaluate.evaluate(wanted, config, str(place), tmp_path / "metrics.json")
        figures.append(json.loads(path.read_text())["bits_per_dim"]["value"])
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)

    settings = ["data.name=digits", "train.steps=1", "train.batch_size=8", "train.optimizer=sgd"]
    wanted = configuration.training_config(target, None, settings)
    state = loop.run(wanted, target)
    assert state.updates == 1
    moved = [np.abs(a - b.numpy()).max() for a, b in zip(state.network.weights, run.network.weights, strict=True)]
    assert 0 < max(moved) < 0.1
    assert configuration.read(target).data.name == "digits"
    with pytest.raises(UserError, match="another configuration"):
        configuration.training_config(target, None, ["data.name=mnist"])


def test_the_null_class_is_told_by_our_own_words_or_by_the_user(tmp_path):
    classes = {"model__classes": 10, "model__null_class": True, "train__label_dropout": 0.1}
    loop.run(make_tiny_config(**TWO_LEVELS, **classes), tmp_path / "run")
    target = folders.export_run(load_run(tmp_path / "run"), tmp_path / "out")
    assert reading.read_config(target) == configuration.read(tmp_path / "run")
    (target / reading.OURS).unlink()
    plain, told = reading.read_config(target), reading.read_config(target, ["model.null_class=true"])
    assert (plain.model.classes, plain.model.null_class) == (11, False)
    assert (told.model.classes, told.model.null_class) == (10, True)
    with pytest.raises(UserError, match="no null class"):
        configuration.used(plain, [], {"guidance": 2.0})
    run = load_run(folders.import_run(target, told, tmp_path / "told"), guidance=2.0)
    np.testing.assert_array_equal(
        run.sample([1], label=3), load_run(tmp_path / "run").sample([1], label=3, guidance=2.0)
    )


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"act_fn": "gelu"}, "UNet2DModel act_fn='gelu'"),
        ("unet/config.json", {"center_input_sample": True}, "center_input_sample=True"),
        ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ("unet/config.json", {"down_block_types": ["SkipDownBlock2D"] * 2}, "down_block_types='SkipDownBlock2D"),
        ("unet/config.json", {"down_block_types": ["ResnetDownsampleBlock2D"] * 2}, "expected the same between all"),
        ("unet/config.json", {"up_block_types": ["UpBlock2D"]}, "up_block_types"),
        ("unet/config.json", {"cross_attention_dim": 768}, "cross_attention_dim=768"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ("unet/config.json", {"mid_block_scale_factor": 1.4}, "mid_block_scale_factor=1.4"),
        ("unet/config.json", {"sample_size": None}, "sample_size=None"),
        ("unet/config.json", {"out_channels": 5}, "out_channels=5"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "expected a UNet2DModel"),
        ("unet/config.json", {"block_out_channels": "wide"}, "block_out_channels"),
        ("unet/config.json", {"sample_size": [8, 8, 8]}, "sample_size=[8, 8, 8]"),
        ("unet/config.json", {"up_block_types": [["UpBlock2D"], 3]}, "up_block_types=3"),
        ("unet/config.json", {"dropout": "much"}, "model.dropout=much"),
        ("scheduler/scheduler_config.json", {"beta_start": -1.0}, "diffusion.beta_start=-1.0"),
        ("unet/config.json", {"downsample_padding": True}, "downsample_padding=True"),
        ("unet/config.json", {"add_attention": "no"}, "add_attention='no'"),
        ("unet/config.json", {"_class_name": "a\nb"}, "expected a UNet2DModel"),
        ("unet/config.json", {"_class_name": ["a"]}, "expected a UNet2DModel"),
        ("unet/config.json", {"_class_name": {}}, "expected a UNet2DModel"),
        ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "'vqvae'"),
        ("scheduler/scheduler_config.json", {"_class_name": ["a"]}, "_class_name=['a']"),
        ("scheduler/scheduler_config.json", {"clip_sample": "False"}, "clip_sample='False'"),
        ("unet/config.json", {"norm_num_groups": 3}, "model.groups=3"),
        ("scheduler/scheduler_config.json", {"_class_name": "PNDMScheduler"}, "PNDMScheduler"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "trained_betas"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=True"),
        ("scheduler/scheduler_config.json", {"variance_type": "learned_range"}, "variance_type='learned_range'"),
        ("scheduler/scheduler_config.json", {"thresholding": True, "sample_max_value": 2.0}, "sample_max_value=2.0"),
        ("scheduler/scheduler_config.json", {"clip_sample_range": 3.0}, "clip_sample_range=3.0"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused_by_name(copy, file, changes, message):
    edited(copy / file, **changes)
    with pytest.raises(UserError) as caught:
        reading.read_config(copy)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1, caught.value


def test_a_solver_made_from_another_scheduler_does_not_clip(copy):
    edited(copy / "scheduler/scheduler_config.json", _class_name="DPMSolverMultistepScheduler", solver_order=3)
    config = reading.read_config(copy)
    assert (config.sample.sampler, config.sample.order, config.sample.clip) == ("dpmpp", 3, "none")


def test_a_stochastic_solver_is_our_solver_with_eta_1(copy):
    solver = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}
    edited(copy / "scheduler/scheduler_config.json", **solver)
    assert reading.read_config(copy).sample.eta == 1.0
    edited(copy / "scheduler/scheduler_config.json", solver_order=3)
    with pytest.raises(UserError, match="solver_order=3"):
        reading.read_config(copy)


def test_a_network_alone_takes_its_chain_from_beside_it_or_from_the_paper(copy, monkeypatch):
    edited(copy / "scheduler/scheduler_config.json", num_train_timesteps=70)
    monkeypatch.chdir(copy / "unet")
    assert reading.read_config(".").diffusion.timesteps == 70 and not reading.notes(".", reading.read_config("."))
    (copy / "scheduler/scheduler_config.json").unlink()
    edited(copy / "unet/config.json", out_channels=2)
    config = reading.read_config(".")
    assert (config.diffusion.timesteps, config.diffusion.variance) == (1000, "learned_range")
    assert "no scheduler" in reading.notes(".", config)[0]


def test_our_own_words_that_cannot_be_read_are_one_clear_line(copy):
    (copy / reading.OURS).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=reading.OURS):
        reading.read_config(copy)


@pytest.mark.parametrize("spoil", ["missing", "extra", "shape", "nan", "truncated", "lying", "absent"])
def test_weights_that_do_not_fit_are_named_and_nothing_is_written(copy, tmp_path, spoil):
    path, config = copy / WEIGHTS, reading.read_config(copy)
    arrays = load_file(path)
    if spoil == "missing":
        arrays.pop("conv_in.bias")
    elif spoil == "extra":
        arrays["conv_in.more"] = np.zeros(3, np.float32)
    elif spoil == "shape":
        arrays["conv_in.bias"] = np.zeros(3, np.float32)
    elif spoil == "nan":
        arrays["conv_in.bias"][0] = np.nan
    save_file(arrays, path)
    content = path.read_bytes()
    if spoil == "truncated":
        path.write_bytes(content[:-100])
    elif spoil == "lying":  # a header that says it is longer than the file
        path.write_bytes((2**40).to_bytes(8, "little") + content[8:])
    elif spoil == "absent":
        path.unlink()
    word = "conv_in.more" if spoil == "extra" else "diffusion_pytorch_model" if spoil in (
        "truncated", "lying", "absent") else "conv_in.bias"  # fmt: skip
    with pytest.raises(UserError, match=word):
        folders.import_run(copy, config, tmp_path / "run")
    assert not (tmp_path / "run").exists() and [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_a_pytorch_file_without_pytorch_says_what_to_do(copy, monkeypatch):
    (copy / WEIGHTS).rename((copy / WEIGHTS).with_suffix(".bin"))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="install PyTorch"):
        reading.read_weights(copy)


def test_folders_that_are_not_free_and_places_that_are_none_are_refused(folder, run_dir, tmp_path):
    config = reading.read_config(folder)
    with pytest.raises(UserError, match="not empty"):
        folders.import_run(folder, config, run_dir)
    with pytest.raises(UserError, match="not empty"):
        folders.export_run(load_run(run_dir), run_dir)
    with pytest.raises(UserError, match="no such folder"):
        reading.read_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match="expected a unet"):
        reading.read_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model__heads": 2, "model__attention_levels": (0, 1)}, "model.heads=2"),
        ({"model__multipliers": (2, 2)}, "first level"),
        ({"model__middle_groups": 0}, "middle_groups=0"),
        ({"diffusion__variance": "learned", "train__objective": "vlb"}, "learned"),
    ],
)
def test_what_diffusers_has_no_word_for_is_refused_by_name(changes, word):
    config = make_tiny_config(data__image_size=(8, 8), data__channels=1, **TWO_LEVELS | changes)
    with pytest.raises(UserError, match=word):
        unet_words.unet_config(config), scheduler_words.scheduler_config(config)


@pytest.mark.parametrize("spacing", ["karras", "quadratic", "trailing"])
def test_a_spacing_that_diffusers_has_no_word_for_is_named_when_it_is_written(spacing):
    note = folders.export_note(make_tiny_config(sample__spacing=spacing, sample__steps=4))
    assert note is None if spacing == "trailing" else f"sample.spacing={spacing}" in note


def test_the_timesteps_of_a_consistency_student_are_told_when_it_is_written():
    teacher = make_tiny_config(diffusion__timesteps=1000, diffusion__schedule="cosine", diffusion__prediction="v")
    note = folders.export_note(students.student_of(teacher, "teacher", "consistency", []))
    assert "timesteps=[991, 432], original_inference_steps=1000" in note


def test_a_step_that_an_lcm_scheduler_does_not_make_is_refused(tmp_path):
    teacher = make_tiny_config(diffusion__timesteps=1000, diffusion__schedule="cosine", diffusion__prediction="v")
    config = students.student_of(teacher, "teacher", "consistency", ["sample.sigmas=80,1e-3"])
    assert folders.timesteps(config)[0] == 0
    with pytest.raises(UserError, match="makes no step at timestep 0"):
        scheduler_words.check_levels(config, folders.timesteps(config))
    between = {"sample.spacing": "karras", "sample.sigmas": (), "sample.sigma_min": 0.82}
    config = config_lib.validated(config_lib.with_values(config, between))
    with pytest.raises(UserError, match=r"sample\.spacing=karras visits levels between timesteps"):
        scheduler_words.check_levels(config, folders.timesteps(config))


def test_the_word_with_which_ddim_clips_as_a_progressive_student_is_told_when_it_is_written():
    teacher = make_tiny_config(diffusion__timesteps=1000, diffusion__prediction="v")
    note = folders.export_note(students.student_of(teacher, "teacher", "progressive", []))
    assert "use_clipped_model_output=True" in note


def test_the_network_that_comes_along_draws_clothes(tmp_path):
    config = reading.read_config(Path(__file__).parents[2] / "pretrained" / "fashion_mnist")
    assert config.data.name == "fashion_mnist" and config.data.data_dir is None
    target = folders.import_run(Path(__file__).parents[2] / "pretrained" / "fashion_mnist", config, tmp_path / "run")
    images = load_run(target).sample(range(4), sampler="dpmpp", steps=10).astype(float)
    # Dark corners, a bright middle, and neighbours that resemble each other: nothing that noise has.
    assert images[:, :3, :3].mean() < 30 < 80 < images[:, 10:18, 10:18].mean()
    steps = np.abs(np.diff(images, axis=2)).mean()
    assert steps < 0.5 * np.abs(images[:, :, ::-1] - np.roll(images, 1, axis=0)).mean()


@pytest.mark.parametrize(("variant", "error"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_half_the_size_is_the_same_network_within_its_rounding(run_dir, tmp_path, variant, error):
    run = load_run(run_dir)
    target = folders.export_run(run, tmp_path / variant, variant)
    (file,) = (target / "unet").glob("*.safetensors")
    assert file.name == f"{reading.WEIGHTS}.{variant}.safetensors"
    folders.import_run(target, reading.read_config(target), tmp_path / "run")
    for one, other in zip(run.network.weights, load_run(tmp_path / "run").network.weights, strict=True):
        np.testing.assert_allclose(other.numpy(), one.numpy(), rtol=error, atol=1e-7)  # fp16 has no smaller ones
    run.network.weights[0].assign(run.network.weights[0] * 0 + 1e6)
    if variant == "fp16":
        with pytest.raises(UserError, match=r"variant=fp16: .* has values that it does not hold; bf16 does"):
            folders.export_run(run, tmp_path / "large", variant)
        assert not (tmp_path / "large").exists()


@pytest.fixture
def training_output(copy):
    """What diffusers' training script leaves: checkpoints with the raw weights and their average."""
    checkpoint = copy / "checkpoint-500"
    for name, factor in (("unet", 2.0), ("unet_ema", 1.0)):
        (checkpoint / name).mkdir(parents=True)
        arrays = {key: factor * array for key, array in load_file(copy / WEIGHTS).items()}
        save_file(arrays, checkpoint / name / f"{reading.WEIGHTS}.safetensors")
        (checkpoint / name / "config.json").write_text((copy / "unet" / "config.json").read_text())
    ema = {"decay": 0.99, "min_decay": 0.0, "optimization_step": 500, "update_after_step": 0, "power": 0.75}
    edited(checkpoint / "unet_ema" / "config.json", **ema, use_ema_warmup=True, inv_gamma=1.0)
    return checkpoint


def test_of_a_training_checkpoint_the_average_is_taken_and_said(training_output, copy):
    right = reading.read_weights(copy)
    raw = {name: 2.0 * array for name, array in right.items()}
    for place, expected, words_of_note in (
        (training_output, right, "taking the average of the weights"),
        (training_output / "unet_ema", right, None),
        (training_output / "unet", raw, "taking the weights of the last update"),
    ):
        config, weights = reading.read_config(place), reading.read_weights(place)
        assert config.diffusion == reading.read_config(copy).diffusion  # the scheduler lies beside the checkpoint
        for name, array in expected.items():
            np.testing.assert_array_equal(weights[name], array)
        notes = reading.notes(place, config)
        assert (notes == []) if words_of_note is None else words_of_note in notes[0]


def test_weights_of_every_shape_of_file_are_read_or_the_cause_is_named(copy):
    path = copy / WEIGHTS
    right = load_file(path)
    path.unlink()
    save_file({f"_orig_mod.{name}": array for name, array in right.items()}, path)
    assert reading.read_weights(copy).keys() == right.keys()
    path.unlink()
    names = sorted(right)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: right[name] for name in part}, path.with_name(f"part-{i}.safetensors"))
    index = path.with_name(f"{reading.WEIGHTS}.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}}))
    for name, array in reading.read_weights(copy).items():
        np.testing.assert_array_equal(array, right[name])
    index.write_text(json.dumps({"weight_map": {"a": "../../part-0.safetensors"}}))
    with pytest.raises(UserError, match="weight_map"):
        reading.read_weights(copy)
    index.unlink()
    with pytest.raises(UserError, match=r"it holds config\.json, part-0\.safetensors"):
        reading.read_weights(copy)
    save_file(right, path.with_name(f"{reading.WEIGHTS}.non_ema.safetensors"))
    assert reading.read_weights(copy).keys() == right.keys()
    assert "non_ema" in reading.notes(copy, reading.read_config(copy))[0]


@pytest.mark.parametrize("name", [f"{reading.WEIGHTS}.safetensors", f"{reading.WEIGHTS}.bin"])
def test_a_git_lfs_pointer_is_named(copy, name):
    (copy / WEIGHTS).unlink()
    (copy / "unet" / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(UserError, match=r"Git LFS pointer.*git lfs pull"):
        reading.read_weights(copy)


def test_a_size_that_the_config_leaves_open_can_be_said(copy):
    edited(copy / "unet" / "config.json", sample_size=None)
    with pytest.raises(UserError, match=r"give it: data\.image_size=64"):
        reading.read_config(copy)
    assert reading.read_config(copy, ["data.image_size=16"]).data.image_size == (16, 16)
