"""The documents point at what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def names(file):
    """What a module defines: functions, classes and their methods, dotted."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def broken(text, folder):
    """The links of a document in `folder` that lead nowhere, and the code that they name and that is not there."""
    found = []
    for words, target in _LINK.findall(text):
        if re.match(r"https?:|#", target):
            continue
        file = folder / target.partition("#")[0]
        code = re.fullmatch(r"`([\w.]+)`", words)
        names_code = code and file.suffix == ".py" and "/" not in code[1] and not code[1].endswith(".py")
        if not file.exists() or (names_code and code[1] not in names(file)):
            found.append(f"[{words}]({target})")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_the_documents_resolves(document):
    assert not broken(document.read_text(encoding="utf-8"), document.parent)


def test_a_link_to_nothing_is_found():
    text = "[`no_such`](../tf_ddpm/build.py) [x](missing.md) [`network`](../tf_ddpm/build.py)"
    assert broken(text, ROOT / "docs") == ["[`no_such`](../tf_ddpm/build.py)", "[x](missing.md)"]


def test_the_method_leads_to_most_of_the_equations_code():
    """Every public function and class of the rooms of equations is told of."""
    text = (ROOT / "docs" / "METHOD.md").read_text(encoding="utf-8")
    told = {words.strip("`").partition(".")[0] for words, _ in _LINK.findall(text)}
    for room, but_for in (
        ("schedules", {"strided_timesteps"}),
        ("levels", {"Levels", "lookup"}),
        ("chain", {"Gaussian"}),
        ("parametrisation", {"EpsPrediction", "X0Prediction"}),
        ("objectives", {"vlb_loss"}),
        ("bounds", {"Bound", "pixel_mean"}),
        ("samplers/*", {"Sampler", "clipped"}),
        ("interpolation", set()),
        ("guidance", {"conditioned"}),
        ("consistency", {"Point"}),
        ("progressive", set()),
    ):
        files = sorted((ROOT / "tf_ddpm" / "diffusion").glob(f"{room}.py"))
        public = {n for file in files for n in names(file) if not n.startswith("_") and "." not in n}
        assert public
        assert public - but_for <= told, room
