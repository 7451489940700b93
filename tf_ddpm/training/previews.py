"""What a run draws of itself while it is trained."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.config import Config
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.networks import averaging
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling import drawing, image_files, small_images
from tf_ddpm.training import spread
from tf_ddpm.training.state import TrainState

_STEPS = 25
_COLOUR_IMAGES = 256  # of the data, enough for its mean colour


class Preview:
    """Grids of the same seeds each time, drawn in a few steps.

    A network that enlarges is shown pictures that were held out if there are any; its grid has each of them as it was
    shown, drawn and real, side by side.

    The network has the average of the weights, or the last ones where the average is still much of the initial ones.
    """

    def __init__(self, config: Config, state: TrainState, images: ImageSet, folder: Path, codec: Codec | None = None):
        values = {"sampler": "ddim", "eta": 0.0, "steps": min(_STEPS, config.diffusion.timesteps)}
        if config.sample.spacing == "sigmas":  # of the run's own steps
            values |= {"spacing": "trailing", "sigmas": ()}
        settings = config_lib.with_values(config, {f"sample.{name}": value for name, value in values.items()}).sample
        if config.distill.student:  # which draws well in its own steps alone
            settings = config.sample
        self._state, self._told = state, False
        self._sample = drawing.compiled_draw(
            build.sampler(settings, build.chain(config.diffusion)), state.network, config, codec=codec
        )
        seeds = tf.range(config.train.preview_images, dtype=tf.int64)
        self._seeds = [seeds[i : i + settings.batch_size] for i in range(0, len(seeds), settings.batch_size)]
        self._classes, self._folder = config.model.classes, folder
        self._small, self._factor = None, config.model.factor
        if config.model.enlarges:
            self._small = small_images.of_data(config, images)
        self._images = images

    def draw(self, step: int) -> tuple[np.ndarray, float]:
        """Writes the grid of `step` into the folder.

        Returns:
          The grid uint8 [H, W, 1, 3 or 4], and how far its mean colour is from that of the data: the root mean square
          over the channels, in steps of 0 to 255. A drift that grows is the first sign of averages or training gone
          wrong.
        """
        share = float(tf.convert_to_tensor(self._state.initial_share))
        stale = share > averaging.STALE
        if stale and not self._told:
            self._told = True
            print(
                f"previews show the last weights: {share:.0%} of their average are still the initial ones", flush=True
            )
        count, parts = sum(map(len, self._seeds)), []
        with (
            contextlib.nullcontext() if stale else self._state.averaged(),
            Progress(count, "drawing a preview") as bar,
        ):
            for part in self._seeds:
                parts.append(self._sample(*self._inputs(part))[0].numpy())
                bar.update(len(part))
        drawn = np.concatenate(parts)
        sheet = self._sheet(drawn)
        self._folder.mkdir(exist_ok=True)
        image_files.save_image(sheet, self._folder / f"step_{step:07d}")
        drift = float(np.sqrt(np.mean(np.square(drawn.mean(axis=(0, 1, 2)) - self._colour))))
        return sheet if sheet.shape[-1] in image_files.PNG_CHANNELS else sheet[..., :1], drift

    @functools.cached_property
    def _colour(self) -> np.ndarray:
        """Mean colour of the data, float64 [C]; looked for when a grid is drawn, so that no update waits for it."""
        some = spread.parts(self._images, _COLOUR_IMAGES, "reading images for their mean colour")
        found = [(len(part), part.mean(axis=(0, 1, 2))) for part in some]
        counts, means = zip(*found, strict=True)
        return np.average(means, axis=0, weights=counts)

    def _inputs(self, seeds: tf.Tensor) -> list[tf.Tensor]:
        """What `compiled_draw` takes for these seeds."""
        label = tf.cast(seeds % max(self._classes, 1), tf.int32)
        inputs = [seeds, label, tf.ones_like(label, tf.float32)]
        if self._small is not None:
            low_res, inputs[1] = self._small.low_res(seeds.numpy()), tf.constant(self._small.labels(seeds.numpy()))
            inputs += [tf.constant(low_res, tf.float32), tf.zeros_like(label)]
        return inputs

    def _sheet(self, drawn: np.ndarray) -> np.ndarray:
        if self._small is not None:
            seeds = np.arange(len(drawn))
            shown = small_images.enlarged(self._small.low_res(seeds), self._factor)
            return image_files.grid(image_files.side_by_side(shown, drawn, self._small.real(seeds)))
        return image_files.grid(drawn, columns=image_files.class_columns(self._classes))
