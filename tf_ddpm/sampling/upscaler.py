"""Pictures of any size enlarged by a run."""

from __future__ import annotations

from collections.abc import Callable

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
        self._draw = self._compiled(own)

    def __call__(self, image: np.ndarray, seed: int, label: int = -1) -> np.ndarray:
        """uint8 [h, w, C] -> uint8 [factor h, factor w, C]."""
        height, width, _ = image.shape
        unit = self._phase // self.factor  # what the levels halve must be even: the last pixels go on, and are cut off
        beyond = [(0, -side % unit) for side in (height, width)]
        padded = np.pad(image, [*beyond, (0, 0)], mode="edge")
        inputs = (np.array([seed], np.int64), np.array([label], np.int32), np.array([self._guidance], np.float32))
        with devices.within_memory("The picture is too large for this machine."):
            large = self._draw(*map(tf.constant, inputs), tf.constant(padded[None]), tf.constant([self._level]))
        return large.numpy()[0, : self.factor * height, : self.factor * width]

    def _compiled(self, network: Tiled) -> Callable[..., tf.Tensor]:
        run, config = self._run, self._run.config
        sampler = build.sampler(config.sample, run.chain)
        channels = config.data.image_channels

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.int64),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None]),
                tf.TensorSpec([None, None, None, channels], tf.uint8),
                tf.TensorSpec([None], tf.int32),
            ],
            autograph=False,
        )
        def draw(
            seed: tf.Tensor, label: tf.Tensor, guidance: tf.Tensor, images: tf.Tensor, level: tf.Tensor
        ) -> tf.Tensor:
            height, width = tf.unstack(self.factor * tf.shape(images)[1:3])
            noise = drawing.image_noise(seed, [height, width, channels], drawing.stage_of(config))
            small = tf.cast(images, tf.float32)
            shown = drawing.low_res_condition(run.codec, self.factor, small, level, noise)
            condition = dict(shown) | ({"label": label} if config.model.classes else {})
            weight = guidance if self._guidance != 1.0 else None
            denoiser = build.denoiser(config.diffusion, network, condition, weight, sampler.chain.levels)
            return drawing.draw(sampler, denoiser, noise, run.codec)[0]

        return draw
