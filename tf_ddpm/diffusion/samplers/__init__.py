"""The reverse process: each sampler is one step, and one loop drives them all.

A network is seen only as a `Denoiser`, randomness only as `noise(count)`. A sampler is given a chain that already has
the wanted number of steps (`Chain.respaced`), and goes from its last step to its first.
"""

from tf_ddpm.diffusion.samplers.ancestral import Ancestral
from tf_ddpm.diffusion.samplers.annealed_langevin import AnnealedLangevin
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState, clipped
from tf_ddpm.diffusion.samplers.consistency import Consistency
from tf_ddpm.diffusion.samplers.ddim import DDIM, ddim_inversion
from tf_ddpm.diffusion.samplers.dpm_solver import DPMSolverPP
from tf_ddpm.diffusion.samplers.entering import Entering
from tf_ddpm.diffusion.samplers.heun import Heun
from tf_ddpm.diffusion.samplers.inpainting import Inpainting, inpainting
from tf_ddpm.diffusion.samplers.langevin import Langevin
from tf_ddpm.diffusion.samplers.loop import sample_loop

__all__ = [
    "DDIM", "Ancestral", "AnnealedLangevin", "Consistency", "DPMSolverPP", "Entering", "Heun", "Inpainting",
    "Langevin", "Noise", "Sampler", "SolverState", "clipped", "ddim_inversion", "inpainting", "sample_loop",
]  # fmt: skip
