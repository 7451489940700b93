"""Images from a server:  python -m export.client --url=http://localhost:8501 --num_images=16 --out=grid.png

--url=http://HOST:8501 asks over REST, --url=grpc://HOST:8500 over gRPC; both ask the signature `png`.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
import requests
from absl import app, flags
from PIL import Image

from tf_ddpm import image_files
from tf_ddpm.errors import UserError

FLAGS = flags.FLAGS
_SECONDS = 600


def ask_rest(url: str, model: str, inputs: dict[str, list]) -> list[bytes]:
    """The PNGs that the server draws for one request, by TF Serving's REST API.

    Raises:
      UserError: with the server's own words where it refuses, or where there is none.
    """
    body = {"signature_name": "png", "inputs": inputs}
    try:
        answer = requests.post(f"{url.rstrip('/')}/v1/models/{model}:predict", json=body, timeout=_SECONDS)
        content = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise UserError(f"no answer from {url}: {str(error)[:200]}") from None
    if answer.status_code != 200:
        raise UserError(f"{url} refuses ({answer.status_code}): {' '.join(str(content.get('error')).split())[:300]}")
    return [base64.b64decode(row["b64"]) for row in content["outputs"]["png_bytes"]]


def ask_grpc(url: str, model: str, inputs: dict[str, list]) -> list[bytes]:
    """The same by gRPC.

    Raises:
      UserError: as `ask_rest`.
    """
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, "png"
    dtypes = {"seed": np.int64, "label": np.int32, "guidance": np.float32}
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array(value, dtypes[name])))
    try:
        with grpc.insecure_channel(url.removeprefix("grpc://")) as channel:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=_SECONDS)
    except grpc.RpcError as error:
        raise UserError(f"{url} refuses ({error.code().name}): {error.details()[:300]}") from None
    return list(tf.make_ndarray(answer.outputs["png_bytes"]))


def fetch(
    url: str,
    seeds: range,
    label: int | None = None,
    guidance: float | None = None,
    model: str = "ddpm",
    batch: int = 16,
) -> np.ndarray:
    """The images uint8 [N, H, W, C] of the seeds, `batch` of them in a request.

    Raises:
      UserError: for an address that is neither http(s):// nor grpc://, or where the server does not answer.
    """
    ask = {"http": ask_rest, "https": ask_rest, "grpc": ask_grpc}.get(url.partition("://")[0])
    if ask is None:
        raise UserError(f"--url={url}: expected http://HOST:8501 or grpc://HOST:8500")
    pngs = []
    for start in range(0, len(seeds), batch):
        part = list(seeds[start : start + batch])
        inputs = {"seed": part}
        if label is not None:
            inputs["label"] = [label] * len(part)
        if guidance is not None:
            inputs["guidance"] = [guidance] * len(part)
        pngs += ask(url, model, inputs)
    images = [np.asarray(Image.open(io.BytesIO(png))) for png in pngs]
    return np.stack([image if image.ndim == 3 else image[..., None] for image in images])


def main(_: list[str]) -> int:
    """Writes the grid."""
    try:
        seeds = range(FLAGS.seed, FLAGS.seed + FLAGS.num_images)
        images = fetch(FLAGS.url, seeds, FLAGS.label, FLAGS.guidance, FLAGS.model, FLAGS.batch)
        print(f"wrote {image_files.save_image(image_files.grid(images), Path(FLAGS.out))}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("url", "http://localhost:8501", "The server: http://HOST:8501 or grpc://HOST:8500.")
    flags.DEFINE_string("model", "ddpm", "The model's name there.")
    flags.DEFINE_integer("num_images", 16, "How many images.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the first.")
    flags.DEFINE_integer("label", None, "Class of all of them, for a run with classes; -1: none.")
    flags.DEFINE_float("guidance", None, "Weight of the class, for a run with a null class.")
    flags.DEFINE_integer("batch", 16, "Images in a request.", lower_bound=1)
    flags.DEFINE_string("out", "grid.png", "Where the grid goes.")
    app.run(main)
