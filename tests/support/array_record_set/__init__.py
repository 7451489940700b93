"""A tiny set of TensorFlow Datasets, which wants a package of its own."""

import numpy as np
import tensorflow_datasets as tfds


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Twenty random pictures of two classes."""

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
            yield i, {"image": rng.integers(0, 256, (8, 8, 3), np.uint8), "label": i % 2}
