"""Imported networks against PyTorch's: outputs, gradients, files."""

import json

import numpy as np
import pytest
import tensorflow as tf
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from tests.support.gaussian import denoiser_of
from tests.support.old_names import old_names
from tests.support.tiny import make_tiny_config
from tf_ddpm import build
from tf_ddpm.diffusers_format import folders, reading, tensors
from tf_ddpm.diffusion import objectives
from tf_ddpm.errors import UserError
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

torch.set_num_threads(2)

HO_32 = {  # google/ddpm-cifar10-32, config.json
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
HO_256 = HO_32 | {  # google/ddpm-celebahq-256 and ddpm-church-256
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "sample_size": 256,
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
}
HO_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}


def peer(config, seed=0):
    """Their network with random weights, none of them zero."""
    torch.manual_seed(seed)
    network = UNet2DModel(**{key: value for key, value in config.items() if not key.startswith("_")})
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # a bias, or a norm's weight
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


def imported(folder):
    """Our network with the weights of the folder, and its configuration."""
    config = reading.read_config(folder)
    network = build.network(config, "float32")
    tensors.assign(network, reading.read_weights(folder))
    return network, config


def inputs(config, size=None):
    rng = np.random.default_rng(1)
    height, width = size or config.data.image_size
    x = rng.normal(size=(3, height, width, config.data.channels)).astype(np.float32)
    t = np.array([0, 421, 999])
    label = rng.integers(0, config.model.classes, 3) if config.model.classes else None
    return x, t, label


def outputs(ours, theirs, config, size=None):
    x, t, label = inputs(config, size)
    with torch.no_grad():
        labels = None if label is None else torch.tensor(label)
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t), class_labels=labels).sample
    return np.array(ours(x, t, label=label)), expected.numpy().transpose(0, 2, 3, 1)


def error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def random_config(seed):
    """A network drawn from the options that DDPM checkpoints use."""
    rng = np.random.default_rng(seed)
    levels, channels = int(rng.integers(1, 5)), int(rng.choice([1, 3, 4]))
    groups = int(rng.choice([2, 4, 8]))
    widths = [int(groups * rng.choice([2, 4, 6, 8])) for _ in range(levels)]
    factor = 2 ** (levels - 1)
    sides = [int(factor * rng.integers(1, 4) * 2) for _ in range(2)]
    settings = {
        "sample_size": sides[0] if rng.random() < 0.4 else sides,
        "in_channels": channels,
        "out_channels": channels * int(rng.choice([1, 2])),
        "time_embedding_dim": int(rng.choice([24, 40])) if rng.random() < 0.3 else None,
        "freq_shift": int(rng.integers(0, 2)),
        "flip_sin_to_cos": bool(rng.integers(0, 2)),
        "down_block_types": [str(rng.choice(["DownBlock2D", "AttnDownBlock2D"])) for _ in widths],
        "up_block_types": [str(rng.choice(["UpBlock2D", "AttnUpBlock2D"])) for _ in widths],
        "mid_block_type": None if rng.random() < 0.15 else "UNetMidBlock2D",
        "block_out_channels": widths,
        "layers_per_block": int(rng.integers(1, 4)),
        "downsample_padding": int(rng.integers(0, 2)),
        "attention_head_dim": [None, groups, 2 * groups][rng.integers(0, 3)],
        "norm_num_groups": groups,
        "attn_norm_num_groups": 2 if rng.random() < 0.3 else None,
        "norm_eps": float(rng.choice([1e-5, 1e-6, 1e-3])),
        "resnet_time_scale_shift": str(rng.choice(["default", "scale_shift"])),
        "add_attention": bool(rng.random() < 0.8),
        "num_class_embeds": 7 if rng.random() < 0.5 else None,
        "dropout": 0.1,
    }
    kind = str(rng.choice(["conv", "resnet"]))
    settings |= {"downsample_type": kind, "upsample_type": kind}
    if kind == "resnet":
        words = {"DownBlock2D": "ResnetDownsampleBlock2D", "UpBlock2D": "ResnetUpsampleBlock2D"}
        for name in ("down_block_types", "up_block_types"):
            settings[name] = [words.get(block, block) for block in settings[name]]
    return settings


@pytest.mark.parametrize("seed", range(12))
def test_a_random_networks_output_is_pytorchs(seed, tmp_path):
    settings = random_config(seed)
    theirs = peer(settings, seed)
    theirs.save_pretrained(tmp_path)
    if settings["out_channels"] != settings["in_channels"]:
        chain = HO_SCHEDULER | {"variance_type": "learned_range"}
        (tmp_path / "scheduler_config.json").write_text(json.dumps(chain))
    network, config = imported(tmp_path)
    ours, expected = outputs(network, theirs, config)
    assert error(ours, expected) < 2e-5
    assert sum(int(np.prod(w.shape)) for w in network.weights) == theirs.num_parameters()
    back = tensors.to_arrays(network)
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(back[name], value.numpy())


def test_the_random_networks_differ_in_every_option():
    drawn = [random_config(seed) for seed in range(12)]
    for name in drawn[0]:
        if name not in ("dropout",):
            assert len({json.dumps(config[name]) for config in drawn}) > 1, name


def test_a_training_gradient_is_pytorchs():
    settings = random_config(0) | {"out_channels": 3, "in_channels": 3, "dropout": 0.0}
    theirs = peer(settings)
    config = make_tiny_config(diffusion__timesteps=1000, diffusion__schedule="linear")
    chain = build.chain(config.diffusion)
    from tf_ddpm import config as config_lib
    from tf_ddpm.diffusers_format import unet_words

    config = config_lib.with_values(config, unet_words.model_words(settings))
    network = build.network(config, "float32")
    tensors.assign(network, {name: value.numpy() for name, value in theirs.state_dict().items()})
    x_0, t, label = inputs(config)
    eps = np.random.default_rng(2).normal(size=x_0.shape).astype(np.float32)

    with tf.GradientTape() as tape:
        denoiser = denoiser_of(lambda x, level: network(x, level.time, label=label))
        level = chain.levels.at(tf.constant(t), tf.constant(x_0))
        losses = objectives.simple_loss(denoiser, tf.constant(x_0), level, tf.constant(eps))
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, network.trainable_variables)

    to_torch = lambda a: torch.tensor(a.transpose(0, 3, 1, 2))  # noqa: E731
    x_t = DDPMScheduler().add_noise(to_torch(x_0), to_torch(eps), torch.tensor(t))
    labels = None if label is None else torch.tensor(label)
    output = theirs(x_t, torch.tensor(t), class_labels=labels).sample
    torch.nn.functional.mse_loss(output, to_torch(eps)).backward()

    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        variable.assign(tf.convert_to_tensor(gradient))  # the mapping of weights is that of their gradients
    ours = tensors.to_arrays(network)
    whole = np.sqrt(sum(float((p.grad**2).sum()) for p in theirs.parameters()))
    for name, parameter in theirs.named_parameters():
        expected = parameter.grad.numpy()
        # A key's bias has no gradient but rounding: it is held against the whole.
        assert np.linalg.norm(ours[name] - expected) < 1e-4 * max(np.linalg.norm(expected), 1e-3 * whole), name


def test_the_layout_of_ddpm_cifar10_32_loads_flat_with_old_names_and_bin(tmp_path):
    theirs = peer(HO_32)
    torch.save(old_names(theirs.state_dict()), tmp_path / "diffusion_pytorch_model.bin")
    for name, content in (
        ("config.json", HO_32),
        ("scheduler_config.json", HO_SCHEDULER),
        ("model_index.json", {"_class_name": "DDPMPipeline"}),
    ):
        (tmp_path / name).write_text(json.dumps(content))
    network, config = imported(tmp_path)
    assert config.diffusion.variance == "fixed_large" and config.sample.clip == "static"
    ours, expected = outputs(network, theirs, config)
    assert error(ours, expected) < 2e-5
    assert sum(int(np.prod(w.shape)) for w in network.weights) == 35_746_307


@pytest.mark.parametrize("name", ["celebahq", "church"])
def test_the_layouts_of_ddpm_celebahq_256_and_church_256_load(name, tmp_path):
    theirs = peer(HO_256)
    pipeline = DDPMPipeline(theirs, DDPMScheduler(variance_type="fixed_small"))
    if name == "celebahq":
        pipeline.save_pretrained(tmp_path)  # unet/ and scheduler/
        folder = tmp_path
    else:  # the network's folder alone, its scheduler beside it
        pipeline.save_pretrained(tmp_path)
        folder = tmp_path / "unet"
    network, config = imported(folder)
    assert config.diffusion.variance == "fixed_small" and config.data.image_size == (256, 256)
    ours, expected = outputs(network, theirs, config, size=(64, 32))
    assert error(ours, expected) < 2e-5
    assert sum(int(np.prod(w.shape)) for w in network.weights) == 113_673_219


def test_half_precision_weights_are_read(tmp_path):
    theirs = peer(random_config(3)).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, variant="bf16")
    arrays = reading.read_weights(tmp_path)
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(arrays[name], value.float().numpy())


def test_a_trained_run_goes_to_diffusers_and_comes_back_bit_equal(run_dir, tmp_path):
    run = load_run(run_dir)
    folders.export_run(run, tmp_path / "out")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 8, 8, 1) and np.all(np.isfinite(images)) and np.ptp(images) > 0.1
    ours, expected = outputs(run.network, pipeline.unet.eval(), run.config)
    assert error(ours, expected) < 2e-5
    np.testing.assert_allclose(pipeline.scheduler.alphas_cumprod.numpy(), run.chain.alpha_bar, rtol=2e-5)

    # Through their own saving, which knows nothing of ours.
    pipeline.save_pretrained(tmp_path / "theirs")
    for name in ("out", "theirs"):
        config = reading.read_config(tmp_path / name)
        back = load_run(folders.import_run(tmp_path / name, config, tmp_path / f"run-{name}"))
        for a, b in zip(run.network.weights, back.network.weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        np.testing.assert_array_equal(back.sample(range(2)), run.sample(range(2)))


@pytest.mark.parametrize("variant", sorted(folders.VARIANTS))
def test_diffusers_reads_weights_of_half_the_size_as_we_do(run_dir, tmp_path, variant):
    run = load_run(run_dir)
    folders.export_run(run, tmp_path / "out", variant)
    theirs = UNet2DModel.from_pretrained(tmp_path / "out" / "unet", variant=variant).eval()
    back = load_run(folders.import_run(tmp_path / "out", reading.read_config(tmp_path / "out"), tmp_path / "run"))
    ours, expected = outputs(back.network, theirs, run.config)
    assert error(ours, expected) < 2e-5


def test_improved_ddpm_runs_in_diffusers(tmp_path):
    config = make_tiny_config(
        model__injection="scale_shift",
        model__heads=2,
        model__multipliers=(1, 1),
        model__classes=10,
        model__null_class=True,
        model__norm_epsilon=1e-5,
        model__downsample_padding="symmetric",
        diffusion__variance="learned_range",
        train__objective="hybrid",
        train__label_dropout=0.1,
    )
    loop.run(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    folders.export_run(run, tmp_path / "out")
    theirs = UNet2DModel.from_pretrained(tmp_path / "out" / "unet").eval()
    ours, expected = outputs(run.network, theirs, run.config)
    assert error(ours, expected) < 2e-5
    scheduler = DDPMScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    assert scheduler.config.variance_type == "learned_range"
    back = reading.read_config(tmp_path / "out")
    assert back.model.null_class and back.model.classes == 10


def test_a_pickle_with_code_in_it_is_refused_and_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    settings = random_config(0)
    peer(settings).save_config(tmp_path)
    torch.save({"conv_in.weight": Evil()}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="as weights alone"):
        reading.read_weights(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_ddim_pipelines_words_are_kept(tmp_path):
    peer(random_config(3) | {"out_channels": 3, "in_channels": 3}).save_pretrained(tmp_path / "unet")
    DDIMScheduler(timestep_spacing="trailing", prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    config = reading.read_config(tmp_path)
    assert (config.sample.sampler, config.sample.spacing, config.diffusion.prediction) == ("ddim", "trailing", "v")
