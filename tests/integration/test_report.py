"""The report is one page that needs nothing else, and says what the run's files say."""

import json
import re
import shutil
import subprocess

import pytest

from tests.support.tiny import make_tiny_config
from tf_ddpm.errors import UserError
from tf_ddpm.report import charts, page
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop


@pytest.fixture
def reported(run_dir, tmp_path):
    """A copy of the tiny run with figures and an export beside it, and its page."""
    copy = tmp_path / "a <i>run"
    shutil.copytree(run_dir, copy)
    terms = {"L_T": 0.1, "L_0": 2.0, "L_t_minus_1": [0.5, 0.25]}
    figures = {
        "fid": {"value": 12.3456, "receipt": {"generated": "<script>alert(1)</script>"}},
        "bits_per_dim": {"value": 3.25, "terms": terms, "receipt": {"num_images": 4}},
    }
    (copy / "metrics.json").write_text(json.dumps(figures))
    for version, step in (("9", 1), ("10", 8)):
        extra = copy / "serving" / "ddpm" / version / "assets.extra"
        extra.mkdir(parents=True)
        info = {"signatures": {"ddim_50": ["seed"], "png": ["seed"]}, "checkpoint_step": step}
        (extra / "model_info.json").write_text(json.dumps(info))
    path = page.write_report(load_run(copy), copy)
    return path, path.read_text(encoding="utf-8")


def without_plotly(text):
    """The page but for the library in its head, which names many addresses."""
    return text[text.index("<body>") :]


def test_the_page_holds_all_that_the_run_has_and_asks_no_other_place_for_it(reported):
    path, text = reported
    assert path.name == "report.html" and 4e6 < path.stat().st_size < 8e6
    body = without_plotly(text)
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", body)
    assert not re.findall(r"<(?:link|script)[^>]*(?:https?:)?//", text[: text.index("<script>")] + body)
    assert body.count("data:image/png;base64,") >= 1 + 20 + 1  # samples, 20 moments of the chain, a preview
    assert "12.35" in body and "3.25" in body and "ddim_50" in body and "Version 10, weights of step 8" in body
    for title in ("Loss", "Images a second", "Loss by quarter", "Gradient", "Averaged weights", "dim by t: 3.250"):
        assert title in body
    assert "train.batch_size" in body


def test_what_the_files_say_is_shown_as_text_and_not_run(reported):
    body = without_plotly(reported[1])
    assert "<script>alert(1)</script>" not in body and "&lt;script&gt;alert(1)" in body
    assert "<i>run" not in reported[1] and "a &lt;i&gt;run" in body


def test_the_page_says_which_average_is_drawn_and_what_guides_it(tmp_path):
    averaged = {"train__averages": (0.05, 0.1), "train__averages_every": 4, "train__guide_at": (0.25,)}
    loop.run(make_tiny_config(train__steps=8, **averaged), tmp_path)
    for changes, said in (
        ({"weights": "raw"}, ["of step 8, not averaged"]),
        ({"ema": 0.08}, ["of step 8, averaged with a width of 0.08"]),
        ({"guide": "2", "guidance": 2.0}, ["of step 8, averaged with a decay of", "<dd>of step 2</dd>"]),
    ):
        body = without_plotly(page.write_report(load_run(tmp_path, **changes), tmp_path).read_text(encoding="utf-8"))
        assert all(words in body for words in said) and ("<dt>guide</dt>" in body) == ("guide" in changes)


def test_an_imported_run_has_a_page_too(run_dir, tmp_path):
    copy = tmp_path / "imported"
    copy.mkdir()  # (What other tests have measured of the run stays behind as well.)
    shutil.copy(run_dir / "config.json", copy)
    shutil.copytree(run_dir / "checkpoints", copy / "checkpoints")
    body = without_plotly(page.write_report(load_run(copy), copy).read_text(encoding="utf-8"))
    assert "Samples" in body and "Curves" not in body and "While it was trained" not in body


def test_a_line_of_the_log_that_was_cut_short_is_passed_over(run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{}\n{"step": 9, "lo')
    assert "Images a second" in page.write_report(load_run(copy), copy).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [("metrics.json", "[1]"), ("metrics.json", "{"), ("metrics.json", '{"fid": {"value": null}}')],
)
def test_a_file_that_cannot_be_read_is_named(run_dir, tmp_path, name, text):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / name).write_text(text)
    with pytest.raises(UserError, match=name):
        page.write_report(load_run(copy), copy)
    assert not (copy / "report.html").exists()


@pytest.mark.parametrize(("values", "marks"), [([1e-6, None, 1.0], "1"), ([0.5, 0.0, 2.0], '"D2"'), ([], "1")])
def test_a_logarithmic_axis_has_marks_between_the_decades_where_there_is_room(values, marks):
    chart = charts.lines(list(range(len(values))), {"a": values}, "A", "step", "y")
    assert re.search(rf'"yaxis":{{[^}}]*"dtick":{marks}', chart)


@pytest.mark.slow
def test_a_browser_draws_it_without_a_complaint(reported, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "this test needs Chromium"
    shown = shutil.copy(reported[0], tmp_path / "report.html")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, f"file://{shown}"], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count('class="main-svg"') >= 6
