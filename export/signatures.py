"""The serving signatures: seeds in, pixels out, the whole reverse loop inside the graph."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm import build, sampling
from tf_ddpm.sampling import Run


class ServingModule(tf.Module):
    """The EMA network of a run and its sampler as TF Serving sees them.

    TF Serving joins the requests of strangers along dimension 0: there is no scalar input, every input and
    output has the batch as dimension 0, and each row depends on its own inputs alone. A run with classes takes
    `label` int32 [B] as well (-1: no class), and `guidance` float32 [B] where it has the null class.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.network = run.network
        shape = list(run.image_shape)
        process = run.process
        sampler = build.sampler(run.config.sample, process)

        known = run.config.model
        labelled = [tf.TensorSpec([None], tf.int32, name="label")] if known.classes else []
        guided = [tf.TensorSpec([None], tf.float32, name="guidance")] if known.null_class else []

        # One traced network for every signature, so that it stands once in the SavedModel.
        @tf.function(
            input_signature=[tf.TensorSpec([None, *shape], tf.float32), tf.TensorSpec([None], tf.int32), *labelled],
            autograph=False,
        )
        def network(x_t: tf.Tensor, t: tf.Tensor, label: tf.Tensor | None = None) -> tf.Tensor:
            return self.network(x_t, t, label=label)

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.int64, name="seed"), *labelled, *guided], autograph=False
        )
        def sample(
            seed: tf.Tensor, label: tf.Tensor | None = None, guidance: tf.Tensor | None = None
        ) -> dict[str, tf.Tensor]:
            denoiser = sampling.denoiser_of(network, process, label, guidance)
            image, _ = sampling.draw(sampler, denoiser, shape, seed)
            return {"image": image, "seed": tf.identity(seed)}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *shape], tf.float32, name="x_t"),
                tf.TensorSpec([None], tf.int32, name="t"),
                *labelled,
                *guided,
            ],
            autograph=False,
        )
        def denoise(
            x_t: tf.Tensor, t: tf.Tensor, label: tf.Tensor | None = None, guidance: tf.Tensor | None = None
        ) -> dict[str, tf.Tensor]:
            output = sampling.denoiser_of(network, process, label, guidance)(x_t, t)
            return {
                "eps": process.eps_from_output(x_t, t, output),
                "x_0": process.x_0_from_output(x_t, t, output),
            }

        self.endpoints = {"serving_default": sample, "denoise": denoise}
