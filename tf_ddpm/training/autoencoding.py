"""The gradient of an update of an autoencoder: what comes back is like what went in, and latents stay in bounds.

With an adversarial weight a second network learns to tell patches of real images from those that came back, and the
autoencoder learns to deceive it (Esser et al. 2021, "VQGAN"; no pretrained network is needed).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from tf_ddpm import build, randomness
from tf_ddpm.codecs import resampling
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.config import AutoencoderConfig, Config, LatentScale
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.networks import autoencoder as autoencoders
from tf_ddpm.networks.autoencoder import Autoencoder
from tf_ddpm.sampling import first_stage
from tf_ddpm.training import accumulation, spread
from tf_ddpm.training.conditions import cropped
from tf_ddpm.training.state import TrainState, flattened, network_variables

_SCALES = (2, 4, 8)
_SCALE_IMAGES = 2000  # of which the scale of latents is estimated
_MOST_WEIGHT = 1e4  # of the adversarial gradient
_LATENT_SIZE = 1e-6  # weight of the mean square of a latent that has no noise, so that it does not grow for ever


def further_metrics(autoencoder: AutoencoderConfig) -> tuple[str, ...]:
    """What is logged of an update beside its loss: `TrainState.further`."""
    names = ("l1", "multiscale_l1", {"kl": "kl", "vq": "commitment", "tiny": "latent_size"}[autoencoder.kind])
    return (*names, "judged_real", "judged_fake") if autoencoder.adversarial else names


def make_differentiate(state: TrainState, config: Config) -> Callable[[dict], tuple]:
    """A replica's part of the loss and its gradient.

    Gives the gradient [N] of the global batch and its norm, this replica's share of the loss and of `further_metrics`,
    and nothing.
    """
    network, train, own = state.network, config.train, config.autoencoder
    judge = _Judge(network, own) if own.adversarial else None

    def of_rows(images: tf.Tensor, *drawn_and_address: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        noise = drawn_and_address[0] if own.kind == "kl" else None
        share = 1.0 / train.batch_size
        variables = network_variables(network)
        judges = state.step >= own.adversarial_start
        with tf.GradientTape(persistent=judge is not None) as tape:
            drawn, parts = _reconstruction(network, own, images, noise)
            loss = share * tf.reduce_sum(_weighted(own, parts))
            if judge is not None:
                deceit, judgement, seen = judge(images, drawn)
                parts, deceit, judgement = [*parts, *seen], share * deceit, share * judgement
        gradients = [_gradient(tape, loss, variables)]
        if judge is not None:
            # Until it judges, it has no part in the gradient, and learns nothing.
            none = tf.zeros_like(gradients[0])
            own_part, other = ([chosen == mine for chosen in judge.own] for mine in (True, False))
            of_judge = tf.cond(judges, lambda: _gradient(tape, judgement, variables, own_part), lambda: none)
            of_deceit = tf.cond(judges, lambda: _gradient(tape, deceit, variables, other), lambda: none)
            gradients = [gradients[0] + of_judge, of_deceit]
        totals = tf.stack([loss, *(share * tf.reduce_sum(part) for part in parts)])
        return tf.stack(gradients), totals, parts[0]

    if train.jit == "step":
        of_rows = tf.function(of_rows, jit_compile=True, autograph=False)

    def differentiate(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        images, address = Pixels().encode(batch["image"]), batch["address"]
        if train.crop is not None:
            (images,) = cropped(train.crop, 1, address, images)
        rows: tuple[tf.Tensor, ...] = (images,)
        if own.kind == "kl":  # outside of what XLA compiles, whose random numbers are others
            shape = [*(side // network.factor for side in images.shape[1:3]), own.latent_channels]
            rows += (randomness.row_normal(address, randomness.NOISE, tf.shape(images)[0], shape),)
        gradients, totals, _ = accumulation.in_parts(of_rows, train.accumulate, rows, address)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradient = gradients[0] if judge is None else judge.together(*tf.unstack(gradients, num=2))
        return gradient, tf.sqrt(2.0 * tf.nn.l2_loss(gradient)), totals, tf.zeros([])

    return differentiate


def _gradient(
    tape: tf.GradientTape, loss: tf.Tensor, variables: list[tf.Variable], chosen: list[bool] | None = None
) -> tf.Tensor:
    """float32 [N], 0 for those of the variables that are not `chosen`."""
    chosen = chosen or [True] * len(variables)
    sources = [variable for variable, wanted in zip(variables, chosen, strict=True) if wanted]
    found = iter(tape.gradient(loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO))
    parts = [next(found) if wanted else tf.zeros(v.shape) for v, wanted in zip(variables, chosen, strict=True)]
    return flattened(parts)


def _reconstruction(
    network: Autoencoder, own: AutoencoderConfig, images: tf.Tensor, noise: tf.Tensor | None
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """What comes back of `images`, and for each of them its distance [B], that of smaller versions, and what keeps the
    latents in bounds.

    Args:
      noise: standard normal, of the latents' shape, for `kl`.
    """
    if own.kind == "kl":
        mean, log_variance = network.moments(images)
        drawn = network.decode(mean + tf.exp(0.5 * log_variance) * noise)
        # Rombach et al. sum distances over all numbers of an image; where they are means, so is this.
        bound = autoencoders.kl_divergence(mean, log_variance) / float(math.prod(images.shape[1:]))
    elif own.kind == "vq":
        latents = network.encode(images)
        codes = network.quantised(latents)
        drawn = network.decode_codes(autoencoders.straight_through(latents, codes))
        # The codes come to the latents, and the latents, less eagerly, to the codes.
        bound = _mean(tf.square(tf.stop_gradient(latents) - codes))
        bound += own.commitment * _mean(tf.square(latents - tf.stop_gradient(codes)))
    else:
        latents = network.encode(images)
        drawn = network.decode(latents)
        bound = _mean(tf.square(latents))
    return drawn, [_mean(tf.abs(drawn - images)), multiscale_l1(drawn, images), bound]


def multiscale_l1(drawn: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """[B]: the mean over smaller versions (2, 4 and 8 times, by the area's mean) of their L1 distance.

    A blurred edge is near in each pixel, and still wrong in the mean of a few.
    """
    difference, (height, width) = drawn - images, images.shape[1:3]
    scales = [scale for scale in _SCALES if height % scale == 0 and width % scale == 0]
    distances = [_mean(tf.abs(resampling.area_mean(difference, scale))) for scale in scales]
    return tf.add_n(distances) / len(scales) if scales else tf.zeros(tf.shape(images)[:1])


def _weighted(own: AutoencoderConfig, parts: list[tf.Tensor]) -> tf.Tensor:
    """The loss [B] of the parts of `_reconstruction`."""
    l1, multiscale, bound = parts
    weight = {"kl": own.kl_weight, "vq": 1.0, "tiny": _LATENT_SIZE}[own.kind]
    return l1 + own.multiscale * multiscale + weight * bound


def _mean(values: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B]."""
    return tf.reduce_mean(values, axis=[1, 2, 3])


class _Judge:
    """The network that judges patches, in training.

    Attributes:
      own: for each weight of the whole, whether it is the judge's, and not the autoencoder's.
    """

    def __init__(self, network: Autoencoder, own: AutoencoderConfig):
        self._discriminator, self._weight = network.discriminator, own.adversarial
        ids = {id(weight) for weight in network.discriminator.weights}
        self.own = [id(weight) in ids for weight in network.weights]
        self._last_layer = [weight is network.last_layer.kernel for weight in network.weights]
        self._sizes = [variable.shape.num_elements() for variable in network_variables(network)]

    def __call__(self, images: tf.Tensor, drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """What the autoencoder loses, what the judge loses (hinge), summed over the rows; and what it says [B]."""
        real, fake = self._discriminator(images), self._discriminator(drawn)
        losses = 0.5 * (_mean(tf.nn.relu(1.0 - real)) + _mean(tf.nn.relu(1.0 + fake)))
        return -tf.reduce_sum(_mean(fake)), tf.reduce_sum(losses), [_mean(real), _mean(fake)]

    def together(self, gradient: tf.Tensor, deceit: tf.Tensor) -> tf.Tensor:
        """The sum of two gradients [N] of the global batch, the second as strong at the last layer as the first."""
        place = self._last_layer.index(True)
        sizes = [tf.norm(tf.split(part, self._sizes)[place]) for part in (gradient, deceit)]
        weight = tf.clip_by_value(sizes[0] / (sizes[1] + 1e-4), 0.0, _MOST_WEIGHT)
        return gradient + self._weight * weight * deceit


def scale(config: Config, state: TrainState, images: ImageSet, step: int) -> LatentScale:
    """That of the latents of an autoencoder which is trained to its end, at `step`."""
    network = build.autoencoder(config, "float32", judged=config.autoencoder.adversarial > 0)
    for weight, average in zip(network.weights, state.ema_network.weights, strict=True):
        weight.assign(average)
    return first_stage.estimate(network, spread.parts(images, _SCALE_IMAGES, "measuring latents"), step)
