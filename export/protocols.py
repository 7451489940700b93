"""TF Serving's two protocols, from a caller's side: a request for PNGs, and each failure in one line."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import requests

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import quiet_tensorflow

_SECONDS = 600  # for one request
_CONNECTING = 20  # seconds
_GRPC_DEFAULT = 4 * 2**20  # bytes that gRPC takes in one message if it is told nothing
_URL = re.compile(
    r"(?P<scheme>https?|grpc)://(?P<host>\[[\da-fA-F:.]+\]|[\w-]+(?:\.[\w-]+)*\.?)(?::(?P<port>\d{1,5}))?/?"
)
_REST_PORT = "expected TF Serving's port for REST, 8501 unless set otherwise"
_PROXIES = {  # the variables that are heeded, the first one first, and the one of the exceptions
    "http": (("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "no_proxy"),
    "https": (("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "no_proxy"),
    "grpc": (("grpc_proxy", "https_proxy", "http_proxy"), "no_grpc_proxy"),
}

Inputs = dict[str, list]
Ask = Callable[[Inputs], list[bytes]]  # one request -> its PNGs


@dataclasses.dataclass(frozen=True)
class Server:
    """What --url says."""

    url: str
    scheme: str
    host: str
    port: str | None

    @property
    def is_this_machine(self) -> bool:
        """Whether it is a loopback address, to which no proxy is asked: there it would be the proxy's own machine."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host.rstrip(".").lower() == "localhost"

    @property
    def by_proxy(self) -> str:
        """Words that name the variable whose proxy is in between, or none."""
        heeded, exceptions = _PROXIES[self.scheme]
        name = next((name for name in heeded if os.environ.get(name)), None)
        at = self.url.replace("grpc://", "http://")
        direct = self.is_this_machine or requests.utils.should_bypass_proxies(at, os.environ.get(exceptions))
        if name is None or direct:
            return ""
        return f" (through the proxy that {name} sets; no_proxy={self.host.strip('[]')} goes without)"

    def silent(self, reason: str) -> UserError:
        """There is no answer."""
        return UserError(f"no answer from {self.url}: {plain(reason) or 'no reason given'}{self.by_proxy}")

    def strange(self, what: str) -> UserError:
        """There is an answer, and it is not one of an export's signature `png`."""
        return UserError(f"{self.url} gives no images: {plain(what)}{self.by_proxy}")

    def refuses(self, code: int | str, words: str, model: str) -> UserError:
        """The server's own words, and what they may mean."""
        meaning = ""
        if code in (404, "NOT_FOUND"):
            meaning = f"; --model={model} is no model there, or is still being loaded"
        elif code in (503, "UNAVAILABLE", 429, "RESOURCE_EXHAUSTED"):
            meaning = "; it may be loading or busy: try again, or a smaller --batch"
        elif code == "UNIMPLEMENTED":
            meaning = "; expected TF Serving's port for gRPC, 8500 unless set otherwise"
        return UserError(f"{self.url} refuses ({code}): {_words(words)}{meaning}")


def server_of(url: str) -> Server:
    """The server that --url names.

    Raises:
      UserError: for an address of another form.
    """
    parts = _URL.fullmatch(url)
    if parts and _is_legal(**parts.groupdict()):
        return Server(url.rstrip("/"), **parts.groupdict())
    raise UserError(f"--url={plain(url)}: expected http://HOST:8501, https://HOST[:PORT] or grpc://HOST:8500")


def _is_legal(scheme: str, host: str, port: str | None) -> bool:
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host.strip("[]"))
        except ValueError:
            return False
    return 0 < int(port) < 2**16 if port else scheme != "grpc"


def plain(text: str) -> str:
    """The text as one line of limited length, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _words(text: str) -> str:
    """What an error of TF Serving says, without the names of the graph's nodes.

    `{{function_node f}} assertion failed: [t: expected 0 to 9, got] [12 12]\\n [[{{node g}}]]` is
    `t: expected 0 to 9, got 12`.
    """
    checked = re.search(r"assertion failed: \[(.*?)\] \[([^\]]*)\]", text, re.DOTALL)
    if checked:
        values = list(dict.fromkeys(checked[2].removesuffix("...").split()))
        return plain(f"{checked[1]} {values[0] if len(values) == 1 else f'[{checked[2]}]'}")
    text = re.sub(r"\d+ root error\(s\) found\.\s*\(0\) (?:\w+: )?", "", text).split("\n  (1) ")[0]
    return plain(re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[_Derived_\]|\[Op:\w+\]", "", text)) or "no words"


def _cause(error: BaseException) -> str:
    """What was wrong first: the libraries wrap it several times."""
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection ended in the middle of the answer"
    while inner := error.__cause__ or error.__context__:
        error = inner
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return f"it does not speak HTTP; {_REST_PORT}"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"^\[SSL: \w+\] (.*?)(?: \(_ssl\.c:\d+\))?$", r"TLS: \1", words)


def connect(server: Server, model: str, rows: int) -> contextlib.AbstractContextManager[Ask]:
    """While it is entered, a function from the inputs of a request, at most `rows` of them, to its PNGs.

    The function raises:
      UserError: where the server refuses, with its own words, does not answer, or answers something else.
    """
    return (_grpc if server.scheme == "grpc" else _rest)(server, model, rows)


@contextlib.contextmanager
def _rest(server: Server, model: str, _: int) -> Iterator[Ask]:
    """TF Serving's REST API."""
    # Not trust_env=False: that would also leave out the certificates that REQUESTS_CA_BUNDLE names.
    proxies = {"no_proxy": server.host.strip("[]")} if server.is_this_machine else {}

    def ask(inputs: Inputs) -> list[bytes]:
        body = {"signature_name": "png", "inputs": inputs}
        try:
            answer = session.post(
                f"{server.url}/v1/models/{model}:predict",
                json=body,
                timeout=(_CONNECTING, _SECONDS),
                allow_redirects=False,
                proxies=proxies,
            )
        except requests.ReadTimeout:
            raise server.silent(f"nothing within {_SECONDS} s") from None
        except (requests.RequestException, ValueError) as error:
            raise server.silent(_cause(error)) from None
        return _pngs_of_json(server, model, answer)

    with requests.Session() as session:
        yield ask


def _pngs_of_json(server: Server, model: str, answer: requests.Response) -> list[bytes]:
    try:
        content, is_json = answer.json(), True
    except (ValueError, RecursionError):
        content, is_json = None, False
    if answer.status_code != 200:
        if isinstance(content, dict) and isinstance(content.get("error"), str):
            raise server.refuses(answer.status_code, content["error"], model)
        to = f" to {answer.headers['Location']}" if "Location" in answer.headers else ""
        status = f"{answer.status_code} {answer.reason}"
        raise server.strange(f"{status}{to}; {_REST_PORT}")
    if not is_json:
        kind = answer.headers.get("Content-Type", "an unknown type")
        raise server.strange(f"expected JSON, got {len(answer.content)} bytes of {kind}")
    try:
        texts = [row["b64"] for row in content["outputs"]["png_bytes"]]
    except (TypeError, KeyError, IndexError):
        raise server.strange('expected {"outputs": {"png_bytes": [{"b64": ...}, ...]}}, got other JSON') from None
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (TypeError, ValueError):
        raise server.strange("expected base64, got other text") from None


@contextlib.contextmanager
def _grpc(server: Server, model: str, rows: int) -> Iterator[Ask]:
    """TF Serving's gRPC API."""
    quiet_tensorflow.import_tensorflow()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C++ would write to stderr what the errors say
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    dtypes = {"seed": np.int64, "label": np.int32, "guidance": np.float32}
    target = f"{server.host}:{server.port}"
    options = [("grpc.enable_http_proxy", 0)] if server.is_this_machine else []
    with grpc.insecure_channel(target, options) as channel:
        largest = _largest_answer(prediction_service_pb2_grpc.PredictionServiceStub(channel), model, rows)
    options.append(("grpc.max_receive_message_length", largest))

    def ask(inputs: Inputs) -> list[bytes]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, "png"
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array(value, dtypes[name])))
        try:
            answer = stub.Predict(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            code, words = error.code().name, error.details() or ""
            if code == "DEADLINE_EXCEEDED":
                raise server.silent(f"nothing within {_SECONDS} s") from None
            if code == "UNAVAILABLE" and "queue" not in words:
                raise server.silent(words) from None
            raise server.refuses(code, words, model) from None
        try:
            return list(tf.make_ndarray(answer.outputs["png_bytes"]))
        except (TypeError, ValueError):
            raise server.strange("expected the output png_bytes, got others") from None

    with grpc.insecure_channel(target, options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        yield ask


def _largest_answer(stub: Any, model: str, rows: int) -> int:
    """The bytes that an answer of so many rows may have, by the image's shape in the server's metadata; -1: no limit.

    gRPC takes 4 MB unless told otherwise, which 16 images of 512x512 exceed. A PNG of noise is hardly larger than its
    pixels; twice is safe. Where the server does not tell the shape there is no limit: it was asked for these images.
    """
    import grpc
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import get_model_metadata_pb2

    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model
    signatures = get_model_metadata_pb2.SignatureDefMap()
    try:
        stub.GetModelMetadata(request, timeout=_CONNECTING).metadata["signature_def"].Unpack(signatures)
    except (grpc.RpcError, DecodeError):  # if something is wrong, the request for images meets it as well
        return -1
    image = signatures.signature_def["serving_default"].outputs["image"]  # `png` has no image among its outputs
    shape = [dim.size for dim in image.tensor_shape.dim][1:]
    if len(shape) != 3 or min(shape) < 1:
        return -1
    return min(_GRPC_DEFAULT + 2 * rows * math.prod(shape), 2**31 - 1)  # protobuf's own limit
