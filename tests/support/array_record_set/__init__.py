"""A tiny set of TensorFlow Datasets, which wants a package of its own."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Twenty pictures of two classes, in files of several kinds."""

    VERSION = tfds.core.Version("1.0.0")
    name = "shapes"

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(names=["round", "square"]),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        rng = np.random.default_rng(0)
        for i in range(20):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            yield i, {"image": pixels if i < 8 else _file(pixels, *_KINDS[i % len(_KINDS)]), "label": i % 2}


_KINDS = (("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "L"), ("PNG", "RGBA"))


def _file(pixels, form, mode):
    into = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(into, form)
    into.seek(0)
    return into
