"""The serving signatures: seeds in, pixels out, the whole reverse loop inside the graph."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import tensorflow as tf

from export import plans as plans_lib
from export.limits import Limits
from export.plans import Plan
from tf_ddpm import build, pixels, samplers, sampling
from tf_ddpm.image_files import PNG_CHANNELS
from tf_ddpm.objectives import Denoiser
from tf_ddpm.process import DiffusionProcess
from tf_ddpm.sampling import Run

_FRAMES = 16  # of `progress`
_INPAINTING_REPEATS = 4
_CLASS = ("label", "guidance")

Tensors = dict[str, tf.Tensor]


class ServingModule(tf.Module):
    """The EMA network of a run and its sampling plans as TF Serving sees them.

    TF Serving joins the requests of strangers along dimension 0: there is no scalar input, every input and output
    has the batch as dimension 0, and each row depends on its own inputs alone. A run with classes takes `label`
    int32 [B] as well, and where it has the null class, `guidance` float32 [B] and label -1. A row that is not legal
    fails its whole batch (`limits`), as TF Serving has it.

    Args:
      plans: the first is `serving_default`. max_batch: the most rows of a request.
    """

    def __init__(self, run: Run, plans: tuple[Plan, ...], max_batch: int):
        super().__init__()
        self._run, self._process, self._shape = run, run.process, list(run.image_shape)
        # TensorFlow's own variables and not Keras': of a Keras variable a SavedModel holds two, and the checkpoint
        # fills the other one. Python's loader puts that right; TF Serving's does not, and finds no weights.
        self.network_variables = [weight.value for weight in run.network.weights]
        known = run.config.model
        self.limits = Limits(
            max_batch, run.image_shape, run.config.diffusion.timesteps, known.classes, known.null_class
        )
        self._traced = self._trace_network()
        self._latent_plan = plans_lib.of_latents(plans, run.config)
        first, steps = plans[0], self._latent_plan.sample.steps
        self.endpoints: dict[str, Callable] = {}
        self.inputs: dict[str, list[str]] = {}  # signature -> names of its inputs
        self.steps: dict[str, int] = {}  # signature -> length of its chain
        for plan in plans:
            self._add(plan.name, self._sampled(plan), plan.sample.steps, "seed")
        for table in (self.endpoints, self.inputs, self.steps):
            table["serving_default"] = table[first.name]
        if self._shape[-1] in PNG_CHANNELS:
            self._add("png", self._png(first), first.sample.steps, "seed")
        self._add("progress", self._progress(first), first.sample.steps, "seed")
        self._add("decode", self._decode, steps, "latent")
        self._add("encode", self._encode, steps, "image")
        self._add("inpaint", self._inpaint(first), first.sample.steps, "image", "mask", "seed")
        self._add("denoise", self._denoise, 1, "x_t", "t")

    def _trace_network(self) -> SimpleNamespace:
        """The network's three parts, each traced once for all signatures: it stands once in the SavedModel."""
        network, specs = self._run.network, self.limits.specs()
        embedding = tf.TensorSpec([None, network.settings["time_width"]], network.compute_dtype)
        label = [specs["label"]] if "label" in specs else []
        traced = lambda *signature: tf.function(input_signature=signature, autograph=False)  # noqa: E731
        injections = traced(embedding, *label)(network.injections)
        injected = tf.TensorSpec([None, injections.get_concrete_function().output_shapes[1]], network.compute_dtype)
        return SimpleNamespace(
            settings=network.settings,
            embedding=traced(specs["t"])(network.embedding),
            injections=injections,
            forward=traced(specs["x_t"], injected)(network.forward),
        )

    def _add(self, signature: str, compute: Callable[[Tensors], Tensors], steps: int, *names: str) -> None:
        """`compute` as a signature whose inputs are `names` and, where the run has them, label and guidance."""
        specs = self.limits.specs()
        names = [*names, *(name for name in _CLASS if name in specs)]

        @tf.function(input_signature=[specs[name] for name in names], autograph=False)
        def endpoint(*values: tf.Tensor) -> Tensors:
            return compute(self.limits.checked(dict(zip(names, values, strict=True))))

        self.endpoints[signature], self.inputs[signature], self.steps[signature] = endpoint, names, steps

    def _denoiser(self, inputs: Tensors, chain: DiffusionProcess) -> Denoiser:
        network = sampling.hoisted(self._traced, chain.timesteps)
        return sampling.denoiser_of(network, chain, inputs.get("label"), inputs.get("guidance"))

    def _plain(self, x_t: tf.Tensor, t: tf.Tensor, *label: tf.Tensor) -> tf.Tensor:
        return self._traced.forward(x_t, self._traced.injections(self._traced.embedding(t), *label))

    def _sampler(self, plan: Plan) -> samplers.Sampler:
        return build.sampler(plan.sample, self._process)

    def _sampled(self, plan: Plan) -> Callable[[Tensors], Tensors]:
        def compute(inputs: Tensors) -> Tensors:
            sampler = self._sampler(plan)
            denoiser = self._denoiser(inputs, sampler.process)
            image, _ = sampling.draw(sampler, denoiser, self._shape, inputs["seed"])
            return {"image": image, "seed": tf.identity(inputs["seed"])}

        return compute

    def _png(self, plan: Plan) -> Callable[[Tensors], Tensors]:
        def compute(inputs: Tensors) -> Tensors:
            drawn = self._sampled(plan)(inputs)
            png = tf.map_fn(tf.io.encode_png, drawn["image"], fn_output_signature=tf.TensorSpec([], tf.string))
            return {"png_bytes": png, "seed": drawn["seed"]}

        return compute

    def _progress(self, plan: Plan) -> Callable[[Tensors], Tensors]:
        def compute(inputs: Tensors) -> Tensors:
            sampler = self._sampler(plan)
            denoiser = self._denoiser(inputs, sampler.process)
            _, frames = sampling.draw(sampler, denoiser, self._shape, inputs["seed"], _FRAMES)
            return {"frames": frames, "seed": tf.identity(inputs["seed"])}

        return compute

    def _decode(self, inputs: Tensors) -> Tensors:
        sampler = self._sampler(self._latent_plan)
        latent = inputs["latent"]  # a deterministic sampler asks for no noise
        denoiser = self._denoiser(inputs, sampler.process)
        x_0, _ = samplers.sample_loop(sampler, denoiser, latent, lambda _: tf.zeros_like(latent))
        x_0 = tf.clip_by_value(x_0, -1.0, 1.0)
        return {"image_float": x_0, "image": pixels.to_pixels(x_0)}

    def _encode(self, inputs: Tensors) -> Tensors:
        chain = build.chain(self._latent_plan.sample, self._process)
        x_0 = pixels.to_unit(inputs["image"])
        return {"latent": samplers.ddim_inversion(chain, self._denoiser(inputs, chain), x_0)}

    def _inpaint(self, plan: Plan) -> Callable[[Tensors], Tensors]:
        """Ancestral steps, which have no memory, on the plan's chain."""

        def compute(inputs: Tensors) -> Tensors:
            inner = samplers.Ancestral(build.chain(plan.sample, self._process), plan.sample.clip)
            keep = tf.cast(inputs["mask"] == 255, tf.float32)
            given = pixels.to_unit(inputs["image"])
            sampler = samplers.Inpainting(inner, given, keep, _INPAINTING_REPEATS)
            denoiser = self._denoiser(inputs, sampler.process)
            image, _ = sampling.draw(sampler, denoiser, self._shape, inputs["seed"])
            return {"image": image, "seed": tf.identity(inputs["seed"])}

        return compute

    def _denoise(self, inputs: Tensors) -> Tensors:
        x_t, t = inputs["x_t"], inputs["t"]
        output = sampling.denoiser_of(self._plain, self._process, inputs.get("label"), inputs.get("guidance"))(x_t, t)
        return {
            "eps": self._process.eps_from_output(x_t, t, output),
            "x_0": self._process.x_0_from_output(x_t, t, output),
        }
