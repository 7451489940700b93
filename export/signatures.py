"""The serving signatures: seeds in, pixels out, the whole reverse loop inside the graph."""

from __future__ import annotations

import tensorflow as tf

from export import endpoints, traced_codec
from export.endpoints import Compute, Endpoints, Queue
from export.joining import Tensors
from export.limits import Limits
from export.traced_network import TracedNetwork, traced_guide
from tf_ddpm import build
from tf_ddpm.codecs import resampling
from tf_ddpm.codecs.latents import Latents
from tf_ddpm.config import plans as plans_lib
from tf_ddpm.config.distillation import NO_WAY_BACK
from tf_ddpm.config.plans import Plan
from tf_ddpm.diffusion import samplers
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import Levels
from tf_ddpm.sampling import drawing
from tf_ddpm.sampling.image_files import PNG_CHANNELS
from tf_ddpm.sampling.run import Run

_FRAMES = 16  # of `progress`
_REPEATS = 4  # of `inpaint`


class ServingModule(Endpoints):
    """The EMA network of a run and its sampling plans as TF Serving sees them.

    A run with classes takes `label` int32 [B] as well, and where it has the null class, label -1. Where that or a
    guide can guide it, it takes `guidance` float32 [B]. Each request is checked by itself (`limits`); then its rows
    are drawn together with those of others (`joining`).

    Args:
      plans: the first is `serving_default`. max_batch: the most rows of a request. seconds: see `Endpoints`.
      codec_calls: as how many calls of the network an image is decoded, or encoded.
    """

    def __init__(self, run: Run, plans: tuple[Plan, ...], max_batch: int, seconds: float, codec_calls: int = 0):
        known = run.config.model
        latents = isinstance(run.codec, Latents)
        limits = Limits(
            max_batch,
            run.image_shape,
            run.config.diffusion.timesteps,
            known.classes,
            known.null_class,
            takes_guidance=run.config.takes_guidance or run.guide is not None,
            state_shape=run.state_shape if latents else None,
        )
        super().__init__(limits, plans[0].name)
        self._run, self._codec_calls = run, codec_calls
        self._codec = traced_codec.of(run.codec, run.image_shape)
        self._shape = list(run.state_shape)
        # TensorFlow's own variables and not Keras': of a Keras variable a SavedModel holds two, and the checkpoint
        # fills the other one. Python's loader puts that right; TF Serving's does not, and finds no weights.
        self.network_variables = [weight.value for weight in run.all_weights]
        specs = limits.specs()
        condition = {name: specs[name] for name in run.network.conditions}
        self._network = TracedNetwork(run.network, specs["x_t"], condition, run.network.compute_dtype)
        self._guide = traced_guide(run, specs["x_t"], specs)
        self._latent_plan = plans_lib.of_latents(plans, run.config)
        png = run.image_shape[-1] in PNG_CHANNELS
        self._publish(self._queues(plans), seconds, png, [*endpoints.of_run(run), plans])

    def _queues(self, plans: tuple[Plan, ...]) -> dict[str, Queue]:
        """What is drawn for each signature, but `png` and `serving_default`, which stand in the first plan's queue."""
        first, latent, codec = plans[0], self._latent_plan, self._codec_calls
        calls = self._calls(first)
        first_stage = {}
        if isinstance(self._codec, Latents):
            first_stage = traced_codec.queues(self._codec, codec)
        inversion = {}
        if self._run.config.distill.jumps:
            self.left_out = dict.fromkeys(("decode", "encode"), NO_WAY_BACK)
        else:
            inversion = {
                "decode": Queue(self._decode, self._calls(latent), "latent"),
                "encode": Queue(self._encode, latent.steps + codec, "image"),
            }
        repeats = 1 if first.sample.sampler == "consistency" else _REPEATS
        return {plan.name: Queue(self._sampled(plan), self._calls(plan), "seed") for plan in plans} | {
            "progress": Queue(self._progress(first), calls, "seed"),
            "interpolate": Queue(self._interpolated(first), calls, "seed", "seed_2", "mix"),
            "variation": Queue(self._varied(first), calls, "image", "strength", "seed"),
            "inpaint": Queue(self._inpaint(first), first.steps * repeats + 2 * codec, "image", "mask", "seed"),
            "denoise": Queue(self._denoise, 1, "x_t", "t"),
            **inversion,
            **first_stage,
        }

    def _calls(self, plan: Plan) -> int:
        """Calls of the network for a row of the plan."""
        sampler = self._sampler(plan)
        return len(sampler.chain) * sampler.calls + self._codec_calls

    def _denoiser(self, inputs: Tensors, levels: Levels | None) -> Denoiser:
        """Under the request's condition; see `build.denoiser`."""
        condition = {name: inputs[name] for name in self._network.conditions}
        diffusion = self._run.config.diffusion
        interval = build.guidance_interval(self._run.config.sample)
        weight = inputs.get("guidance")
        return build.denoiser(
            diffusion, self._network, condition, weight, levels, guide=self._guide, interval=interval
        )

    def _sampler(self, plan: Plan) -> samplers.Sampler:
        return build.sampler(plan.sample, self._run.chain)

    def _noise(self, seeds: tf.Tensor) -> drawing.ImageNoise:
        return drawing.image_noise(seeds, self._shape)

    def _draw(
        self, inputs: Tensors, sampler: samplers.Sampler, noise: drawing.ImageNoise, num_frames: int = 0
    ) -> tuple[tf.Tensor, tf.Tensor]:
        denoiser = self._denoiser(inputs, sampler.levels)
        return drawing.draw(sampler, denoiser, noise, self._codec, num_frames)

    def _sampled(self, plan: Plan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            image, _ = self._draw(inputs, self._sampler(plan), self._noise(inputs["seed"]))
            return {"image": image}

        return compute

    def _progress(self, plan: Plan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            _, frames = self._draw(inputs, self._sampler(plan), self._noise(inputs["seed"]), _FRAMES)
            return {"frames": frames}

        return compute

    def _interpolated(self, plan: Plan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            ends = self._noise(inputs["seed"]), self._noise(inputs["seed_2"])
            image, _ = self._draw(inputs, self._sampler(plan), drawing.noise_between(*ends, inputs["mix"]))
            return {"image": image}

        return compute

    def _varied(self, plan: Plan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            sampler = self._sampler(plan)
            denoiser, noise = self._denoiser(inputs, sampler.levels), self._noise(inputs["seed"])
            image = drawing.vary(sampler, denoiser, noise, self._codec, inputs["image"], inputs["strength"])
            return {"image": image}

        return compute

    def _inpaint(self, plan: Plan) -> Compute:
        """Ancestral steps, which have no memory, on the plan's chain; of `consistency` its own.

        Of latents those are kept whose pixels all are; at the end the kept pixels themselves take their places.
        """
        factor = self._run.image_shape[0] // self._shape[0]

        def compute(inputs: Tensors) -> Tensors:
            inner = self._sampler(plan)
            if not isinstance(inner, samplers.Consistency):
                inner = samplers.Ancestral(inner.chain, plan.sample.clip)
            kept, given = inputs["mask"] == 255, self._codec.encode(inputs["image"])
            keep = resampling.all_kept(tf.cast(kept, tf.float32), factor)
            sampler = samplers.inpainting(inner, given, keep, _REPEATS)
            image, _ = self._draw(inputs, sampler, self._noise(inputs["seed"]))
            return {"image": tf.where(kept, inputs["image"], image) if isinstance(self._codec, Latents) else image}

        return compute

    def _decode(self, inputs: Tensors) -> Tensors:
        sampler = self._sampler(self._latent_plan)
        latent = inputs["latent"]  # a deterministic sampler asks for no noise
        denoiser = self._denoiser(inputs, sampler.levels)
        x_0, _ = samplers.sample_loop(sampler, denoiser, latent, lambda _: tf.zeros_like(latent))
        own = {"x_0": x_0} if isinstance(self._codec, Latents) else {}  # of pixels this is the image
        return own | traced_codec.images(self._codec, x_0)

    def _encode(self, inputs: Tensors) -> Tensors:
        chain = build.shorter_chain(self._latent_plan.sample, self._run.chain)
        x_0 = self._codec.encode(inputs["image"])
        return {"latent": samplers.ddim_inversion(chain, self._denoiser(inputs, chain.levels), x_0)}

    def _denoise(self, inputs: Tensors) -> Tensors:
        x_t, denoiser = inputs["x_t"], self._denoiser(inputs, None)
        level = self._run.chain.levels.at(inputs["t"], x_t)
        output = denoiser.output(x_t, level)
        return {
            "eps": denoiser.eps_of(x_t, level, output),
            "x_0": denoiser.prediction(x_t, level, output).x_0,
        }
