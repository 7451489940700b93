"""The playground page in a real browser, and the stand-in for TF Serving that answers it."""

import base64
import io
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow as tf
from PIL import Image

from export import bundle, saved_model
from tests.support.serving_stand_in import StandIn
from tests.support.tiny import make_tiny_config
from tf_ddpm.config import plans
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

PAGE = Path(__file__).parents[2] / "export" / "templates" / "play.html"
INT64_MAX = 2**63 - 1


def spec(name, dtype, *shape):
    return tf.TensorSpec([None, *shape], dtype, name=name)


def drawing(channels, single=False):
    """A signature that draws 6 x 4 pixels which say what the seed is."""

    @tf.function(input_signature=[spec("seed", tf.int64)])
    def draw(seed):
        levels = (seed[:, None] % 256 + 7 * tf.range(4 * 6 * channels, dtype=tf.int64)) % 256
        image = tf.cast(tf.reshape(levels, [-1, 4, 6, channels]), tf.uint8)
        return {"image": image} if single else {"image": image, "seed": tf.identity(seed)}

    return draw


@tf.function(input_signature=[spec("seed", tf.int64), spec("seed_2", tf.int64), spec("mix", tf.float32)])
def interpolate(seed, seed_2, mix):
    level = (1 - mix) * tf.cast(seed, tf.float32) + mix * tf.cast(seed_2, tf.float32)
    return {
        "image": tf.cast(tf.round(level), tf.uint8)[:, None, None, None] * tf.ones([4, 6, 1], tf.uint8),
        "seed": seed,
    }


@tf.function(input_signature=[spec("image", tf.uint8, 4, 6, 3), spec("strength", tf.float32), spec("seed", tf.int64)])
def variation(image, strength, seed):
    left = tf.cast(image, tf.float32) * (1 - strength)[:, None, None, None]
    return {"image": tf.cast(tf.round(left), tf.uint8), "seed": tf.identity(seed)}


@tf.function(input_signature=[spec("image", tf.uint8, 4, 6, 3), spec("guidance", tf.float32)])
def encode(image, guidance):
    tf.debugging.assert_less(guidance, 9.0, "guidance: expected less than 9")
    return {"latent": tf.cast(image, tf.float32) * guidance[:, None, None, None], "code_bytes": tf.as_string(guidance)}


@tf.function(input_signature=[spec("level", tf.uint8)])
def single(level):
    return {"png_bytes": tf.as_string(level)}


TOYS = {
    "serving_default": drawing(3),
    "grey": drawing(1, single=True),
    "grey_alpha": drawing(2),
    "rgba": drawing(4),
    "interpolate": interpolate,
    "variation": variation,
    "encode": encode,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A SavedModel without a network, as the loader gives it back."""
    path = tmp_path_factory.mktemp("toy") / "3"
    module = tf.Module()
    tf.saved_model.save(module, str(path), signatures={**TOYS, "single": single})
    with StandIn(path) as url:
        yield f"{url}/v1/models/ddpm"


def predict(toy, body):
    """The status and the content of an answer; `body` is JSON, or bytes as they are."""
    answer = requests.post(f"{toy}:predict", data=body if isinstance(body, bytes) else json.dumps(body))
    return answer.status_code, answer.json()


# ---- The stand-in speaks as TF Serving does


def test_columns_and_rows_bring_the_same_answer(toy):
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).tolist()
    rows = [{"image": one, "guidance": g} for one, g in zip(image, (1, 2.5), strict=True)]
    _, columnar = predict(toy, {"signature_name": "encode", "inputs": {"image": image, "guidance": [1, 2.5]}})
    _, by_row = predict(toy, {"signature_name": "encode", "instances": rows})
    outputs, predictions = columnar["outputs"], by_row["predictions"]
    np.testing.assert_array_equal(outputs["latent"], np.array(image) * np.reshape([1, 2.5], [2, 1, 1, 1]))
    assert [base64.b64decode(code["b64"]) for code in outputs["code_bytes"]] == [b"1.000000", b"2.500000"]
    assert [set(row) for row in predictions] == [{"latent", "code_bytes"}] * 2
    assert [row["latent"] for row in predictions] == outputs["latent"]
    assert [row["code_bytes"] for row in predictions] == outputs["code_bytes"]


def test_a_single_output_has_no_name_and_a_single_input_needs_none(toy):
    wanted = [{"b64": base64.b64encode(text).decode()} for text in (b"7", b"255")]
    for inputs in ({"level": [7, 255]}, [7, 255]):
        assert predict(toy, {"signature_name": "single", "inputs": inputs}) == (200, {"outputs": wanted})
    for instances in ([{"level": 7}, {"level": 255}], [7, 255]):
        assert predict(toy, {"signature_name": "single", "instances": instances}) == (200, {"predictions": wanted})


def test_the_parser_takes_numbers_as_tf_servings_does(toy):
    wrapped = predict(toy, {"signature_name": "single", "inputs": [256, -1]})[1]["outputs"]
    assert [base64.b64decode(one["b64"]) for one in wrapped] == [b"0", b"255"]
    exact = predict(toy, {"inputs": {"seed": [INT64_MAX, -(2**63)], "nobody": "asks"}})[1]["outputs"]
    assert exact["seed"] == [INT64_MAX, -(2**63)]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"inputs": [', 400, "Expecting value"),
        (b"\xff", 400, "decode"),
        ([1], 400, "Is not object"),
        ({"inputs": {}}, 400, "Missing named input: seed"),
        ({}, 400, "'inputs' and 'instances'"),
        ({"inputs": [1], "instances": [1]}, 400, "'inputs' and 'instances'"),
        ({"instances": []}, 400, "list with values"),
        ({"instances": [{"seed": 1, "nobody": 2}]}, 400, "keys must be: seed"),
        ({"signature_name": "gone", "inputs": [1]}, 400, '"gone" not found'),
        ({"signature_name": "encode", "inputs": [1]}, 400, "multiple inputs"),
        ({"inputs": [1.0]}, 400, "expected type: int64"),
        ({"inputs": [True]}, 400, "expected type: int64"),
        ({"inputs": ["7"]}, 400, "expected type: int64"),
        ({"inputs": [INT64_MAX + 1]}, 400, "expected type: int64"),
        ({"signature_name": "single", "inputs": [2**31]}, 400, "expected type: uint8"),
        ({"inputs": [[1, 2], [3]]}, 400, "inhomogeneous"),
        ({"inputs": 7}, 400, "Attempting to slice scalar"),
        (
            {"signature_name": "encode", "inputs": {"image": [[[[1] * 3] * 6] * 4], "guidance": [9]}},
            400,
            "less than 9",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_an_answer_and_the_server_goes_on(toy, body, status, words):
    answered, content = predict(toy, body)
    assert (answered, set(content)) == (status, {"error"}) and words in content["error"]
    assert "Graph execution" not in content["error"]  # Python's words around the message
    assert predict(toy, {"inputs": [1]})[0] == 200


def test_paths_and_models_that_are_not_there_are_not_found(toy):
    for path in ("x", "/versions/4", "/metadata/x", ":classify", ":predict"):
        answer = requests.get(toy + path)
        assert answer.status_code == 404 and "error" in answer.json(), path
    assert requests.post(toy).status_code == 404
    assert requests.get(f"{toy}/versions/3").json() == requests.get(toy).json()


def test_the_metadata_are_the_saved_models_and_a_functions_own(toy):
    with StandIn(signatures={**TOYS, "single": single}) as url:
        from_functions = requests.get(f"{url}/v1/models/ddpm/metadata").json()
    from_file = requests.get(f"{toy}/metadata").json()
    assert (from_file["model_spec"]["version"], from_functions["model_spec"]["version"]) == ("3", "1")
    saved, functions = (m["metadata"]["signature_def"]["signature_def"] for m in (from_file, from_functions))
    assert set(saved) - set(functions) == {"__saved_model_init_op"}  # as in TF Serving's answer
    image = saved["encode"]["inputs"]["image"]
    assert image["dtype"] == "DT_UINT8" and not image["tensor_shape"]["unknown_rank"]
    assert image["tensor_shape"]["dim"] == [{"size": size, "name": ""} for size in ("-1", "4", "6", "3")]
    for name in functions:
        for part in ("inputs", "outputs"):
            facts = [
                {key: (tensor["dtype"], tensor["tensor_shape"]) for key, tensor in signatures[name][part].items()}
                for signatures in (saved, functions)
            ]
            assert facts[0] == facts[1]


def test_other_origins_may_read_it_only_if_it_is_told_so():
    for cors in (True, False):
        with StandIn(signatures=TOYS, cors=cors) as url:
            for method in ("GET", "OPTIONS"):
                answer = requests.request(method, f"{url}/v1/models/ddpm")
                assert answer.status_code == 200
                assert answer.headers.get("Access-Control-Allow-Origin") == ("*" if cors else None)


# ---- The page


def test_the_page_is_one_small_file_that_asks_no_other_place_for_anything():
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.encode()) < 30_000
    assert not re.findall(
        r"(?:src|href|action)\s*=\s*[\"'](?!data:,)|srcset|@import|\bimport\b|XMLHttp|WebSocket", text
    )
    assert "url(" not in text[text.index("<style>") : text.index("</style>")]
    assert re.findall(r"fetch\((\w+)", text) == ["base", "base"]
    assert set(re.findall(r"https?://[\w.:-]*", text)) == {"http://localhost:8501", "http://HOST:8501"}
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|localStorage|cookie", text)


class Browser:
    """Headless Chromium, driven by the W3C WebDriver protocol."""

    def __init__(self, folder):
        chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
        assert chromium and driver, "this test needs Chromium and chromedriver"
        self.downloads = folder / "downloads"
        self._http = requests.Session()
        self._http.trust_env = False
        self._driver = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        port = next(found[1] for line in self._driver.stdout if (found := re.search(r"success.* on port (\d+)", line)))
        self._at = f"http://localhost:{port}/session"
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        flags += f" disable-component-update disable-sync user-data-dir={folder / 'profile'}"
        options = {
            "binary": chromium,
            "args": [f"--{flag}" for flag in flags.split()],
            "prefs": {"download.default_directory": str(self.downloads)},
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._at += "/" + self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def close(self):
        self._ask("DELETE", "")
        self._driver.terminate()
        self._driver.wait(30)
        self._driver.stdout.close()

    def _ask(self, method, path, body=None):
        answer = self._http.request(method, self._at + path, json=body if body is not None else {}, timeout=120)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    def go(self, server, model="ddpm", connect=True, page=PAGE):
        """Opens the page from disk with its fields set, and connects."""
        self._ask(
            "POST",
            "/url",
            {
                "url": requests.Request("GET", "http://x", params={"url": server, "model": model})
                .prepare()
                .url.replace("http://x/", page.as_uri())
            },
        )
        if connect:
            self.click("#connect button")
            self.settle()

    def js(self, script, *args):
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def element(self, words):
        using = "xpath" if words.startswith("//") else "css selector"
        (value,) = self._ask("POST", "/element", {"using": using, "value": words}).values()
        return value

    def click(self, words):
        self._ask("POST", f"/element/{self.element(words)}/click", {})

    def type(self, words, text):
        """The text as the only one in a field."""
        element = self.element(words)
        if not self.js("return document.querySelector(arguments[0]).type === 'file'", words):
            self._ask("POST", f"/element/{element}/clear", {})
        self._ask("POST", f"/element/{element}/value", {"text": str(text)})

    def choose(self, signature):
        self.click(f"//select[@id='signature']/option[.='{signature}']")

    def draw(self, signature=None, **fields):
        """Sets the fields, draws, and gives what the page says then."""
        if signature:
            self.choose(signature)
        for name, value in fields.items():
            self.type(f"#{name}", value)
        self.click("#draw")
        self.settle()
        return self.says()

    def wait(self, condition):
        for _ in range(600):
            if self.js(f"return Boolean({condition})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"never: {condition}")

    def settle(self):
        self.wait("!document.querySelector('button.main:disabled')")

    def text(self, words):
        """What is shown of an element; None if it is hidden."""
        return self.js("const e = document.querySelector(arguments[0]); return e.offsetParent && e.innerText", words)

    def says(self):
        return self.text("#error") or self.text("#outcome")

    def pixels(self, words="#images canvas"):
        """uint8 [N, H, W, 4] of the canvases."""
        script = """return [...document.querySelectorAll(arguments[0])].map((c) =>
            [c.height, c.width, [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]])"""
        return np.array([np.reshape(data, [h, w, 4]) for h, w, data in self.js(script, words)], np.uint8)

    def captions(self):
        return self.js(
            "return [...document.querySelectorAll('#images figcaption')].map((e) => e.firstChild.data.trim())"
        )

    def keys(self, text, key="\ue009"):
        """A key (Control) with others."""
        presses = [{"type": "keyDown", "value": key}]
        presses += [{"type": kind, "value": letter} for letter in text for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keys", "actions": [*presses, {"type": "keyUp", "value": key}]}]
        self._ask("POST", "/actions", {"actions": actions})

    def command(self):
        """The command line as the Copy button puts it on the clipboard."""
        self.click("#copy")
        self.wait("document.getElementById('copied').textContent")
        self.js("""const area = document.createElement("textarea"); area.id = "pasted"; document.body.append(area);
            area.focus()""")
        self.keys("v")
        return self.js("const area = document.getElementById('pasted'); area.remove(); return area.value")

    def size(self, width, height=900, dark=False):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._cdp("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._cdp("Emulation.setEmulatedMedia", {"features": [scheme]})

    def _cdp(self, command, params):
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def complaints(self):
        """The console's warnings and errors since the last call."""
        log = self._ask("POST", "/se/log", {"type": "browser"})
        return [line["message"] for line in log if line["level"] in ("WARNING", "SEVERE")]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium):
    """A browser whose console stays empty, but for the browser's own lines about what the network did."""
    chromium.size(1280)
    chromium.complaints()
    yield chromium
    expected = "Failed to load resource|CORS policy|Multiple readback operations"  # (it is the tests that read back)
    assert [line for line in chromium.complaints() if not re.search(expected, line)] == []


@pytest.fixture(scope="module")
def toys():
    with StandIn(signatures=TOYS, cors=True) as url:
        yield url


@pytest.fixture(scope="module")
def served(run_dir, tmp_path_factory):
    """A run without classes."""
    run = load_run(run_dir)
    version = saved_model.export_run(run, tmp_path_factory.mktemp("play"), plans.parse("ddim-3", run.config), 8)
    with StandIn(version, cors=True) as url:
        yield url


NAMES = ("zero", "one", "two", "1", "four", "five", "six", "</script>", "eight", "nine")


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A run with classes, a null class and guidance."""
    path = tmp_path_factory.mktemp("classes")
    config = make_tiny_config(model__classes=10, model__null_class=True, train__label_dropout=0.2)
    loop.run(config, path / "run")
    run = load_run(path / "run")
    version = saved_model.export_run(run, path / "served", plans.parse("ddim-3", run.config), 8)
    with StandIn(version, model="digits", cors=True) as url:
        yield url


def outputs(url, signature, model="ddpm", **inputs):
    """What the server answers to another client."""
    body = {"signature_name": signature, "inputs": inputs}
    return requests.post(f"{url}/v1/models/{model}:predict", json=body).json()["outputs"]


def as_shown(images):
    """[N, H, W, C] as RGBA."""
    images = np.array(images, np.uint8)
    channels = images.shape[-1]
    colour = images[..., :1].repeat(3, -1) if channels < 3 else images[..., :3]
    alpha = np.full_like(colour[..., :1], 255) if channels % 2 else images[..., -1:]
    return np.concatenate([colour, alpha], -1)


@pytest.mark.slow
def test_connecting_shows_version_state_and_the_signatures_with_their_own_controls(browser, served, classes):
    browser.go(served)
    assert browser.text("#server") == "ddpm: version 1 AVAILABLE"
    assert browser.js("return [...document.getElementById('signature').options].map((o) => o.text)") == [
        "serving_default", "ddim_3", "interpolate", "png", "progress", "variation",
    ]  # fmt: skip
    assert browser.text("#absent") == "Not in this page: decode, denoise, encode, inpaint."
    shown = lambda: {  # noqa: E731
        name
        for name in ("seed", "seed_2", "count", "label", "guidance", "strength", "file")
        if browser.js("return document.getElementById(arguments[0]).offsetParent !== null", name)
    }
    assert shown() == {"seed", "count"}
    browser.choose("interpolate")
    assert shown() == {"seed", "seed_2", "count"}
    browser.choose("variation")
    assert shown() == {"seed", "count", "strength", "file"}
    browser.go(classes, "digits")
    assert shown() == {"seed", "count", "label", "guidance"}


@pytest.mark.slow
@pytest.mark.parametrize("signature", ["serving_default", "ddim_3", "png"])
def test_images_are_drawn_pixel_by_pixel_with_their_seeds_and_the_time_they_took(browser, served, signature):
    browser.go(served)
    said = browser.draw(signature, seed=5, count=3)
    assert re.fullmatch(r"3 images in \d+ ms, \d+\.\d ms an image\. Click an image to download it\.", said)
    wanted = as_shown(outputs(served, "ddim_3", seed=[5, 6, 7])["image"])
    assert np.abs(browser.pixels().astype(int) - wanted).max() <= 1  # (the rows were in another batch)
    assert browser.captions() == ["seed 5", "seed 6", "seed 7"]
    assert browser.js("return document.querySelector('#images canvas').offsetWidth") == 128  # 16 times its 8


@pytest.mark.slow
def test_the_way_from_noise_is_under_the_slider_and_plays(browser, served):
    browser.go(served)
    browser.draw("ddim_3", seed=2, count=2)
    assert browser.text("#way") is None
    browser.draw("progress")
    frames = np.array(outputs(served, "progress", seed=[2, 3])["frames"])
    last = frames.shape[1]
    assert browser.text("#moment_name") == f"moment {last} of {last}" and last > 1
    assert np.abs(browser.pixels().astype(int) - as_shown(frames[:, -1])).max() <= 1
    browser.type("#moment", "\ue012")  # the left arrow
    assert np.abs(browser.pixels().astype(int) - as_shown(frames[:, -2])).max() <= 1
    assert np.abs(frames[:, -2] - frames[:, -1]).max() > 1
    browser.type("#moment", "\ue011")  # Home
    assert browser.text("#moment_name") == f"moment 1 of {last}"
    browser.click("#play")
    browser.wait(f"document.getElementById('moment').value == {last}")
    browser.wait("document.getElementById('play').textContent === 'Play'")
    assert np.abs(browser.pixels().astype(int) - as_shown(frames[:, -1])).max() <= 1
    browser.draw("ddim_3")
    assert browser.text("#way") is None


@pytest.mark.slow
def test_the_exported_interpolation_and_variation_answer_the_page(browser, served):
    browser.go(served)
    assert "5 images in" in browser.draw("interpolate", seed=3, seed_2=4, count=5)
    ends = as_shown(outputs(served, "ddim_3", seed=[3, 4])["image"])
    assert np.abs(browser.pixels()[[0, -1]].astype(int) - ends).max() <= 1
    kept = browser.pixels()[0]
    browser.click("//figure[1]//button[.='Vary']")
    assert "2 images in" in browser.draw(count=2, strength=0)
    assert np.abs(browser.pixels().astype(int) - kept).max() <= 1
    browser.draw(strength=1)
    assert np.abs(browser.pixels().astype(int) - kept).max() > 1


@pytest.mark.slow
def test_interpolation_goes_from_one_seed_to_the_other_in_even_steps(browser, toys):
    browser.go(toys)
    browser.draw("interpolate", seed=40, seed_2=200, count=5)
    assert browser.pixels()[:, 0, 0, 0].tolist() == [40, 80, 120, 160, 200]
    assert browser.captions() == ["mix 0", "mix 0.25", "mix 0.5", "mix 0.75", "mix 1"]


@pytest.mark.slow
def test_a_drawn_image_and_a_file_can_be_varied(browser, toys, tmp_path):
    browser.go(toys)
    assert browser.draw("variation") == "Image: choose a file, or press “Vary” below a drawn image"
    browser.draw("serving_default", seed=9, count=2)
    chosen = browser.pixels()[1]
    browser.click("//figure[2]//button[.='Vary']")
    assert browser.text("#given_name") == "seed 10"
    np.testing.assert_array_equal(browser.pixels("#given")[0], chosen)
    browser.draw(strength=0.25, count=2)
    wanted = np.round(chosen[..., :3].astype(np.float32) * 0.75)
    np.testing.assert_array_equal(browser.pixels()[..., :3], [wanted, wanted])
    # 12 x 4, transparent on the right: its middle 6 x 4 is taken, and white lies behind it.
    picture = np.zeros([4, 12, 4], np.uint8)
    picture[:, :6] = [200, 10, 30, 255]
    Image.fromarray(picture).save(tmp_path / "wide.png")
    browser.type("#file", tmp_path / "wide.png")
    browser.wait("document.getElementById('given_name').textContent === 'wide.png'")
    assert browser.pixels("#given")[0, 0, :, :3].tolist() == [[200, 10, 30]] * 3 + [[255] * 3] * 3
    (tmp_path / "no.png").write_text("no image")
    browser.type("#file", tmp_path / "no.png")
    browser.wait("!document.getElementById('error').hidden")
    assert browser.says() == "Image: no.png is no image that this browser reads"
    browser.click("#connect button")
    browser.settle()
    assert browser.text("#given_name").startswith("none yet") and browser.text("#given") is None


@pytest.mark.slow
def test_the_page_that_an_export_wrote_takes_the_names_of_its_classes(browser, classes, tmp_path):
    bundle.publish(tmp_path, bundle.texts(2**30, NAMES))
    browser.go(classes, "digits", page=tmp_path / "play.html")
    for said, number in (("nine", 9), ("</script>", 7), ("1", 1), ("zero", 0), (" two ", 2)):
        browser.draw("ddim_3", seed=1, count=1, label=said, guidance=3.5)
        wanted = outputs(classes, "ddim_3", "digits", seed=[1], label=[number], guidance=[3.5])["image"]
        assert np.abs(browser.pixels().astype(int) - as_shown(wanted)).max() <= 1, said
    assert browser.draw(label="Nine") == 'Class: expected a whole number, got "Nine"'
    assert browser.js("return [...document.getElementById('label_names').options].map((o) => o.value)") == list(NAMES)


@pytest.mark.slow
def test_class_and_guidance_reach_the_server_and_its_words_come_back(browser, classes):
    browser.go(classes, "digits")
    browser.draw("ddim_3", seed=1, count=2, label=7, guidance=3.5)
    wanted = outputs(classes, "ddim_3", "digits", seed=[1, 2], label=[7, 7], guidance=[3.5, 3.5])["image"]
    assert np.abs(browser.pixels().astype(int) - as_shown(wanted)).max() <= 1
    said = browser.draw(label=12)
    assert said.startswith("The server refuses (400): ") and "label: expected -1 to 9 (-1: no class), got" in said
    assert "12" in said and "{{node" not in said and "\n" not in said
    assert "expected 1 to 8 rows" in browser.draw(label=-1, count=9)
    assert "9 images" not in browser.draw(count=8) and browser.text("#error") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signature", "channels"), [("grey", 1), ("grey_alpha", 2), ("serving_default", 3), ("rgba", 4)]
)
def test_every_number_of_channels_is_shown_as_it_is(browser, toys, signature, channels):
    browser.go(toys)
    browser.draw(signature, seed=100, count=1)
    wanted = as_shown((100 + 7 * np.arange(4 * 6 * channels)).reshape(1, 4, 6, channels) % 256).astype(int)
    shown, opaque = browser.pixels().astype(int), wanted[..., 3:] / 255
    np.testing.assert_array_equal(shown[..., 3], wanted[..., 3])
    # (A canvas keeps colours multiplied by alpha, and so rounds those of transparent pixels.)
    assert np.abs((shown - wanted)[..., :3] * opaque).max() <= (1 if channels in (2, 4) else 0)


@pytest.mark.slow
def test_seeds_that_no_javascript_number_holds_arrive_as_they_are(browser, toys):
    browser.go(toys)
    for seed in (2**53 + 1, INT64_MAX - 1, -(2**63)):
        browser.draw("serving_default", seed=seed, count=2)
        assert browser.captions() == [f"seed {seed}", f"seed {seed + 1}"]
        assert browser.pixels()[:, 0, 0, 0].tolist() == [seed % 256, (seed + 1) % 256]
        assert f'"seed": [{seed}, {seed + 1}]' in browser.text("#curl")


class Counting(StandIn):
    """Counts what it is asked."""

    asked = 0

    def answer(self, *request):
        self.asked += 1
        return super().answer(*request)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signature", "field", "value", "words"),
    [
        ("serving_default", "seed", "1.5", 'First seed: expected a whole number, got "1.5"'),
        ("serving_default", "seed", "", 'First seed: expected a whole number, got ""'),
        ("serving_default", "seed", INT64_MAX + 1, f"First seed: expected {-(2**63)} to {INT64_MAX}, got {2**63}"),
        ("serving_default", "seed", INT64_MAX, f"First seed: the last of 8 seeds is beyond {INT64_MAX}"),
        ("serving_default", "count", "0", "Images: expected 1 to 64, got 0"),
        ("serving_default", "count", "65", "Images: expected 1 to 64, got 65"),
        ("interpolate", "count", "1", "Images on the way: expected 2 to 64, got 1"),
        ("interpolate", "seed_2", "x", 'Second seed: expected a whole number, got "x"'),
        ("variation", "strength", "1.01", 'Strength: expected 0 to 1, got "1.01"'),
        ("variation", "strength", "NaN", 'Strength: expected 0 to 1, got "NaN"'),
        ("classes", "label", "two", 'Class: expected a whole number, got "two"'),
        ("classes", "label", 2**31, f"Class: expected {-(2**31)} to {2**31 - 1}, got {2**31}"),
        ("classes", "guidance", "Infinity", 'Guidance: expected a number, got "Infinity"'),
        ("classes", "guidance", "", 'Guidance: expected a number, got ""'),
    ],
)
def test_a_field_that_is_wrong_is_named_and_nothing_is_sent(browser, signature, field, value, words):
    @tf.function(input_signature=[spec("seed", tf.int64), spec("label", tf.int32), spec("guidance", tf.float32)])
    def with_classes(seed, label, guidance):
        return {"image": tf.cast(seed[:, None, None, None], tf.uint8)}

    server = Counting(signatures={**TOYS, "classes": with_classes}, cors=True)
    with server as url:
        browser.go(url)
        before = server.asked
        assert browser.draw(signature, **{field: value}) == words
        assert server.asked == before == 2


@pytest.mark.slow
def test_a_server_that_is_not_there_or_may_not_be_read_is_one_clear_line(browser):
    with StandIn(signatures=TOYS, cors=True) as url:
        browser.go(url)
        assert "8 images in" in browser.draw()
        assert browser.text("#error") is None
        browser.go(url, "other")
        assert browser.says() == "The server refuses (404): Servable not found for request: Latest(other)"
        browser.go(url)
    gone = f"No server answers at {url}: is it running, and is this the address of its REST port?"
    assert browser.draw() == gone
    browser.go(url)
    assert browser.says() == gone and browser.text("#ask") is None
    with StandIn(signatures=TOYS) as closed:
        browser.go(closed)
        assert "--rest_api_enable_cors_support=true" in browser.says() and closed in browser.says()
    for address in ("localhost:8501", "", "ftp://x"):
        browser.go(address)
        assert browser.says() == f'Server: expected http://HOST:8501, got "{address}"'
    browser.go("http://localhost:1", "")
    assert browser.says() == "Model: expected a name, for example ddpm"


class Faulty(StandIn):
    """Answers every predict request with the same."""

    def __init__(self, status, text):
        super().__init__(signatures=TOYS, cors=True)
        self.fault = status, text

    def answer(self, method, path, body):
        return self.fault if method == "POST" else super().answer(method, path, body)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (503, '{"error": "not yet"}', "The server is not ready (503): not yet"),
        (400, r"""{"error": "it\'s no JSON"}""", r"""The server refuses (400): {"error": "it\'s no JSON"}"""),
        (400, '{"error": "<img src=x onerror=alert(1)>"}', "The server refuses (400): <img src=x onerror=alert(1)>"),
        (400, '{"error": "a\\n\\t [[{{node Assert}}]]"}', "The server refuses (400): a"),
        (502, "", "The server refuses (502): Bad Gateway"),
        (200, "<html>", "The answer is not JSON: is TF Serving's REST port at URL? It begins: <html>"),
        (200, "7", "The answer is not JSON: is TF Serving's REST port at URL? It begins: 7"),
        (200, '{"predictions": []}', 'The answer has no "outputs": {"predictions":[]}'),
        (200, '{"outputs": {"seed": [0]}}', 'The answer does not hold 8 of "image".'),
        (200, '{"outputs": {"image": [[[[1]]]]}}', 'The answer does not hold 8 of "image".'),
        (200, json.dumps({"outputs": {"image": [7] * 8}}), "The answer holds an image that is not [H,W,1 to 4]."),
        (
            200,
            json.dumps({"outputs": {"image": [[[[1] * 5]]] * 8}}),
            "The answer holds an image that is not [H,W,1 to 4].",
        ),
    ],
)
def test_every_answer_that_is_none_is_one_clear_line(browser, status, text, words):
    with Faulty(status, text) as url:
        browser.go(url)
        assert browser.draw() == words.replace("URL", url)
        assert browser.js("return document.querySelectorAll('img').length") == 0


@pytest.mark.slow
def test_a_connection_that_breaks_off_is_not_taken_for_a_server_that_may_not_be_read(browser):
    class Breaking(StandIn):
        def answer(self, method, path, body):
            if method == "POST":
                raise ConnectionAbortedError  # the server closes the connection, and goes on
            return super().answer(method, path, body)

    with Breaking(signatures=TOYS, cors=True) as url:
        browser.go(url)
        assert browser.draw() == f"The connection to {url} broke off before the answer came: draw again."


@pytest.mark.slow
def test_a_request_that_takes_long_can_be_cancelled(browser):
    class Slow(StandIn):
        def answer(self, method, path, body):
            time.sleep(2 if method == "POST" else 0)
            return super().answer(method, path, body)

    with Slow(signatures=TOYS, cors=True) as url:
        browser.go(url)
        browser.click("#draw")
        assert browser.text("#outcome") == "Asking for 8 images …"
        browser.click("#cancel")
        browser.settle()
        assert browser.says() == "Cancelled." and browser.text("#cancel") is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serving_default", 'it\'s $HOME `id` \\ "so"'])
def test_the_command_line_brings_what_the_page_shows(browser, name):
    with StandIn(signatures={name: TOYS["serving_default"]}, model="my model's", cors=True) as url:
        browser.go(url, "my model's")
        browser.draw(seed=3, count=2)
        line = browser.command()
        assert line == browser.text("#curl") and line.startswith("curl ")
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
        np.testing.assert_array_equal(as_shown(json.loads(done.stdout)["outputs"]["image"]), browser.pixels())


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 64])
def test_the_command_line_of_an_image_is_short_on_screen_and_whole_when_copied(browser, size):
    @tf.function(input_signature=[spec("image", tf.uint8, size, size, 3), spec("seed", tf.int64)])
    def vary(image, seed):
        return {"image": 255 - image, "seed": tf.identity(seed)}

    with StandIn(signatures={"serving_default": TOYS["serving_default"], "vary": vary}, cors=True) as url:
        browser.go(url)
        browser.draw(count=1)
        browser.click("//figure[1]//button[.='Vary']")
        browser.draw(count=16)
        line, shown = browser.command(), browser.text("#curl")
        assert " … " in shown and len(shown) < 400 < len(line) and " … " not in line
        assert (len(line) > 131072) == (size == 64)  # Linux takes no longer argument
        done = subprocess.run(["sh"], input=line, capture_output=True, text=True, check=True)
        np.testing.assert_array_equal(as_shown(json.loads(done.stdout)["outputs"]["image"]), browser.pixels())


@pytest.mark.slow
def test_a_click_downloads_the_image(browser, served):
    browser.go(served)
    for signature, seed in (("ddim_3", 11), ("png", 12)):
        browser.draw(signature, seed=seed, count=1)
        browser.click("#images button.picture")
        path = browser.downloads / f"seed_{seed}.png"
        for _ in range(100):
            if path.exists():
                break
            time.sleep(0.1)
        downloaded = np.array(Image.open(io.BytesIO(path.read_bytes())).convert("RGBA"))
        np.testing.assert_array_equal(downloaded, browser.pixels()[0])
    (png,) = outputs(served, "png", seed=[12])["png_bytes"]
    assert path.read_bytes() == base64.b64decode(png["b64"])  # the server's own file


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_wide_and_narrow_windows_light_and_dark(browser, classes, tmp_path, width, dark):
    browser.size(width, 1400, dark)
    browser.go(classes, "digits")
    browser.draw("serving_default", count=8, seed=INT64_MAX - 8)
    browser.click("//figure[1]//button[.='Vary']")
    browser.screenshot(tmp_path / f"variation_{width}.png")
    for signature in ("variation", "progress", "interpolate"):
        browser.draw(signature, count=8)
        assert browser.text("#error") is None
        browser.screenshot(tmp_path / f"{signature}_{width}.png")
        assert browser.js("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    browser.draw(label=99)
    browser.screenshot(tmp_path / f"error_{width}.png")
    assert browser.text("#error")
    assert browser.js("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    ground = browser.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 60) == dark and (min(ground) > 200) != dark


@pytest.mark.slow
def test_the_keyboard_alone_is_enough_and_every_control_has_a_name(browser, toys):
    browser.go(toys, connect=False)
    browser.js("document.getElementById('model').focus()")
    browser.keys("", "\ue007")  # Enter in a field connects
    browser.settle()
    browser.wait("!document.getElementById('ask').hidden")
    browser.js("document.getElementById('count').focus()")
    browser.keys("", "\ue007")
    browser.settle()
    assert "8 images in" in browser.says()
    assert (
        browser.js("""return [...document.querySelectorAll("input, select")].filter((e) => !e.labels.length)""") == []
    )
    assert (
        browser.js("""return [...document.querySelectorAll("button")].filter((e) =>
        e.tabIndex < 0 || !(e.textContent.trim() || e.ariaLabel))""")
        == []
    )
