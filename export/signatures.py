"""The serving signatures: seeds in, pixels out, the whole reverse loop inside the graph."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm import build, sampling
from tf_ddpm.sampling import Run


class ServingModule(tf.Module):
    """The EMA network of a run and its sampler as TF Serving sees them.

    TF Serving joins the requests of strangers along dimension 0: there is no scalar input, every input and
    output has the batch as dimension 0, and each row depends on its own inputs alone.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.network = run.network
        shape = list(run.image_shape)
        process = run.process
        sampler = build.sampler(run.config.sample, process)

        # One traced network for every signature, so that it stands once in the SavedModel.
        @tf.function(
            input_signature=[tf.TensorSpec([None, *shape], tf.float32), tf.TensorSpec([None], tf.int32)],
            autograph=False,
        )
        def denoiser(x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
            return self.network(x_t, t)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="seed")], autograph=False)
        def sample(seed: tf.Tensor) -> dict[str, tf.Tensor]:
            image, _ = sampling.draw(sampler, denoiser, shape, seed)
            return {"image": image, "seed": tf.identity(seed)}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *shape], tf.float32, name="x_t"),
                tf.TensorSpec([None], tf.int32, name="t"),
            ],
            autograph=False,
        )
        def denoise(x_t: tf.Tensor, t: tf.Tensor) -> dict[str, tf.Tensor]:
            output = denoiser(x_t, t)
            return {
                "eps": process.eps_from_output(x_t, t, output),
                "x_0": process.x_0_from_output(x_t, t, output),
            }

        self.endpoints = {"serving_default": sample, "denoise": denoise}
