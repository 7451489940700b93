"""A network whose parts are traced once for all signatures, so that each stands once in the SavedModel."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm import build
from tf_ddpm.networks.backbone import Backbone, Condition
from tf_ddpm.sampling.run import Run


def traced_guide(run: Run, state: tf.TensorSpec, specs: dict[str, tf.TensorSpec]) -> build.Guide | None:
    """The guide of a run with its parts traced; None: it has none.

    Args:
      state: see `TracedNetwork`. specs: of every condition, by name.
    """
    if run.guide is None:
        return None
    network, diffusion = run.guide.guide
    condition = {name: specs[name] for name in network.conditions}
    return build.Guide(TracedNetwork(network, state, condition, run.guide.network.compute_dtype), diffusion)


class TracedNetwork(Backbone):
    """The parts of `network`, each a compiled function.

    Args:
      state: spec of the images that it takes, [None, H, W, C].
      condition: spec of each condition.
      dtype: in which the network computes.
    """

    def __init__(self, network: Backbone, state: tf.TensorSpec, condition: dict[str, tf.TensorSpec], dtype: str):
        def width(function: tf.types.experimental.PolymorphicFunction) -> tf.TensorSpec:
            return tf.TensorSpec([None, function.get_concrete_function().output_shapes[1]], dtype)

        def traced(function: object, *signature: object) -> tf.types.experimental.PolymorphicFunction:
            return tf.function(function, input_signature=signature, autograph=False)

        self._network, self.out_channels = network, network.out_channels
        self.conditions, self.image_conditions = network.conditions, network.image_conditions
        self._embed_time = traced(network.embed_time, tf.TensorSpec([None]))
        self._modulation = traced(network.modulation, width(self._embed_time), condition)
        self._forward = traced(network.forward, state, width(self._modulation))

    def embed_time(self, time: tf.Tensor) -> tf.Tensor:
        """See `Backbone`."""
        return self._embed_time(time)

    def modulation(self, embedded: tf.Tensor, condition: Condition) -> tf.Tensor:
        """See `Backbone`."""
        return self._modulation(embedded, condition)

    def forward(self, x: tf.Tensor, modulation: tf.Tensor, address: tf.Tensor | None = None) -> tf.Tensor:
        """See `Backbone`; without dropout."""
        return self._forward(x, modulation)

    def null(self, name: str, like: tf.Tensor) -> tf.Tensor:
        """See `Backbone`."""
        return self._network.null(name, like)
