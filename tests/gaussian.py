"""Images drawn from a Gaussian, whose denoiser is known exactly: what a sampler does to them has a closed form."""

import tensorflow as tf

from tf_ddpm.diffusion import schedules
from tf_ddpm.diffusion.process import DiffusionProcess

MEAN, STD = 0.2, 0.5


def chain(steps, timesteps=1000, variance="fixed_large"):
    """A process, and its chain of so many steps."""
    process = DiffusionProcess(schedules.betas("linear", timesteps), variance=variance)
    return process, process.respaced(schedules.strided_timesteps(timesteps, steps))


def exact_denoiser(process):
    """E[eps | x_t] for images drawn from N(MEAN, STD^2)."""

    def denoiser(x_t, t):
        alpha_bar = tf.gather(tf.constant(process.alpha_bar, x_t.dtype), t)
        alpha_bar = tf.reshape(alpha_bar, [-1] + [1] * (x_t.shape.rank - 1))
        return tf.sqrt(1 - alpha_bar) * (x_t - tf.sqrt(alpha_bar) * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar)

    return denoiser
