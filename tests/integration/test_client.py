"""The client against a server that speaks TF Serving's two protocols, and the check of an export."""

import base64
import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from export import client, protocols, saved_model
from tf_ddpm.config import plans
from tf_ddpm.errors import UserError
from tf_ddpm.sampling.run import load_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def version(run_dir, tmp_path_factory):
    run = load_run(run_dir)
    return saved_model.export_run(run, tmp_path_factory.mktemp("client"), plans.parse("ddim-3", run.config), 8)


@pytest.fixture(scope="module")
def signatures(version):
    return tf.saved_model.load(str(version)).signatures


@pytest.fixture(scope="module")
def rest(signatures):
    """TF Serving's REST API in small: names ending in _bytes are base64, InvalidArgument is a 400."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/models/ddpm:predict"
            try:
                answer = signatures[request["signature_name"]](seed=tf.constant(request["inputs"]["seed"], tf.int64))
                png = [{"b64": base64.b64encode(row).decode()} for row in answer["png_bytes"].numpy()]
                status, content = 200, {"outputs": {"png_bytes": png, "seed": answer["seed"].numpy().tolist()}}
            except tf.errors.InvalidArgumentError as error:
                status, content = 400, {"error": error.message}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def grpc_url(signatures):
    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            response = predict_pb2.PredictResponse()
            try:
                answer = signatures[request.model_spec.signature_name](**inputs)
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            for name, value in answer.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"grpc://localhost:{port}"
    server.stop(None)


def test_rest_and_grpc_bring_the_runs_images(rest, grpc_url, run_dir):
    live = load_run(run_dir).sample(range(3, 8), sampler="ddim", steps=3)
    for url in (rest, grpc_url):
        images = client.fetch(url, range(3, 8), batch=2)
        assert images.shape == (5, 8, 8, 1) and np.abs(images.astype(int) - live).max() <= 1


def test_the_servers_words_reach_the_caller(rest, grpc_url):
    for url in (rest, grpc_url):
        with pytest.raises(UserError, match="expected 1 to 8 rows"):
            client.fetch(url, range(9), batch=9)
    with pytest.raises(UserError, match="expected http"):
        client.fetch("localhost:8501", range(1))
    for url in ("http://localhost:9", "grpc://localhost:9"):
        with pytest.raises(UserError, match="localhost:9"):
            client.fetch(url, range(1))


def test_the_client_writes_a_grid(rest, tmp_path):
    command = [sys.executable, "-m", "export.client", f"--url={rest}", "--num_images=4", f"--out={tmp_path / 'g.png'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "g.png").exists(), done.stderr


# Answers that no export gives: small servers on loopback say what a test wants said.

_NODES = (
    "{{function_node __inference_signature_wrapper_5142}} {{function_node __inference_f_11}} assertion failed: "
    "[label: expected -1 to 9 (-1: no class), got] [12 12 12 12 12 12 12 12...]\n\t [[{{node label_1/Assert}}]]"
)
_DERIVED = (
    "2 root error(s) found.\n  (0) INVALID_ARGUMENT: [_Derived_]{{function_node __inference_f_1}} seeds ran out\n\t "
    "[[{{node a/b}}]]\n\t [[StatefulPartitionedCall/_7]]\n  (1) INVALID_ARGUMENT: [_Derived_] more\n0 derived errors"
)


def png(width=8, height=8, mode="L", **settings):
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG", **settings)
    return file.getvalue()


def promising(width, height):
    """A small PNG whose header speaks of a large one."""
    header = b"IHDR" + struct.pack(">II", width, height) + png()[24:29]
    return png()[:12] + header + struct.pack(">I", zlib.crc32(header)) + png()[33:]


def noise(side):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def rows(*pngs):
    """What TF Serving answers over REST."""
    return json.dumps({"outputs": {"png_bytes": [{"b64": base64.b64encode(each).decode()} for each in pngs]}})


@contextlib.contextmanager
def rest_saying(body, status=200, promised=None, slow=0.0, asked=None, **headers):
    """The address of a server that answers everything with this; `promised`: more bytes than it sends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if asked is not None:
                asked.append(request)
            time.sleep(slow)
            content = body.encode() if isinstance(body, str) else body
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(promised or len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):  # it has waited long enough
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def grpc_saying(predict, shape=None):
    """The same by gRPC: `predict(request, context)` gives the PNGs, or aborts; `shape`: of serving_default's image."""

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            response = predict_pb2.PredictResponse()
            outputs = predict(request, context)
            outputs = {"png_bytes": outputs} if isinstance(outputs, list) else outputs
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

        def GetModelMetadata(self, request, context):
            if shape is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
            signatures = get_model_metadata_pb2.SignatureDefMap()
            image = signatures.signature_def["serving_default"].outputs["image"]
            for size in [-1, *shape]:
                image.tensor_shape.dim.add(size=size)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.metadata["signature_def"].Pack(signatures)
            return response

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None)


def aborting(code, words):
    return lambda _, context: context.abort(getattr(grpc.StatusCode, code), words)


def line_of(url, count=1, **settings):
    """The one line in which the client says what is wrong."""
    with pytest.raises(UserError) as caught:
        client.fetch(url, range(count), **settings)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600, line
    return line


@pytest.fixture
def closed_port():
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http", "https", "all", "grpc", "no", "no_grpc"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (_NODES, "label: expected -1 to 9 (-1: no class), got 12"),
        (_NODES.replace("12 12 12 12 12 12 12 12...", "12 -3"), "label: expected -1 to 9 (-1: no class), got [12 -3]"),
        (
            "assertion failed: [image: expected the shape [B, 8, 8, 1], got] [2 9 8 1]",
            "shape [B, 8, 8, 1], got [2 9 8 1]",
        ),
        (_DERIVED, "seeds ran out"),
        ('Serving signature key "png" not found.', 'Serving signature key "png" not found.'),
        ("input size does not match signature: 2!=1 len({seed,label})", "2!=1 len({seed,label})"),
    ],
)
def test_the_servers_words_come_without_the_graphs_names(raw, words):
    with rest_saying(json.dumps({"error": raw}), 400) as url:
        line = line_of(url)
        assert line.endswith(words) and line.startswith(f"{url} refuses (400): ")
    with grpc_saying(aborting("INVALID_ARGUMENT", raw)) as url:
        line = line_of(url)
        assert line.endswith(words) and line.startswith(f"{url} refuses (INVALID_ARGUMENT): ")
    assert "{{" not in line and "[[" not in line and "_Derived_" not in line


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ({"body": "<html>hello</html>", "Content_Type": "text/html"}, "expected JSON, got 18 bytes of text/html"),
        ({"body": b"\xff\xfe"}, "expected JSON"),
        ({"body": "[" * 100_000}, "expected JSON"),
        ({"body": ""}, "expected JSON, got 0 bytes"),
        ({"body": "[1, 2]"}, "got other JSON"),
        ({"body": "null"}, "got other JSON"),
        ({"body": "{}"}, "got other JSON"),
        ({"body": '{"predictions": []}'}, "got other JSON"),
        ({"body": '{"outputs": [[1]]}'}, "got other JSON"),
        ({"body": '{"outputs": [{"b64": "aaaa"}]}'}, "got other JSON"),
        ({"body": '{"outputs": {"image": [[1]]}}'}, "got other JSON"),
        ({"body": '{"outputs": {"png_bytes": "abc"}}'}, "got other JSON"),
        ({"body": '{"outputs": {"png_bytes": 3}}'}, "got other JSON"),
        ({"body": '{"outputs": {"png_bytes": {"b64": "aaaa"}}}'}, "got other JSON"),
        ({"body": '{"outputs": {"png_bytes": [{"b64": 7}]}}'}, "expected base64"),
        ({"body": '{"outputs": {"png_bytes": [{"b64": "not ba$e64"}]}}'}, "expected base64"),
        ({"body": '{"outputs": {"png_bytes": [{"b64": "é"}]}}'}, "expected base64"),
        ({"body": rows(b"GIF89a")}, "expected PNGs"),
        ({"body": rows(b"")}, "expected PNGs"),
        ({"body": rows(png()[:-30])}, "expected PNGs"),
        ({"body": rows(promising(10_000, 10_000))}, "expected PNGs"),
        ({"body": rows(png(mode="P"))}, "got P"),
        ({"body": rows(png(mode="I;16"))}, "got I;16"),
        ({"body": rows()}, "expected 1 of them, got 0"),
        ({"body": rows(png(), png())}, "expected 1 of them, got 2"),
        (
            {"body": "", "status": 302, "Location": "http://127.0.0.1:9/login"},
            "302 Found to http://127.0.0.1:9/login; exp",
        ),
        ({"body": "<html>", "status": 404}, "404 Not Found; expected TF Serving's port for REST"),
        ({"body": "[]", "status": 500}, "500 Internal Server Error; expected TF Serving's port"),
        ({"body": rows(png()), "promised": 9999}, "the connection ended in the middle of the answer"),
        ({"body": '{"error": "\\u001b[31mred\\u001b[0m"}', "status": 400}, "refuses (400): [31mred"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_an_answer_of_another_kind_is_one_line(answer, what):
    with rest_saying(**answer) as url:
        line = line_of(url)
    assert what in line and url in line


def test_rows_of_two_sizes_are_one_line():
    with rest_saying(rows(png(8, 8), png(9, 8))) as url:
        assert "expected one size, got (8, 8, 1) and (8, 9, 1)" in line_of(url, 2)
    answers = [[png()], [png(mode="RGB")]]
    with grpc_saying(lambda *_: answers.pop(0)) as url:
        assert "expected one size" in line_of(url, 2, batch=1)


@pytest.mark.parametrize(
    ("outputs", "what"),
    [
        ({}, "expected the output png_bytes"),
        ({"image": np.zeros([1, 8, 8, 1], np.uint8)}, "expected the output png_bytes"),
        ({"png_bytes": np.zeros([1], np.int64)}, "expected PNGs"),
        ({"png_bytes": np.zeros([], np.int64)}, "expected the output png_bytes"),
        ({"png_bytes": [[b"a"], [b"b"]]}, "expected 1 of them, got 2"),
        ([b"no PNG"], "expected PNGs"),
        ([png(), png()], "expected 1 of them, got 2"),
    ],
)
def test_outputs_of_another_kind_are_one_line(outputs, what):
    with grpc_saying(lambda *_: outputs) as url:
        line = line_of(url)
    assert what in line and url in line


@pytest.mark.parametrize(
    ("status", "code", "words", "meaning"),
    [
        (
            404,
            "NOT_FOUND",
            "Servable not found for request: Latest(other)",
            "--model=other is no model there, or is still",
        ),
        (503, "UNAVAILABLE", "The batch scheduling queue is full", "it may be loading or busy: try again"),
        (429, "RESOURCE_EXHAUSTED", "too much", "a smaller --batch"),
        (500, "INTERNAL", "", "no words"),
    ],
)
def test_a_refusal_comes_with_what_it_may_mean(status, code, words, meaning):
    with rest_saying(json.dumps({"error": words}), status) as url:
        line = line_of(url, model="other")
        assert f"refuses ({status}): {words}" in line and meaning in line
    with grpc_saying(aborting(code, words), shape=(8, 8, 1)) as url:
        line = line_of(url, model="other")
        assert f"refuses ({code}): {words}" in line and meaning in line


def test_a_server_that_is_silent_is_one_line(monkeypatch):
    monkeypatch.setattr(protocols, "_SECONDS", 0.2)
    with rest_saying("", slow=0.6) as url:
        assert line_of(url) == f"no answer from {url}: nothing within 0.2 s"
    with grpc_saying(lambda *_: time.sleep(0.6) or [png()]) as url:
        assert line_of(url) == f"no answer from {url}: nothing within 0.2 s"


def test_the_wrong_port_or_protocol_is_one_line(closed_port):
    for scheme in ("http", "grpc"):
        line = line_of(f"{scheme}://127.0.0.1:{closed_port}")
        assert line.startswith(f"no answer from {scheme}://127.0.0.1:{closed_port}: ") and "Connection refused" in line
    with rest_saying("") as url:
        assert "TLS: " in line_of(url.replace("http:", "https:"))
        assert line_of(url.replace("http:", "grpc:")).startswith("no answer from grpc://")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert "refuses (UNIMPLEMENTED)" in (line := line_of(f"grpc://127.0.0.1:{port}")) and "port for gRPC" in line
    assert "it does not speak HTTP; expected TF Serving's port" in line_of(f"http://127.0.0.1:{port}")
    server.stop(None)


def test_a_loopback_address_is_asked_without_the_proxies(no_proxies, monkeypatch, closed_port):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    with rest_saying(rows(png())) as url, grpc_saying(lambda *_: [png()], shape=(8, 8, 1)) as grpc_url:
        for address in (
            url,
            url.replace("127.0.0.1", "localhost"),
            grpc_url,
            grpc_url.replace("127.0.0.1", "localhost"),
        ):
            assert client.fetch(address, range(1)).shape == (1, 8, 8, 1)
    for scheme in ("http", "grpc"):
        for host in ("127.8.9.1", "[::1]", "localhost"):
            line = line_of(f"{scheme}://{host}:{closed_port}")
            assert line.startswith("no answer") and "proxy" not in line, line


def test_elsewhere_a_proxy_is_heeded_and_named(no_proxies, monkeypatch, closed_port):
    hidden = f"http://someone:secret@127.0.0.1:{closed_port}"
    for url, name in (
        ("http://serving.invalid:8501", "http_proxy"),
        ("https://serving.invalid", "HTTPS_PROXY"),
        ("http://serving.invalid", "all_proxy"),
        ("grpc://serving.invalid:8500", "https_proxy"),
        ("grpc://serving.invalid:8500", "grpc_proxy"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, hidden)
            line = line_of(url)
            assert f"through the proxy that {name} sets" in line and "secret" not in line, line
    monkeypatch.setenv("http_proxy", hidden)
    monkeypatch.setenv("no_proxy", ".invalid")
    assert "proxy" not in line_of("http://serving.invalid:8501") + line_of("grpc://serving.invalid:8500")


def test_a_message_may_be_as_long_as_the_images_need():
    large = noise(1024)  # 3 MB
    for shape in ((1024, 1024, 3), None, (-1, -1, 3), (99_999, 99_999, 3)):
        with grpc_saying(lambda request, _: [large] * request.inputs["seed"].tensor_shape.dim[0].size, shape) as url:
            assert client.fetch(url, range(2)).shape == (2, 1024, 1024, 3)
    with grpc_saying(lambda *_: [large] * 2, (8, 8, 1)) as url:
        assert "refuses (RESOURCE_EXHAUSTED): " in line_of(url, 2) and "larger than max" in line_of(url, 2)


def test_what_makes_no_sense_is_refused_before_anything_is_asked():
    asked = []
    with rest_saying(rows(png()), asked=asked) as url:
        for seeds, settings, words in (
            (range(2**63 - 1, 2**63 + 1), {}, "--seed, --num_images: expected"),
            (range(-(2**63) - 1, 0), {}, "--seed, --num_images: expected"),
            (range(0), {}, "--seed, --num_images: expected"),
            (range(1), {"guidance": float("nan")}, "--guidance=nan: expected a finite number"),
            (range(1), {"guidance": float("-inf")}, "--guidance=-inf: expected a finite number"),
            (range(1), {"guidance": 1e39}, "--guidance=1e+39: expected a finite number"),
            (range(1), {"label": 2**31}, "--label=2147483648: expected"),
            (range(1), {"model": "a/b"}, "--model=a/b: expected"),
            (range(1), {"model": ""}, "--model=: expected"),
        ):
            with pytest.raises(UserError) as caught:
                client.fetch(url, seeds, **settings)
            assert words in str(caught.value)
        assert asked == []
        assert len(client.fetch(url, range(2**63 - 1, 2**63), guidance=2.5, label=-1)) == 1
    inputs = {"seed": [2**63 - 1], "label": [-1], "guidance": [2.5]}
    assert asked == [{"signature_name": "png", "inputs": inputs}]


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8501", "http://", "http:///", "http://:8501", "grpc://localhost", "grpc://:8500", "ftp://local:1",
        "http://localhost:8501/v1/models/ddpm", "http://localhost:0", "http://localhost:99999", "http://lo cal:8501",
        " http://localhost:8501", "http://localhost:8501\n", "http://localhost:port", "http://me:secret@localhost:8501",
        "http://a..b:8501", "http://[1:2]:8501", "http://[::1:8501", "http://localhost:8501?x", "grpc://localhost:8500/x",
    ],
)  # fmt: skip
def test_an_address_of_another_form_is_refused(url):
    assert line_of(url).startswith(f"--url={' '.join(url.split())}: expected http://HOST")


def run_client(*arguments):
    command = [sys.executable, "-m", "export.client", *arguments]
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)


def test_where_the_grid_cannot_go_is_said_before_anything_is_drawn(tmp_path):
    (tmp_path / "folder.png").mkdir()
    asked = []
    with rest_saying(rows(png()), asked=asked) as url:
        for out, words in (
            (tmp_path / "missing" / "g.png", f"the folder {tmp_path / 'missing'} does not exist"),
            (tmp_path, "expected a file, got a folder"),
            ("", "expected a file, got a folder"),
            (f"{tmp_path}/new/", "expected a file, got a folder"),
            (tmp_path / "folder", f"{tmp_path / 'folder.png'} is a folder"),
            (tmp_path / "g.jpg", "the grid is a PNG; expected a name that ends in .png"),
            ("/proc/g.png", "cannot be written: "),
            (tmp_path / ("x" * 250), "cannot be written: File name too long"),
        ):
            done = run_client(f"--url={url}", f"--out={out}", "--num_images=1")
            assert done.returncode == 1 and done.stdout == "", out
            assert done.stderr.startswith(f"error: --out={out}: ") and words in done.stderr
            assert len(done.stderr.splitlines()) == 1
        assert asked == [] and [path.name for path in tmp_path.iterdir()] == ["folder.png"]
        done = run_client(f"--url={url}", f"--out={tmp_path / 'grid'}", "--num_images=2", "--batch=1")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {tmp_path / 'grid.png'}\n", "")


def test_a_class_may_be_named_where_model_info_says_the_names(tmp_path):
    info = tmp_path / "model_info.json"
    info.write_text(json.dumps({"label_names": ["rose", "tulip", "0", "none"]}))
    (tmp_path / "other.json").write_text("[1]")
    asked = []
    with rest_saying(rows(png()), asked=asked) as url:
        common = [f"--url={url}", "--num_images=1", f"--out={tmp_path / 'g.png'}"]
        for given, label in (("tulip", 1), ("0", 0), ("-1", -1), ("2", 2)):
            assert run_client(*common, f"--label={given}", f"--model_info={info}").returncode == 0
            assert asked.pop()["inputs"]["label"] == [label]
        for arguments, words in (
            (["--label=rose"], "--label=rose: a server knows classes by number; for a name give --model_info="),
            (["--label=roes", f"--model_info={info}"], "--label=roes: expected one of rose, tulip, 0, none"),
            (["--label=rose", f"--model_info={tmp_path / 'other.json'}"], "expected the model_info.json of an export"),
            (["--label=rose", f"--model_info={tmp_path / 'none'}"], "expected the model_info.json of an export"),
        ):
            done = run_client(*common, *arguments)
            assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
        assert asked == []


def test_a_bad_answer_ends_in_one_line_and_no_file(tmp_path):
    with (
        rest_saying(rows(png(), b"no PNG")) as url,
        grpc_saying(aborting("INVALID_ARGUMENT", _NODES)) as grpc_url,
    ):
        for address in (url, grpc_url):
            arguments = [f"--url={address}", "--num_images=4", "--batch=2", f"--out={tmp_path / 'g.png'}"]
            done = run_client(*arguments)
            assert (done.returncode, done.stdout) == (1, "") and len(done.stderr.splitlines()) == 1, done.stderr
            assert done.stderr.startswith("error: ") and not list(tmp_path.iterdir())
    done = run_client("--seed=9223372036854775807", "--num_images=2", f"--out={tmp_path / 'g.png'}")
    assert done.returncode == 1 and done.stderr.startswith("error: --seed, --num_images: "), done.stderr
    done = run_client("--num_images=2", "g.png")
    assert done.returncode == 1 and done.stderr.startswith("error: unexpected argument 'g.png'"), done.stderr


def test_the_check_replays_the_warm_up_and_proves_that_rows_are_alone(version):
    command = [sys.executable, "-m", "export.check", str(version.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "fit to serve" in done.stdout, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:-1]]
    seeds, images = {"serving_default", "png", "progress", "inpaint"}, {"decode", "encode", "variation", "interpolate"}
    assert {row[0] for row in rows} == seeds | images | {"denoise"}
    assert all(row[3] == "equal" for row in rows)


def test_the_check_of_a_folder_without_a_version_is_one_line(tmp_path):
    command = [sys.executable, "-m", "export.check", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "holds no version" in done.stderr and len(done.stderr.splitlines()) == 1
