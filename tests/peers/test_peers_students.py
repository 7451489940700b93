"""A student's whole pipeline in diffusers, beside the student itself."""

import numpy as np
import pytest
import tensorflow as tf
import torch
from diffusers import DDPMPipeline
from diffusers.schedulers import scheduling_lcm

from tests.support.tiny import make_tiny_config
from tf_ddpm import build
from tf_ddpm.config import students
from tf_ddpm.diffusers_format import folders, reading
from tf_ddpm.runs import configuration
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

SHORT = ("train.steps=8", "train.checkpoint_every=8", "train.preview_images=4", "distill.probe_every=0")
METHODS = {
    "consistency": (*SHORT, "distill.stages=2"),
    "progressive": (*SHORT, "distill.teacher_steps=4", "distill.steps=2", "train.warmup_steps=1"),
}


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "teacher"
    loop.run(make_tiny_config(diffusion__prediction="v", diffusion__timesteps=1000), path)
    return path


def drawn_by_theirs(pipeline, timesteps, x_T, noises, monkeypatch):
    """x after every step of their scheduler and their network."""
    scheduler, torched = pipeline.scheduler, lambda x: torch.tensor(x.transpose(0, 3, 1, 2))
    jumps = type(scheduler).__name__ == "LCMScheduler"
    words = {} if jumps else {"use_clipped_model_output": True}
    if jumps:
        scheduler.set_timesteps(timesteps=timesteps, original_inference_steps=scheduler.config.num_train_timesteps)
    else:
        scheduler.set_timesteps(len(timesteps))
    assert scheduler.timesteps.tolist() == timesteps
    x, found = torched(x_T), []
    with torch.no_grad():
        for t, noise in zip(scheduler.timesteps, noises, strict=True):
            monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, noise=noise, **__: torched(noise))
            x = scheduler.step(pipeline.unet(x, t).sample, t, x, **words).prev_sample
            found.append(x.numpy().transpose(0, 2, 3, 1))
    return found


@pytest.mark.parametrize("method", list(METHODS))
def test_a_students_pipeline_draws_what_the_student_draws(method, teacher_dir, tmp_path, monkeypatch):
    config = students.student_of(configuration.read(teacher_dir), str(teacher_dir), method, [*METHODS[method]])
    loop.run(config, tmp_path / "student")
    run = load_run(tmp_path / "student")
    sampler = build.sampler(run.config.sample, run.chain)
    timesteps = sampler.chain.timesteps[::-1].tolist()
    assert len(timesteps) == 2
    rng = np.random.default_rng(0)
    x_T, *noises = rng.normal(size=(3, 4, *run.image_shape)).astype(np.float32)
    out = run.network.conv_out.kernel
    out.assign(100.0 * out)  # so that every clean image is in part beyond its bounds
    x, ours, memory = tf.constant(x_T), [], sampler.memory(tf.constant(x_T))
    for k, noise in zip((1, 0), noises, strict=True):
        x, x_0, memory = sampler.step(run.bound_denoiser(None), x, tf.constant(k), lambda _, z=noise: z, memory)
        assert 0 < np.mean(np.abs(x_0) == 1) < 1
        ours.append(x.numpy())
    pipeline = DDPMPipeline.from_pretrained(folders.export_run(run, tmp_path / "out"))
    expected = drawn_by_theirs(pipeline, timesteps, x_T, noises, monkeypatch)
    for one, other in zip(ours, expected, strict=True):
        assert np.linalg.norm(one - other) / np.linalg.norm(other) < 1e-4
    if method == "consistency":  # it spaces the steps by itself, and would visit other levels
        with pytest.raises(ValueError, match="smaller than `num_inference_steps`"):
            pipeline(num_inference_steps=2)
    back = folders.import_run(tmp_path / "out", reading.read_config(tmp_path / "out"), tmp_path / "back")
    np.testing.assert_array_equal(load_run(back).sample(range(4)), run.sample(range(4)))
