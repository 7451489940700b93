"""The files for whoever runs the server: right by their schemas, and never written over what somebody has edited."""

import hashlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from export import bundle, joining

SIZE = 1000 * 2**20


@pytest.fixture
def files():
    return bundle.texts(SIZE)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_export_replaces_what_nobody_has_edited(files, tmp_path):
    assert bundle.publish(tmp_path, files) == []
    assert bundle.publish(tmp_path, bundle.texts(2 * SIZE)) == []
    assert names(tmp_path) == sorted(files) and "memory: 2000Mi" in (tmp_path / "kubernetes.yml").read_text()


def test_an_edited_file_stays_and_the_new_one_is_put_beside_it(files, tmp_path):
    bundle.publish(tmp_path, files)
    edited = {}
    for name in files:
        path = tmp_path / name
        edited[name] = path.read_text().replace("8501", "9501").replace("Written", "written") + "\n"
        path.write_text(edited[name])
    for expected in ([f"{name}.new" for name in files], [f"{name}.new" for name in files]):
        lines = bundle.publish(tmp_path, bundle.texts(2 * SIZE))
        assert len(lines) == len(files)
        for line, name, beside in zip(lines, files, expected, strict=True):
            assert f"{tmp_path / name} has been edited" in line and line.endswith(f"own is {beside}")
        assert {name: (tmp_path / name).read_text() for name in files} == edited
    assert "memory: 2000Mi" in (tmp_path / "kubernetes.yml.new").read_text()


def test_what_was_put_beside_and_then_edited_stays_too(files, tmp_path):
    for name in ("docker-compose.yml", "docker-compose.yml.new"):
        (tmp_path / name).write_text("mine")
    (line,) = bundle.publish(tmp_path, files)
    assert line.endswith("own is docker-compose.yml.new.new")
    assert (tmp_path / "docker-compose.yml.new").read_text() == "mine"


def earlier_files():
    """The files as exports wrote them that left joining to the server."""
    compose = """# docker compose up: REST on 8501, gRPC on 8500, metrics on 8501/monitoring/prometheus/metrics
services:
  ddpm:
    image: tensorflow/serving
    ports: ["8501:8501", "8500:8500"]
    volumes: [".:/models/ddpm:ro"]
    environment:
      MODEL_NAME: ddpm
    command:
      - --model_config_file=/models/ddpm/models.config
      - --enable_batching=true
      - --batching_parameters_file=/models/ddpm/batching.config
      - --monitoring_config_file=/models/ddpm/monitoring.config
      - --rest_api_timeout_in_ms=600000
      - --enable_model_warmup=true
"""
    batching = (
        "max_batch_size { value: 4 }\nbatch_timeout_micros { value: 5000 }\nmax_enqueued_batches { value: 1000 }\n"
        "num_batch_threads { value: 2 }\nallowed_batch_sizes: 1\nallowed_batch_sizes: 2\nallowed_batch_sizes: 4\n"
    )
    return compose, batching


def test_the_files_of_earlier_exports_are_replaced_unless_they_were_edited(files, tmp_path):
    compose, batching = earlier_files()
    (tmp_path / "docker-compose.yml").write_text(compose)
    (tmp_path / "batching.config").write_text(batching)
    assert bundle.publish(tmp_path, files) == [] and names(tmp_path) == sorted(files)

    (tmp_path / "docker-compose.yml").write_text(compose + "    restart: always\n")
    (tmp_path / "batching.config").write_text(batching)
    (line,) = bundle.publish(tmp_path, files)
    assert "docker-compose.yml has been edited" in line and (tmp_path / "batching.config").exists()


def test_an_edited_batching_file_stays(files, tmp_path):
    (tmp_path / "batching.config").write_text("max_batch_size { value: 4 }\n")
    assert bundle.publish(tmp_path, files) == [] and (tmp_path / "batching.config").exists()


def test_the_server_joins_nothing_itself_and_has_a_thread_for_each_request(files):
    for command in (compose(files)["command"], deployment(files)["args"]):
        assert not any("batching" in word for word in command)
        assert {"--rest_api_num_threads=128", "--grpc_max_threads=128"} <= set(command)
        assert {"--enable_grpc_healthcheck_service=true", "--enable_model_warmup=true"} <= set(command)


def compose(files):
    return yaml.safe_load(files["docker-compose.yml"])["services"]["ddpm"]


def deployment(files):
    first = next(yaml.safe_load_all(files["kubernetes.yml"]))
    return first["spec"]["template"]["spec"]["containers"][0]


def test_the_compose_file_is_right_by_its_schema(files, tmp_path):
    path = tmp_path / "docker-compose.yml"
    path.write_text(files["docker-compose.yml"])
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    path.write_text(files["docker-compose.yml"].replace("restart: unless-stopped", "restart: [1]"))
    assert subprocess.run(command, capture_output=True).returncode == 1
    service = compose(files)
    assert service["restart"] == "unless-stopped" and service["image"] == f"tensorflow/serving:{bundle.IMAGE_TAG}"


def test_the_kubernetes_manifest_is_right_by_its_schemas_and_its_parts_fit_each_other(files):
    parts = list(yaml.safe_load_all(files["kubernetes.yml"]))
    assert [part["kind"] for part in parts] == ["Deployment", "Service", "HorizontalPodAutoscaler"]
    for part in parts:
        kubernetes_validate.validate(part, "1.33", strict=True)
    wrong = json.loads(json.dumps(parts[0])) | {"spec": {"replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)
    labels = parts[0]["spec"]["template"]["metadata"]["labels"]
    assert parts[0]["spec"]["selector"]["matchLabels"] == labels == parts[1]["spec"]["selector"]
    container = deployment(files)
    assert {port["targetPort"] for port in parts[1]["spec"]["ports"]} == {port["name"] for port in container["ports"]}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120
    assert container["resources"]["requests"]["memory"] == "1000Mi"
    assert f"{sum(lane.threads for lane in joining.LANES)} batch threads" in files["kubernetes.yml"]


@pytest.mark.parametrize(("state", "healthy"), [("AVAILABLE", True), ("LOADING", False)])
def test_the_health_check_needs_bash_alone_and_looks_for_a_model_that_is_available(files, state, healthy):
    class Status(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/v1/models/ddpm"
            body = json.dumps({"model_version_status": [{"version": "1", "state": state}]}, indent=1).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    word, *rest = compose(files)["healthcheck"]["test"]
    script = rest[-1].replace("8501", str(server.server_port))
    done = subprocess.run([*rest[:-1], script], env={"PATH": "/usr/bin:/bin"}, timeout=20)
    server.shutdown()
    assert word == "CMD" and (done.returncode == 0) == healthy


def test_the_health_check_of_a_server_that_is_not_there_fails(files):
    script = compose(files)["healthcheck"]["test"][-1].replace("8501", "9")
    assert subprocess.run(["bash", "-c", script], stderr=subprocess.DEVNULL, timeout=20).returncode != 0


def test_the_seal_is_the_hash_of_what_follows_it(files, tmp_path):
    bundle.publish(tmp_path, files)
    for name, text in files.items():
        first, _, rest = (tmp_path / name).read_text().partition("\n")
        assert rest == text and hashlib.sha256(text.encode()).hexdigest() in first
    assert Path(tmp_path / "play.html").read_text().startswith("<!-- ")
