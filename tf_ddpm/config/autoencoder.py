"""The keys of autoencoders, and of runs that diffuse the latents of one."""

from __future__ import annotations

import dataclasses

from tf_ddpm.config.fields import key


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The first stage of latent diffusion (Rombach et al. 2022): a network that makes images small, and back."""

    kind: str = key(
        "none",
        "what the run trains: none, a network that denoises; kl, vq, tiny, an autoencoder",
        choices=("none", "kl", "vq", "tiny"),
    )
    widths: tuple[int, ...] = key((32, 64, 64), "width of each level, the finest first", low=1, high=4096)
    blocks: int = key(1, "residual blocks per level; kl and vq have one more on the way back", low=1, high=64)
    attention_levels: tuple[int, ...] = key((), "levels with self-attention, 0 the finest", low=0, high=16)
    middle_attention: bool = key(True, "self-attention at the coarsest level")
    groups: int = key(8, "groups of each GroupNorm", low=1, high=4096)
    norm_epsilon: float = key(1e-6, "epsilon of each GroupNorm", above=0.0, high=1.0)
    latent_channels: int = key(4, "channels of a latent", low=1, high=4096)
    decoder: str = key("full", "full, or light: without normalisation and attention", choices=("full", "light"))
    quant_conv: bool = key(True, "a 1x1 convolution behind the encoder, for kind=kl")
    post_quant_conv: bool = key(True, "a 1x1 convolution before the decoder, for kind=kl")
    codes: int = key(1024, "vectors of the codebook, for kind=vq", low=2, high=10**6)
    code_channels: int | None = key(None, "length of a code, for kind=vq; none: latent_channels", low=1, high=4096)
    kl_weight: float = key(1e-6, "weight of the KL divergence in the loss, for kind=kl", low=0.0, high=1e3)
    commitment: float = key(0.25, "weight of a latent's distance to its code, for kind=vq", low=0.0, high=100.0)
    multiscale: float = key(1.0, "weight of the L1 distance between smaller versions of the images", low=0.0, high=1e3)
    adversarial: float = key(0.0, "weight of a network that judges patches; 0: there is none", low=0.0, high=100.0)
    adversarial_start: int = key(0, "update from which on patches are judged", low=0, high=10**9)
    adversarial_channels: int = key(32, "width of the network that judges patches", low=8, high=1024)

    @property
    def trained(self) -> bool:
        """Whether the run trains an autoencoder."""
        return self.kind != "none"

    @property
    def factor(self) -> int:
        """How many times smaller than an image its latent is, per side."""
        return 2 ** (len(self.widths) - 1)

    @property
    def state_channels(self) -> int:
        """Channels of what `encode` gives: of a code for kind=vq."""
        return self.code_channels or self.latent_channels if self.kind == "vq" else self.latent_channels


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """What stands between images and what is diffused: nothing but a scale, or an autoencoder."""

    run: str | None = key(
        None, "the run of the autoencoder whose latents are diffused, of which the run takes a copy", freezes="data"
    )
    factor: int | None = key(
        None, "how many times smaller a latent is, per side", low=1, high=1024, freezes="data", resolves=True
    )
    channels: int | None = key(None, "channels of a latent", low=1, high=4096, freezes="data", resolves=True)
    sha256: str | None = key(None, "of the copy", freezes="data", resolves=True, later=True)
    cached: bool = key(True, "encode all images once and keep their latents, or each when it is used", freezes="never")


@dataclasses.dataclass(frozen=True)
class LatentScale:
    """What is diffused is (latent - shift) * scale, channel by channel.

    Attributes:
      images: from how many images they were estimated; 0: they came with the weights.
      checkpoint_step: of which weights.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    images: int = 0
    checkpoint_step: int = 0
