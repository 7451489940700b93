"""Samplers against the schedulers of diffusers: the same model outputs and noises, step by step.

Where they differ on purpose, and what is therefore compared:
  * DDIMScheduler steps from t to t - T // S whatever its timesteps are: with `linspace` these are not the next ones,
    so that spacing is compared at S = T, where they are.
  * DDPMScheduler adds noise in its last step if that is not t = 0 (`trailing`); the last noise given to it is zero.
  * DPMSolverMultistepScheduler's `linspace` and `leading` leave the first step out: its own are used.
  * The third order of its SDE solver adds a second derivative of the wrong sign, which does not vanish with the step.
  * DDPMScheduler reads `learned` as the variance, we as its logarithm.
"""

import numpy as np
import pytest
import tensorflow as tf
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    LCMScheduler,
)
from diffusers.schedulers import scheduling_ddpm, scheduling_dpmsolver_multistep, scheduling_lcm

from tests.support.gaussian import denoiser_of
from tf_ddpm.diffusion import samplers, schedules
from tf_ddpm.diffusion.chain import Chain

T, SHAPE = 1000, (2, 4, 4, 3)
PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
EXACT, AS_IT_IS = 1e-9, 2e-4


class Float64Torch:
    """PyTorch, whose float32 is float64: for a scheduler that casts to float32 by name."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


def output_of(backend, x, t, learned):
    """The same smooth function of x and t in both libraries; behind it, if `learned`, a second half for the variance.

    Channels are last for TensorFlow and second for PyTorch.
    """
    wave = 0.9 * backend.sin(1.3 * x + t / 300.0)
    if not learned:
        return wave
    spread = 0.8 * backend.cos(2.0 * x - t / 100.0)
    return backend.concat([wave, spread], axis=-1) if backend is tf else backend.cat([wave, spread], dim=1)


def ours(sampler, x_T, noises, prediction, learned=False):
    """x after every step."""
    network = lambda x, level: output_of(tf, x, tf.cast(level.time, x.dtype), learned)  # noqa: E731
    denoiser = denoiser_of(network, prediction, learned)
    x, memory, found = tf.constant(x_T), sampler.memory(tf.constant(x_T)), []
    steps = len(sampler.chain)
    for k in range(steps):
        x, _, memory = sampler.step(
            denoiser, x, tf.constant(steps - 1 - k), lambda draw, k=k: tf.constant(noises[k]), memory
        )
        found.append(x.numpy())
    return found


def theirs(scheduler, x_T, noises, step, learned=False):
    """The same; `step(output, t, x, noise)` is the scheduler's."""
    x, found = torch.tensor(x_T.transpose(0, 3, 1, 2)), []
    for k, t in enumerate(scheduler.timesteps):
        noise = torch.tensor(noises[k].transpose(0, 3, 1, 2))
        x = step(output_of(torch, x, float(t), learned), t, x, noise)
        found.append(x.numpy().transpose(0, 2, 3, 1))
    return found


def raised(scheduler):
    """The tables in float64."""
    config = scheduler.config
    name = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine"}[config.beta_schedule]
    beta = schedules.betas(name, config.num_train_timesteps, config.beta_start, config.beta_end)
    scheduler.betas = torch.tensor(beta)
    scheduler.alphas = 1.0 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)


def start(dtype, steps):
    rng = np.random.default_rng(0)
    noises = rng.normal(size=(steps, *SHAPE)).astype(dtype)
    noises[-1] = 0.0
    return rng.normal(size=SHAPE).astype(dtype), noises


def chain(kept, variance="fixed_small", timesteps=T, schedule="linear"):
    whole = Chain(schedules.betas(schedule, timesteps), variance=variance)
    return whole.respaced(np.asarray(kept))


def assert_close(found, expected, dtype):
    bound = EXACT if dtype == np.float64 else AS_IT_IS
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        difference = np.abs(a - b).max() if dtype == np.float64 else np.linalg.norm(a - b) / np.linalg.norm(b)
        assert difference < bound, f"step {k}: {difference}"
    assert np.abs(found[-1]).max() > 0.1


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("clip", ["static", "none", "dynamic"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned", "learned_range"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ancestral_steps_are_ddpm_schedulers(prediction, spacing, variance, clip, dtype, monkeypatch):
    if clip != "static" and (spacing, variance) not in (("leading", "fixed_large"), ("trailing", "learned_range")):
        pytest.skip("clipping is a matter of x_0 alone: two settings of the rest are enough")
    steps, learned = 20, variance.startswith("learned")
    scheduler = DDPMScheduler(
        prediction_type=PREDICTIONS[prediction],
        variance_type=variance,
        timestep_spacing=spacing,
        clip_sample=clip == "static",
        thresholding=clip == "dynamic",
        sample_max_value=1e6,
    )
    if dtype == np.float64:
        raised(scheduler)
    scheduler.set_timesteps(steps)
    kept = schedules.strided_timesteps(T, steps, spacing)
    np.testing.assert_array_equal(scheduler.timesteps, kept[::-1])
    x_T, noises = start(dtype, steps)

    def step(output, t, x, noise):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: noise)
        if variance == "learned":
            output = torch.cat([output[:, :3], torch.exp(output[:, 3:])], dim=1)
        return scheduler.step(output, t, x).prev_sample

    sampler = samplers.Ancestral(chain(kept, variance), clip)
    assert_close(ours(sampler, x_T, noises, prediction, learned), theirs(scheduler, x_T, noises, step, learned), dtype)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_whole_chain_of_every_schedule_is_ddpm_schedulers(schedule, dtype, monkeypatch):
    name = {"scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine"}.get(schedule, schedule)
    scheduler = DDPMScheduler(num_train_timesteps=100, beta_schedule=schedule, variance_type="fixed_large")
    if dtype == np.float64:
        raised(scheduler)
    scheduler.set_timesteps(100)
    x_T, noises = start(dtype, 100)

    def step(output, t, x, noise):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: noise)
        return scheduler.step(output, t, x).prev_sample

    sampler = samplers.Ancestral(chain(np.arange(100), "fixed_large", 100, name), "static")
    assert_close(ours(sampler, x_T, noises, "eps"), theirs(scheduler, x_T, noises, step), dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("clip", ["static", "none"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("spacing", "timesteps"), [("leading", T), ("trailing", T), ("linspace", 20)])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_steps_are_ddim_schedulers(prediction, spacing, timesteps, eta, clip, dtype):
    steps = 20
    scheduler = DDIMScheduler(
        num_train_timesteps=timesteps,
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        clip_sample=clip == "static",
    )
    if dtype == np.float64:
        raised(scheduler)
    scheduler.set_timesteps(steps)
    kept = schedules.strided_timesteps(timesteps, steps, spacing)
    np.testing.assert_array_equal(scheduler.timesteps, kept[::-1])
    x_T, noises = start(dtype, steps)

    def step(output, t, x, noise):
        options = {"eta": eta, "use_clipped_model_output": True, "variance_noise": noise}
        return scheduler.step(output, t, x, **options).prev_sample

    sampler = samplers.DDIM(chain(kept, timesteps=timesteps), clip, eta)
    assert_close(ours(sampler, x_T, noises, prediction), theirs(scheduler, x_T, noises, step), dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("steps", "clip"), [(20, "none"), (10, "none"), (20, "dynamic")])
@pytest.mark.parametrize(("order", "eta"), [(1, 0.0), (2, 0.0), (3, 0.0), (1, 1.0), (2, 1.0)])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_solver_steps_are_dpm_solver_multistep_schedulers(
    prediction, spacing, order, eta, steps, clip, dtype, monkeypatch
):
    scheduler = DPMSolverMultistepScheduler(
        solver_order=order,
        algorithm_type="sde-dpmsolver++" if eta else "dpmsolver++",
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        thresholding=clip == "dynamic",
        sample_max_value=1e6,
    )
    if dtype == np.float64:
        raised(scheduler)
        monkeypatch.setattr(scheduling_dpmsolver_multistep, "torch", Float64Torch())
    scheduler.set_timesteps(steps)
    kept = scheduler.timesteps.numpy()[::-1]
    if spacing == "trailing":
        np.testing.assert_array_equal(kept, schedules.strided_timesteps(T, steps, spacing))
    if dtype == np.float64:
        alpha_bar = scheduler.alphas_cumprod.numpy()[kept[::-1]]
        scheduler.sigmas = torch.tensor(np.append(np.sqrt((1 - alpha_bar) / alpha_bar), 0.0))
    x_T, noises = start(dtype, steps)
    sampler = samplers.DPMSolverPP(chain(kept), clip, order, "diffusers", eta=eta)

    def step(output, t, x, noise):
        return scheduler.step(output, t, x, variance_noise=noise if eta else None).prev_sample

    expected = theirs(scheduler, x_T, noises, step)
    assert_close(ours(sampler, x_T, noises, prediction), expected, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("clip", ["static", "none", "dynamic"])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_steps_of_a_consistency_student_are_lcm_schedulers(schedule, steps, clip, dtype, monkeypatch):
    name = {"squaredcos_cap_v2": "cosine"}.get(schedule, schedule)
    scheduler = LCMScheduler(
        beta_schedule=schedule,
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="v_prediction",
        clip_sample=clip == "static",
        thresholding=clip == "dynamic",
        sample_max_value=1e6,
        original_inference_steps=steps,
        timestep_scaling=1e10,
    )
    if dtype == np.float64:
        raised(scheduler)
    whole = Chain(schedules.betas(name, T))
    kept = schedules.nearest_timesteps(whole.levels.relative_sigma, schedules.few_step_sigmas(steps))
    scheduler.set_timesteps(timesteps=kept[::-1].tolist(), original_inference_steps=T)
    x_T, noises = start(dtype, steps)

    def step(output, t, x, noise):
        monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: noise)
        return scheduler.step(output, t, x).prev_sample

    found = ours(samplers.Consistency(chain(kept, schedule=name), clip), x_T, noises, "v")
    assert_close(found, theirs(scheduler, x_T, noises, step), dtype)


@pytest.mark.parametrize("steps", [2, 5, 18, 100])
@pytest.mark.parametrize("ends", [(0.002, 80.0), (0.05, 14.6)])
def test_the_grid_of_karras_is_that_of_an_edm_scheduler(steps, ends):
    scheduler = EDMEulerScheduler(sigma_min=ends[0], sigma_max=ends[1], rho=7.0, sigma_schedule="karras")
    scheduler.set_timesteps(steps)
    *sigmas, last = scheduler.sigmas.numpy()
    np.testing.assert_allclose(schedules.karras_sigmas(*ends, steps)[::-1], sigmas, rtol=2e-6)  # theirs are float32
    assert last == 0
