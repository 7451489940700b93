"""A server that speaks TF Serving's REST API on the signatures of a SavedModel, for tests.

with StandIn(version_dir, model="ddpm", cors=True) as url:
    requests.post(f"{url}/v1/models/ddpm:predict", json={"signature_name": "png", "inputs": {"seed": [7]}})
"""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata|:predict)?")
_CORS = {"Origin": "*", "Methods": "POST, GET", "Headers": "Content-Type"}  # as --rest_api_enable_cors_support sends

_PYTHONS = re.compile(
    r"^Graph execution error:.*<stack traces unavailable>\n| \[Op:\w+\]$", re.DOTALL
)  # around an error
_MALFORMED = (ValueError, TypeError, KeyError, OverflowError)  # of NumPy, and what loaded signatures check in Python


class Refusal(Exception):
    """A status and the words of its answer."""

    def __init__(self, status: int, words: str):
        super().__init__(words)
        self.status = status


class StandIn:
    """One version of one model. As a context manager it gives its address, and serves until it is left.

    Args:
      version_dir: a SavedModel; the version is its name where that is a number, else 1.
      signatures: name -> tf.function with an input signature, or concrete function, with a dict of outputs; beside
        those of the SavedModel or in their place.
      cors: whether pages of other origins may read the answers. port: a free one if 0.
    """

    def __init__(self, version_dir=None, model="ddpm", cors=False, signatures=None, port=0):
        self.model, self.cors, self.version, self.port = model, cors, "1", port
        self.functions, definitions = {}, {}
        if version_dir is not None:
            self.version = Path(version_dir).name if Path(version_dir).name.isdecimal() else "1"
            self._loaded = tf.saved_model.load(str(version_dir))  # (its variables live as long as it does)
            self.functions |= self._loaded.signatures
            file = (Path(version_dir) / "saved_model.pb").read_bytes()
            definitions |= saved_model_pb2.SavedModel.FromString(file).meta_graphs[0].signature_def
        for name, function in (signatures or {}).items():
            self.functions[name] = getattr(function, "get_concrete_function", lambda f=function: f)()
            definitions[name] = _definition(self.functions[name])
        self.definitions = get_model_metadata_pb2.SignatureDefMap(signature_def=definitions)

    def __enter__(self) -> str:
        self._server = ThreadingHTTPServer(("localhost", self.port), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://localhost:{self._server.server_port}"

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        """The status and the text that a request gets; a test of faults overrides it."""
        try:
            return 200, json.dumps(self._route(method, path, body))
        except Refusal as refusal:
            return refusal.status, json.dumps({"error": str(refusal)})
        except tf.errors.InvalidArgumentError as error:
            return 400, json.dumps({"error": _PYTHONS.sub("", error.message)})
        except _MALFORMED as error:
            return 400, json.dumps({"error": str(error)})

    def _route(self, method: str, path: str, body: bytes) -> dict:
        found = _PATH.fullmatch(path)
        if found is None or method != ("POST" if found[3] == ":predict" else "GET"):
            raise Refusal(404, f"Malformed request: {method} {path}")
        if unquote(found[1]) != self.model or found[2] not in (None, self.version):
            raise Refusal(404, f"Servable not found for request: Latest({unquote(found[1])})")
        if found[3] == ":predict":
            return self._predict(json.loads(body))
        if found[3] is None:
            status = {"error_code": "OK", "error_message": ""}
            return {"model_version_status": [{"version": self.version, "state": "AVAILABLE", "status": status}]}
        signatures = json_format.MessageToDict(
            self.definitions, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        spec = {"name": self.model, "signature_name": "", "version": self.version}
        return {"model_spec": spec, "metadata": {"signature_def": signatures}}

    def _predict(self, request: dict) -> dict:
        if not isinstance(request, dict):
            raise Refusal(400, f"JSON Value: {request} Is not object")
        name = request.get("signature_name", "serving_default")
        if name not in self.functions:
            raise Refusal(400, f'Serving signature name: "{name}" not found in signature def')
        if ("inputs" in request) == ("instances" in request):
            raise Refusal(400, "Expecting one of 'inputs' and 'instances'")
        infos = self.definitions.signature_def[name].inputs
        values = request["inputs"] if "inputs" in request else _columns(request["instances"], sorted(infos))
        values = _named(values, sorted(infos))
        missing = [key for key in sorted(infos) if key not in values]
        if missing:
            raise Refusal(400, f"Missing named input: {missing[0]} in 'inputs' object.")
        tensors = {key: tf.constant(_array(values[key], tf.as_dtype(info.dtype))) for key, info in infos.items()}
        outputs = {key: _plain(key, value.numpy()) for key, value in self.functions[name](**tensors).items()}
        if "inputs" in request:
            return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
        rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
        return {"predictions": rows if len(outputs) > 1 else [next(iter(row.values())) for row in rows]}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, text = 200, ""
                if self.command != "OPTIONS":
                    status, text = stand_in.answer(self.command, self.path, body)
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in _CORS.items() if stand_in.cors else ():
                    self.send_header(f"Access-Control-Allow-{name}", value)
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_OPTIONS = do_GET

            def log_message(self, *_):
                pass

        return Handler


def _definition(function) -> meta_graph_pb2.SignatureDef:
    """What a SavedModel's signature_def would say of a concrete function."""
    info = lambda name, spec: meta_graph_pb2.TensorInfo(  # noqa: E731
        name=f"{name}:0", dtype=spec.dtype.as_datatype_enum, tensor_shape=spec.shape.as_proto()
    )
    inputs = {spec.name: info(spec.name, spec) for spec in tf.nest.flatten(function.structured_input_signature)}
    outputs = {name: info(name, spec) for name, spec in function.structured_outputs.items()}
    return meta_graph_pb2.SignatureDef(inputs=inputs, outputs=outputs, method_name="tensorflow/serving/predict")


def _named(value, names: list[str]) -> dict:
    """An object of inputs; a single input may come without its name."""
    if isinstance(value, dict) and set(value) != {"b64"}:
        return value
    if len(names) > 1:
        raise Refusal(400, f"plain value/list, but expecting an object as multiple inputs are required: {names}")
    return {names[0]: value}


def _columns(instances, names: list[str]) -> dict:
    """The columns of rows."""
    if not isinstance(instances, list) or not instances:
        raise Refusal(400, "Expecting 'instances' to be a list with values")
    rows = [_named(row, names) for row in instances]
    for i, row in enumerate(rows):
        if sorted(row) != names:
            raise Refusal(400, f"Failed to process element: {i} of 'instances' list. keys must be: {','.join(names)}")
    return {name: [row[name] for row in rows] for name in names}


def _array(value, dtype: tf.DType) -> np.ndarray:
    """As TF Serving's parser reads it: 7.0 and true are no integers, and more bits than uint8 has are cut off."""
    if dtype == tf.string:
        decode = lambda v: [decode(x) for x in v] if isinstance(v, list) else base64.b64decode(v["b64"])  # noqa: E731
        return np.array(decode(value), object)
    array = np.array(value)
    if array.size and array.dtype.kind not in ("iu" if dtype.is_integer else "iuf"):
        raise Refusal(400, f"JSON Value: {str(value)[:80]} is not of expected type: {dtype.name}")
    if dtype.is_integer:
        parsed = np.iinfo(np.int64 if dtype == tf.int64 else np.int32)
        if array.size and (array.min() < parsed.min or array.max() > parsed.max):
            raise Refusal(400, f"JSON Value: {str(value)[:80]} is not of expected type: {dtype.name}")
        array = array.astype(parsed.dtype)
    return array.astype(dtype.as_numpy_dtype)


def _plain(name: str, value: np.ndarray):
    """Lists for JSON; strings as base64 where the output's name says that they are bytes."""
    if value.dtype != object:
        return value.tolist()
    text = lambda s: {"b64": base64.b64encode(s).decode()} if name.endswith("_bytes") else s.decode()  # noqa: E731
    return np.vectorize(text, otypes=[object])(value).tolist()
