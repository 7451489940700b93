"""Images from a run and seeds."""

import numpy as np
import pytest
import tensorflow as tf

import tf_ddpm
from tests.support.small_networks import randomised, small
from tests.support.tiny import TWO_LEVELS, mirrored
from tf_ddpm import build
from tf_ddpm.errors import UserError
from tf_ddpm.networks.unet import UNet
from tf_ddpm.sampling import drawing
from tf_ddpm.sampling.run import Run, open_run


@pytest.fixture(scope="module")
def run(run_dir):
    return tf_ddpm.load_run(run_dir)


def close(a, b):
    """At most one grey level apart: another batch size may round differently."""
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 5},
        {"sampler": "ddim", "steps": 5},
        {"sampler": "ddim", "eta": 0.5},
        {"sampler": "dpmpp", "order": 3, "steps": 6},
        {"sampler": "dpmpp", "eta": 1.0, "steps": 6},
        {"sampler": "heun", "steps": 5},
        {"sampler": "langevin", "steps": 5},
        {"steps": 5, "spacing": "quadratic", "clip": "dynamic"},
    ],
)
def test_an_image_depends_on_its_seed_alone(run, settings):
    together = run.sample(range(5), **settings)
    assert together.shape == (5, 8, 8, 1) and together.dtype == np.uint8
    np.testing.assert_array_equal(together, run.sample(range(5), **settings))
    assert close(together, run.sample(range(5), batch_size=2, **settings))
    assert close(together[3:4], run.sample([3], **settings))
    assert close(together[[4, 0]], run.sample([4, 0], **settings))
    assert not close(together[0], together[1])


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp"])
def test_eta_makes_another_image(run, sampler):
    ode, sde = (run.sample(range(2), sampler=sampler, eta=eta, steps=6) for eta in (0.0, 1.0))
    assert not close(ode, sde)


def test_the_denoiser_is_the_ema_network(run, run_dir):
    x_t, t = tf.random.stateless_normal([2, 8, 8, 1], [0, 0]), [0, 19]
    np.testing.assert_allclose(run.denoiser(x_t, t), run.network(x_t, tf.constant(t)), atol=1e-6)
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / "step-8"))
    saved = reader.get_tensor("ema_network/up_0_0/conv_1/_kernel/.ATTRIBUTES/VARIABLE_VALUE")
    np.testing.assert_array_equal(run.network.up_0_0.conv_1.kernel.numpy(), saved)


def test_the_compiled_loop_is_algorithm_2_by_hand(run):
    """A plain NumPy loop over the same noises, with the textbook formulas."""
    from tf_ddpm import randomness

    seeds, chain = tf.constant([11, 12], tf.int64), run.chain
    x = randomness.image_normal(seeds, 0, [8, 8, 1]).numpy().astype(np.float64)
    alpha, alpha_bar = 1 - chain.betas, chain.alpha_bar
    for k, t in enumerate(reversed(range(len(chain)))):
        eps = run.denoiser(x, [t, t]).numpy().astype(np.float64)
        x_0 = np.clip((x - np.sqrt(1 - alpha_bar[t]) * eps) / np.sqrt(alpha_bar[t]), -1, 1)
        before = alpha_bar[t - 1] if t else 1.0
        weight_x_0 = np.sqrt(before) * chain.betas[t] / (1 - alpha_bar[t])
        weight_x_t = np.sqrt(alpha[t]) * (1 - before) / (1 - alpha_bar[t])
        noise = randomness.image_normal(seeds, k + 1, [8, 8, 1]).numpy()
        x = weight_x_0 * x_0 + weight_x_t * x + (np.sqrt(chain.betas[t]) * noise if t else 0)
    by_hand = np.clip(np.round((x + 1) * 127.5), 0, 255)
    assert np.abs(by_hand - run.sample([11, 12]).astype(int)).max() <= 1


def test_frames_end_with_the_image(run):
    settings = run.settings(sampler="ddim")
    ((images, frames),) = run.batches(np.arange(3), np.zeros(3, int), settings, num_frames=6)
    assert frames.shape == (3, 6, 8, 8, 1)
    np.testing.assert_array_equal(frames[:, -1], images)


@pytest.mark.parametrize("num_frames", [0, 6])
def test_devices_share_the_images_and_their_way_from_noise(run, run_dir, monkeypatch, num_frames):
    rows, draw = [], drawing.draw

    def noted(sampler, denoiser, noise, *options):
        tf.numpy_function(lambda x_T: rows.append(len(x_T)), [noise(0)], [])
        return draw(sampler, denoiser, noise, *options)

    arguments = np.arange(5), np.zeros(5, int), run.settings(sampler="ddim"), num_frames
    ((images, frames),) = run.batches(*arguments)
    monkeypatch.setattr(drawing, "draw", noted)
    ((shared, shared_frames),) = open_run(run_dir, run.config, mirrored(3)).batches(*arguments)
    assert rows == [2, 2, 2]
    assert close(shared, images) and shared.shape == images.shape
    assert close(shared_frames, frames) if num_frames else shared_frames is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"steps": 0}, "from 1 to"), ({"steps": 21}, "expected 1 to 20"), ({"sampler": "euler"}, "one of ddpm, ddim"),
     ({"eta": 2.0}, "sample.eta"), ({"step": 2}, "sample.steps")],
)  # fmt: skip
def test_wrong_settings_are_one_clear_line(run, settings, words):
    with pytest.raises(UserError, match=words):
        run.sample([0], **settings)


def test_precision_is_chosen_when_a_run_is_loaded(run):
    with pytest.raises(UserError, match="load_run"):
        run.sample([0], precision="bfloat16")


@pytest.mark.parametrize("seeds", [[], [0.5], ["a"], [[1, 2]], 3, [2**63], [2**70]])
def test_wrong_seeds_are_refused(run, seeds):
    with pytest.raises(UserError, match="seeds"):
        run.sample(seeds)


def test_a_bfloat16_run_samples_near_the_float32_one(run, run_dir):
    fast = tf_ddpm.load_run(run_dir, precision="bfloat16")
    assert fast.network.dtype_policy.name == "bfloat16"
    difference = np.abs(fast.sample(range(8)).astype(int) - run.sample(range(8)).astype(int))
    assert np.median(difference) <= 8


def test_loading_needs_no_dataset(run_dir, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert tf_ddpm.load_run(run_dir).sample([0], steps=2).shape == (1, 8, 8, 1)


def test_no_run_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        tf_ddpm.load_run(tmp_path)


def test_a_chain_of_full_length_is_not_respaced(tiny_config):
    chain = build.chain(tiny_config().diffusion)
    assert build.sampler(tiny_config().sample, chain).chain is chain


def test_any_number_of_channels_can_be_drawn(tiny_config):
    config = tiny_config(data__name="other", data__image_size=(4, 8), data__channels=5)
    run = Run(config, build.network(config, "float32"), 0)
    assert run.sample([0], steps=2).shape == (1, 4, 8, 5)


def test_no_embedding_of_time_is_left_in_the_loop(tiny_config):
    config = tiny_config(data__image_size=(8, 8), data__channels=1, **TWO_LEVELS)
    run = Run(config, build.network(config, "float32"), 0)
    sample = drawing.compiled_draw(build.sampler(run.settings(), run.chain), run.network, run.config)
    library = sample.get_concrete_function().graph.as_graph_def().library.function
    (body,) = [f for f in library if "while_body" in f.signature.name and "map" not in f.signature.name]
    operations = [node.op for node in body.node_def]
    assert "Conv2D" in operations and not {"Sin", "Cos"} & set(operations)
    kernels = len(run.network.upsample)  # each sums up the rows and columns of its kernel; pixels are convolved
    assert operations.count("MatMul") == kernels > 0


def test_weights_of_bfloat16_compute_what_casts_in_every_call_do():
    mixed = randomised(UNet(small(widths=(8, 16), attention_levels=(1,)), 1, dtype="mixed_bfloat16"))
    cast = build.recast(mixed, "bfloat16")
    kinds = {weight.dtype for weight in cast.weights}
    assert kinds == {"bfloat16", "float32"} and cast.down_0_0.conv_1.kernel.dtype == "bfloat16"
    x_t, t = tf.random.stateless_normal([2, 4, 4, 1], [0, 0]), tf.constant([3, 700])
    np.testing.assert_array_equal(cast(x_t, t), mixed(x_t, t))
