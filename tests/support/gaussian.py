"""Images drawn from a Gaussian, whose denoiser is known exactly: what a sampler does to them has a closed form."""

import tensorflow as tf

from tf_ddpm.diffusion import schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.parametrisation import PARAMETRISATIONS

MEAN, STD = 0.2, 0.5


def chain(steps, timesteps=1000, variance="fixed_large"):
    """A chain, and its shorter one of so many steps."""
    whole = Chain(schedules.betas("linear", timesteps), variance=variance)
    return whole, whole.respaced(schedules.strided_timesteps(timesteps, steps))


def denoiser_of(network, prediction="eps", learns_variance=False):
    """The denoiser of `network(x, level)`."""
    return Denoiser(network, PARAMETRISATIONS[prediction], learns_variance)


def _exact_eps(x, level):
    """E[eps | x] for images drawn from N(MEAN, STD^2)."""
    return level.sigma * (x - level.alpha * MEAN) / (level.alpha**2 * STD**2 + level.sigma**2)


def end_of_path(x, level):
    """Where the probability-flow ODE leads from x: x / alpha keeps its place in a Gaussian of another width."""
    sigma = level.sigma / level.alpha
    return MEAN + STD * (x / level.alpha - MEAN) / (STD**2 + sigma**2) ** 0.5


EXACT = denoiser_of(_exact_eps)


def steps_of(x, chain, step):
    """The levels of `chain` at `step`, a number or one for each image."""
    return chain.levels.at(tf.constant(step), tf.constant(x))
