"""The floor plan: which folder imports which, both ways. A new arrow is drawn here before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Each line may import the folders that stand above it, and of those exactly the ones it names.
PLAN = {
    "errors": "",
    "randomness": "",
    "runtime": "errors",
    "diffusion": "randomness",  # the equations: neither network nor configuration
    "codecs": "",
    "config": "errors diffusion",  # words alone: no TensorFlow
    "networks": "randomness config",  # they do not know what diffusion is
    "datasets": "errors randomness runtime config",
    "build": "diffusion networks config",
    "runs": "errors runtime config datasets",  # never training
    "sampling": "errors randomness runtime diffusion networks codecs config datasets build runs",
    "tf_ddpm": "sampling",
    "evaluation": "errors randomness runtime diffusion config datasets build runs sampling",
    "training": "errors randomness runtime diffusion networks codecs config datasets build runs sampling evaluation",
    "figures": "errors randomness runtime diffusion codecs config datasets build sampling evaluation",
    "report": "errors runtime diffusion config sampling",
    "diffusers_format": "errors runtime networks config build runs sampling",
    "export": "errors runtime diffusion networks codecs config build runs sampling",  # never training or datasets
    "commands": "errors runtime diffusion config datasets runs sampling training evaluation figures report"
    " diffusers_format export",
    "__main__": "commands",
    "main": "commands",
}


def modules():
    """Dotted name -> file."""
    files = [ROOT / "main.py", *sorted((ROOT / "tf_ddpm").rglob("*.py")), *sorted((ROOT / "export").rglob("*.py"))]
    names = {}
    for file in files:
        parts = list(file.relative_to(ROOT).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def folder(module):
    """The plan's name for where a module lies."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "tf_ddpm" and rest else first


def imports(file, known):
    """The modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in known else node.module for name in inner)
    return found & set(known)


def test_folders_import_what_the_plan_says_and_only_that():
    known, arrows = modules(), {}
    for module, file in known.items():
        here = arrows.setdefault(folder(module), set())
        here |= {folder(other) for other in imports(file, known)} - {folder(module)}
    assert arrows == {name: set(words.split()) for name, words in PLAN.items()}


def test_no_arrow_of_the_plan_goes_up():
    lines = list(PLAN)
    for name, words in PLAN.items():
        above = lines[: lines.index(name)]
        assert set(words.split()) <= set(above), name


def test_no_two_modules_import_each_other():
    known = modules()
    arrows, done = {module: imports(file, known) - {module} for module, file in known.items()}, set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in arrows[module]:
                visit(other, [*path, module])
            done.add(module)

    for module in known:
        visit(module, [])


def test_the_folders_can_be_overlooked():
    entries = [path.name for path in (ROOT / "tf_ddpm").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 20
    for module, file in modules().items():
        text = file.read_text()
        assert len(text.splitlines()) <= 350, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{module}.{node.name}"


def test_words_are_read_without_tensorflow():
    code = "import sys; sys.modules['tensorflow'] = None; import tf_ddpm.commands.cli, tf_ddpm.commands.opening"
    code += ", tf_ddpm.config.presets, tf_ddpm.diffusers_format.reading, tf_ddpm.config.plans, export.client"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def defined(file):
    """The names at the top of a module."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_measurements_and_lessons_ask_modules_for_names_that_these_have():
    """The type checker passes over benchmarks and examples, and most of these run for hours before they end."""
    known, missing = modules(), []
    for file in [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        own, tree = {}, ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in known:
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    if name in known:
                        own[alias.asname or alias.name] = known[name]
                    elif alias.name not in defined(known[node.module]):
                        missing.append(f"{file}: {name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in own:
                module = own[node.value.id]
                inside = {path.stem for path in module.parent.glob("*")} if module.stem == "__init__" else set()
                if node.attr not in defined(module) | inside:
                    missing.append(f"{file}:{node.lineno}: {node.value.id}.{node.attr}")
    assert not missing, "\n".join(missing)
