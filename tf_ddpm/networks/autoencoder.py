"""Autoencoders: a network from images to latents and one back (Rombach et al. 2022). No diffusion here."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tf_ddpm.config import AutoencoderConfig
from tf_ddpm.networks import coding
from tf_ddpm.networks.discriminator import PatchDiscriminator
from tf_ddpm.networks.primitives import dense

_LOG_VARIANCE = (-30.0, 20.0)  # is held between these


class Autoencoder(keras.Model):
    """What all autoencoders share. Images are float32 [B, H, W, C] from -1 to 1, latents float32 [B, h, w, c].

    Args:
      autoencoder: widths, blocks, latent, codebook: see `config.AutoencoderConfig`.
      image_channels: C.
      judged: whether a network that judges patches, for training, stands beside it as `discriminator`.
      xla: see `group_norm.GroupNorm`.
    """

    def __init__(
        self,
        autoencoder: AutoencoderConfig,
        image_channels: int,
        judged: bool = False,
        xla: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autoencoder, self.image_channels = autoencoder, image_channels
        self._judged, self._xla = judged, xla
        self.factor = autoencoder.factor
        self._make()
        if judged:
            width = autoencoder.adversarial_channels
            self.discriminator = PatchDiscriminator(width, image_channels, xla, name="discriminator")
        self.built = True

    def _make(self) -> None:
        raise NotImplementedError

    def _make_encoder(self, out_channels: int) -> None:
        own, dtype = self.autoencoder, self.dtype_policy
        self.encoder = coding.Encoder(
            own, self.image_channels, out_channels, xla=self._xla, name="encoder", dtype=dtype
        )

    def _make_decoder(self) -> None:
        own, dtype = self.autoencoder, self.dtype_policy
        if own.decoder == "light":
            self._make_light_decoder()
        else:
            self.decoder = coding.Decoder(
                own, own.latent_channels, self.image_channels, xla=self._xla, name="decoder", dtype=dtype
            )

    def _make_light_decoder(self) -> None:
        own = self.autoencoder
        self.decoder = coding.LightDecoder(
            own.widths, own.blocks, own.latent_channels, self.image_channels, name="decoder", dtype=self.dtype_policy
        )

    @property
    def last_layer(self) -> keras.layers.Layer:
        """The convolution that gives the image."""
        return self.decoder.conv_out

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> [B, h, w, c], the mean where the encoder gives a distribution.

        Of sides that the levels cannot halve, what is left over is dropped; `tiny` rounds them up.
        """
        raise NotImplementedError

    def decode(self, latents: tf.Tensor) -> tf.Tensor:
        """[B, h, w, c] -> [B, H, W, C], not clipped."""
        raise NotImplementedError

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> what comes back."""
        return self.decode(self.encode(images))

    def get_config(self) -> dict:
        """The constructor's arguments; JSON of them gives the same network."""
        own = {"image_channels": self.image_channels, "judged": self._judged}
        return super().get_config() | {"autoencoder": dataclasses.asdict(self.autoencoder)} | own

    @classmethod
    def from_config(cls, config: dict) -> Autoencoder:
        """The inverse of `get_config`."""
        values = config["autoencoder"].items()
        found: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values}
        return cls(**config | {"autoencoder": AutoencoderConfig(**found)})


@keras.saving.register_keras_serializable(package="tf_ddpm")
class AutoencoderKL(Autoencoder):
    """A variational autoencoder: the encoder gives the mean and the log-variance of a Gaussian."""

    def _make(self) -> None:
        own = self.autoencoder
        moments = 2 * own.latent_channels
        self._make_encoder(moments)
        self.quant_conv = dense(moments, moments, "quant_conv", "float32") if own.quant_conv else None
        self.post_quant_conv = None
        if own.post_quant_conv:
            self.post_quant_conv = dense(own.latent_channels, own.latent_channels, "post_quant_conv", "float32")
        self._make_decoder()

    def moments(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and log-variance [B, h, w, c] of q(latent | image)."""
        h = self.encoder(images)
        h = h if self.quant_conv is None else self.quant_conv(h)
        mean, log_variance = tf.split(h, 2, axis=-1)
        return mean, tf.clip_by_value(log_variance, *_LOG_VARIANCE)

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """See `Autoencoder`."""
        return self.moments(images)[0]

    def decode(self, latents: tf.Tensor) -> tf.Tensor:
        """See `Autoencoder`."""
        latents = tf.cast(latents, tf.float32)
        return self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """[B]: of N(mean, exp(log_variance)) [B, h, w, c] from N(0, 1), in nats, summed over all numbers of a latent."""
    return 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - 1.0 - log_variance, axis=[1, 2, 3])


@keras.saving.register_keras_serializable(package="tf_ddpm")
class VQModel(Autoencoder):
    """An autoencoder whose decoder sees the nearest vectors of a codebook (van den Oord et al. 2017).

    `encode` gives what the encoder says; `decode` takes the nearest codes first, so that what a diffusion model draws
    need not be one.
    """

    def _make(self) -> None:
        own = self.autoencoder
        length = own.state_channels
        self._make_encoder(own.latent_channels)
        self.quant_conv = dense(own.latent_channels, length, "quant_conv", "float32")
        limit = 1.0 / own.codes
        self.codebook = self.add_weight(
            shape=(own.codes, length),
            initializer=keras.initializers.RandomUniform(-limit, limit),
            name="codebook",
            dtype="float32",
            autocast=False,
        )
        self.post_quant_conv = dense(length, own.latent_channels, "post_quant_conv", "float32")
        self._make_decoder()

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """See `Autoencoder`."""
        return self.quant_conv(self.encoder(images))

    def nearest(self, latents: tf.Tensor) -> tf.Tensor:
        """[B, h, w, c] -> int64 [B, h, w], the nearest code of each.

        Distances are float64: where two codes are nearly as far, how many rows are computed at once decides nothing.
        They are computed image by image: of one with 64x64 latents and 8,192 codes they take 268 MB.
        """
        book = tf.cast(tf.convert_to_tensor(self.codebook.value), tf.float64)
        lengths = tf.reduce_sum(book * book, axis=1)

        def of_image(latent: tf.Tensor) -> tf.Tensor:
            rows = tf.cast(tf.reshape(latent, [-1, latent.shape[-1]]), tf.float64)
            codes = tf.argmin(lengths - 2.0 * tf.matmul(rows, book, transpose_b=True), axis=1)
            return tf.reshape(codes, tf.shape(latent)[:-1])

        spec = tf.TensorSpec(latents.shape[1:-1], tf.int64)
        return tf.map_fn(of_image, latents, parallel_iterations=1, fn_output_signature=spec)

    def quantised(self, latents: tf.Tensor) -> tf.Tensor:
        """[B, h, w, c] -> their nearest codes."""
        return tf.gather(tf.convert_to_tensor(self.codebook.value), self.nearest(latents))

    def decode(self, latents: tf.Tensor) -> tf.Tensor:
        """See `Autoencoder`."""
        return self.decode_codes(self.quantised(tf.cast(latents, tf.float32)))

    def decode_codes(self, codes: tf.Tensor) -> tf.Tensor:
        """[B, h, w, c] of the codebook -> [B, H, W, C]."""
        return self.decoder(self.post_quant_conv(codes))


def straight_through(latents: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """`codes`, whose gradient goes to the `latents` that they stand for."""
    return latents + tf.stop_gradient(codes - latents)


@keras.saving.register_keras_serializable(package="tf_ddpm")
class AutoencoderTiny(Autoencoder):
    """A light encoder and a light decoder (Ollin Boer Bohan's TAESD), for images in a hurry."""

    def _make(self) -> None:
        own = self.autoencoder
        self.encoder = coding.LightEncoder(
            own.widths, own.blocks, self.image_channels, own.latent_channels, name="encoder", dtype=self.dtype_policy
        )
        self._make_light_decoder()

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """See `Autoencoder`."""
        return self.encoder(images)

    def decode(self, latents: tf.Tensor) -> tf.Tensor:
        """See `Autoencoder`."""
        return self.decoder(latents)


AUTOENCODERS = {"kl": AutoencoderKL, "vq": VQModel, "tiny": AutoencoderTiny}
