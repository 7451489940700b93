"""The client against a server that speaks TF Serving's two protocols, and the check of an export."""

import base64
import json
import subprocess
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from export import client, plans, saved_model
from tf_ddpm.errors import UserError
from tf_ddpm.sampling import load_run

ROOT = Path(__file__).parent.parent


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


def test_the_check_replays_the_warm_up_and_proves_that_rows_are_alone(version):
    command = [sys.executable, "-m", "export.check", str(version.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "fit to serve" in done.stdout, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:-1]]
    assert {row[0] for row in rows} == {"serving_default", "png", "progress", "decode", "encode", "inpaint", "denoise"}
    assert all(row[3] == "equal" for row in rows)


def test_the_check_of_a_folder_without_a_version_is_one_line(tmp_path):
    command = [sys.executable, "-m", "export.check", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "holds no version" in done.stderr and len(done.stderr.splitlines()) == 1
