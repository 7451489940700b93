"""What an autoencoder gives back of some images while it is trained."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm import datasets
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.config import Config
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.sampling import image_files
from tf_ddpm.training import spread
from tf_ddpm.training.state import TrainState


class Reconstructions:
    """Grids of images and of what comes back of them, side by side: of what is held out of training if anything is."""

    def __init__(self, config: Config, state: TrainState, images: ImageSet, folder: Path):
        data = datasets.unseen(config.data)
        self._images = images if data == config.data else datasets.load(data)
        self._state, self._folder, self._count = state, folder, config.train.preview_images
        self._rows = config.sample.batch_size
        codec = Pixels()
        self._again = tf.function(lambda part: codec.decode(state.network(codec.encode(part))), autograph=False)

    @functools.cached_property
    def _real(self) -> np.ndarray:
        """The images uint8 [N, H, W, C]: not read before a grid is drawn, so that no update waits for them."""
        return self._images.images[spread.places(self._images, self._count)]

    def draw(self, step: int) -> tuple[np.ndarray, float]:
        """Writes the grid of `step` into the folder.

        Returns:
          The grid uint8 [H, W, 1, 3 or 4], and how far its mean colour is from that of the images: the root mean
          square over the channels, in steps of 0 to 255.
        """
        parts = [self._real[i : i + self._rows] for i in range(0, len(self._real), self._rows)]
        with self._state.averaged():
            again = np.concatenate([self._again(tf.constant(part)).numpy() for part in parts])
        sheet = image_files.grid(image_files.side_by_side(self._real, again))
        self._folder.mkdir(exist_ok=True)
        image_files.save_image(sheet, self._folder / f"step_{step:07d}")
        means = [part.mean(axis=(0, 1, 2), dtype=np.float64) for part in (again, self._real)]
        drift = float(np.sqrt(np.mean(np.square(means[0] - means[1]))))
        return sheet if sheet.shape[-1] in image_files.PNG_CHANNELS else sheet[..., :1], drift
