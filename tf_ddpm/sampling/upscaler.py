"""Pictures of any size enlarged by a run."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm import build
from tf_ddpm.errors import UserError
from tf_ddpm.networks.backbone import Backbone
from tf_ddpm.networks.tiling import Tiled
from tf_ddpm.runtime import devices
from tf_ddpm.sampling import drawing
from tf_ddpm.sampling.run import Run

TILE, OVERLAP = 256, 64  # pixels of the large image that the network sees at once, and what tiles have in common


def tiled(network: Backbone, phase: int) -> Tiled:
    """The network in tiles of 256 pixels, or of more where its levels halve more often than that allows."""
    overlap = -(-OVERLAP // phase) * phase
    return Tiled(network, max(-(-TILE // phase) * phase, 2 * overlap), overlap, phase)


class Upscaler:
    """Enlarges pictures of any size, a large one in tiles.

    Args:
      run: one that enlarges. tile, overlap: see `Tiled`, in pixels of the large picture; None: as `tiled` has them.

    Raises:
      UserError: for a run that does not enlarge.
    """

    def __init__(self, run: Run, tile: int | None = None, overlap: int | None = None):
        if run.low_res_shape is None:
            raise UserError("this run draws from noise alone; expected one that enlarges (model.condition=low_res)")
        self._run, self.factor, settings = run, run.config.model.factor, run.config.sample
        self._phase = run.config.model.phase
        self._guidance, self._level = settings.guidance, settings.augmentation
        own = tiled(run.network, self._phase)
        if tile is not None and overlap is not None:
            own = Tiled(run.network, tile, overlap, self._phase)
        sampler, guides = build.sampler(settings, run.chain), settings.guidance != 1.0
        interval = build.guidance_interval(settings)
        self._draw = drawing.compiled_draw(sampler, own, run.config, guides, any_size=True, interval=interval)

    def __call__(self, image: np.ndarray, seed: int, label: int = -1) -> np.ndarray:
        """uint8 [h, w, C] -> uint8 [factor h, factor w, C]."""
        height, width, _ = image.shape
        unit = self._phase // self.factor  # what the levels halve must be even: the last pixels go on, and are cut off
        beyond = [(0, -side % unit) for side in (height, width)]
        padded = np.pad(image, [*beyond, (0, 0)], mode="edge")
        inputs = (np.array([seed], np.int64), np.array([label], np.int32), np.array([self._guidance], np.float32))
        with devices.within_memory("The picture is too large for this machine."):
            small = tf.constant(padded[None], tf.float32), tf.constant([self._level])
            (large,) = self._draw(*map(tf.constant, inputs), *small)
        return large.numpy()[0, : self.factor * height, : self.factor * width]
