"""An autoencoder whose parts are traced once for all signatures, and the signatures that are its own."""

from __future__ import annotations

import tensorflow as tf

from export.endpoints import Queue
from export.joining import Tensors
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.codecs.latents import FirstStage, Latents
from tf_ddpm.codecs.pixels import Pixels


class _Traced(FirstStage):
    """The parts of an autoencoder, each a compiled function."""

    def __init__(self, first_stage: FirstStage, image_shape: tuple[int, int, int], latent_shape: tuple[int, int, int]):
        def traced(function: object, shape: tuple[int, int, int]) -> tf.types.experimental.PolymorphicFunction:
            return tf.function(function, input_signature=[tf.TensorSpec([None, *shape])], autograph=False)

        self.factor, self.weights = first_stage.factor, first_stage.weights
        self.image_channels, self.autoencoder = first_stage.image_channels, first_stage.autoencoder
        self._encode, self._decode = traced(first_stage.encode, image_shape), traced(first_stage.decode, latent_shape)

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """See `FirstStage`."""
        return self._encode(images)

    def decode(self, latents: tf.Tensor) -> tf.Tensor:
        """See `FirstStage`."""
        return self._decode(latents)


def of(codec: Codec, image_shape: tuple[int, int, int]) -> Codec:
    """`codec` for images of one shape, its network traced once if it has one."""
    return of_latents(codec, image_shape) if isinstance(codec, Latents) else codec


def of_latents(codec: Latents, image_shape: tuple[int, int, int]) -> Latents:
    """See `of`."""
    first_stage = _Traced(codec.first_stage, image_shape, codec.state_shape(image_shape))
    return Latents(first_stage, codec.shift, codec.scale)


def queues(codec: Latents, calls: int = 1) -> dict[str, Queue]:
    """`encode_image` and `decode_latent`: an image to what is diffused (the mean, scaled), and back.

    Args:
      calls: see `Queue`.
    """

    def encode(inputs: Tensors) -> Tensors:
        return {"latent": codec.encode(inputs["image"])}

    def decode(inputs: Tensors) -> Tensors:
        return images(codec, inputs["latent"])

    return {
        "encode_image": Queue(encode, calls, "image", of_class=False),
        "decode_latent": Queue(decode, calls, "latent", of_class=False),
    }


def images(codec: Codec, x_0: tf.Tensor) -> Tensors:
    """`image_float` from -1 to 1, and the same as bytes."""
    found = codec.images(x_0)
    return {"image_float": found, "image": Pixels().decode(found)}
