"""The floor plan: who imports whom, both ways. A new arrow is drawn here before it is used."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent

PLAN = {
    "main": {
        "cluster", "command_line", "config", "datasets", "devices", "interruption", "kept_labels", "presets", "errors",
        "quiet_tensorflow", "streams", "whole_files",
        "train_loop", "sampling", "generate", "evaluate", "evaluation.sweep", "figures.catalogue",
        "report.page", "exchange.reading", "exchange.folders",
        "export.plans", "export.saved_model",
    },
    "command_line": {"config", "errors", "figures", "presets"},
    "export": set(),
    "export.plans": {"config", "errors"},
    "export.joining": set(),
    "export.limits": set(),
    "export.signatures": {
        "build", "config", "editing", "export.joining", "export.limits", "export.plans", "image_files", "objectives",
        "pixels", "process", "samplers", "sampling",
    },
    "export.bundle": {"export.joining", "whole_files"},
    "export.warmup": {"export.bundle", "export.joining", "export.limits", "export.signatures"},
    "export.model_info": {
        "config", "export.bundle", "export.joining", "export.plans", "export.signatures", "sampling",
    },
    "export.verify": set(),
    "export.comparison": {"build", "errors", "export.joining", "export.plans", "export.verify", "sampling"},
    "export.saved_model": {
        "export.bundle", "export.comparison", "export.model_info", "export.plans", "export.signatures",
        "export.warmup", "checkpoint_files", "errors", "sampling", "whole_files",
    },
    "export.check": set(),
    "export.protocols": {"errors", "quiet_tensorflow"},
    "export.client": {"errors", "export.protocols", "image_files", "interruption", "streams", "whole_files"},
    "tf_ddpm": {"sampling"},
    "errors": set(),
    "paths": {"errors"},
    "quiet_tensorflow": {"paths"},
    "own_files": set(),
    "kept_labels": set(),
    "streams": set(),
    "whole_files": set(),
    "config": {"errors", "schedules"},
    "checkpoint_files": {"errors"},
    "presets": {"checkpoint_files", "config", "errors"},
    # The equations: they know neither network nor configuration, and see the network as denoiser(x_t, t).
    "schedules": set(),
    "process": {"schedules"},
    "objectives": {"process"},
    "samplers": {"objectives", "process"},
    "editing": {"objectives", "process", "samplers"},
    "guidance": {"objectives", "process"},
    "randomness": set(),
    "pixels": set(),
    # The network: it does not know what diffusion is.
    "layers": {"randomness"},
    "unet": {"layers", "randomness"},
    # Data, which sampling and exporting do without.
    "datasets": {
        "config", "errors", "paths",
        "datasets.finding", "datasets.image_set", "datasets.digits", "datasets.folder", "datasets.tfds_set",
    },
    "datasets.image_set": {"config", "errors", "paths", "whole_files"},
    "datasets.colour": set(),
    "datasets.first_decoder": set(),
    "datasets.finding": {"errors", "own_files"},
    "datasets.jpeg_end": set(),
    "datasets.pictures": {
        "config", "datasets.colour", "datasets.first_decoder", "datasets.jpeg_end", "own_files",
    },
    "datasets.digits": {"config", "datasets.pictures", "datasets.image_set"},
    "datasets.folder": {
        "config", "errors", "datasets.finding", "datasets.pictures", "datasets.image_set", "own_files", "paths",
    },
    "datasets.tfds_set": {"config", "errors", "datasets.pictures", "datasets.image_set", "paths"},
    "datasets.batches": {"datasets.image_set", "randomness"},
    # From words to objects, and what is done with them.
    "build": {"config", "objectives", "optimizers", "process", "samplers", "schedules", "timestep_sampling", "unet"},
    "cluster": {"errors"},
    "devices": {"cluster", "errors"},
    "replicas": {"errors"},
    "timestep_sampling": {"randomness"},
    "optimizers": set(),
    "average": set(),
    "train_state": {"average", "objectives", "optimizers", "pixels", "process", "randomness", "timestep_sampling"},
    "checkpoints": {"checkpoint_files", "errors", "train_state"},
    "interruption": set(),
    "run_directory": {"config", "datasets.image_set", "errors", "own_files", "paths", "whole_files"},
    "preemption": {"interruption"},
    "previews": {"average", "build", "config", "datasets.image_set", "image_files", "sampling", "train_state"},
    "run_log": {"errors", "whole_files"},
    "image_files": {"own_files", "whole_files"},
    "sampling": {
        "average", "build", "checkpoints", "cluster", "config", "devices", "editing", "errors", "guidance",
        "kept_labels", "objectives", "paths", "pixels", "process", "randomness", "replicas", "samplers", "unet",
    },
    "train_loop": {
        "average", "build", "checkpoint_files", "checkpoints", "cluster", "config", "datasets", "datasets.batches",
        "devices", "errors", "interruption", "paths", "preemption", "previews", "replicas", "run_directory", "run_log",
        "train_state",
    },
    "generate": {"cluster", "config", "errors", "image_files", "own_files", "sampling", "whole_files"},
    "exchange": set(),
    "exchange.words": {"config", "errors"},
    "exchange.reading": {"config", "errors", "exchange.words"},
    "exchange.tensors": {"errors", "layers", "unet"},
    "exchange.folders": {
        "build", "checkpoint_files", "checkpoints", "config", "errors", "exchange.reading", "exchange.tensors",
        "exchange.words", "sampling", "whole_files",
    },
    # What a run is worth.
    "chunks": {"cluster", "errors", "whole_files"},
    "evaluation": set(),
    "evaluation.feature_metrics": set(),
    "evaluation.torchscript": {"errors"},
    "evaluation.inception": {"errors", "evaluation.torchscript"},
    "evaluation.receipts": {"config", "sampling"},
    "evaluation.likelihood": {
        "build", "config", "datasets", "evaluation.receipts", "objectives", "pixels", "process", "randomness",
        "sampling",
    },
    "evaluation.quality": {
        "chunks", "config", "datasets", "errors", "evaluation.feature_metrics", "evaluation.inception",
        "evaluation.receipts",
        "image_files", "paths", "replicas", "sampling",
    },
    "evaluate": {
        "cluster", "config", "datasets", "devices", "errors", "evaluation.likelihood", "evaluation.quality",
        "sampling", "whole_files",
    },
    "evaluation.sweep": {
        "checkpoint_files", "cluster", "config", "devices", "errors", "evaluate", "evaluation.quality",
        "figures.plots", "sampling",
    },
    # Pictures of a run.
    "figures": set(),
    "figures.plots": {"image_files", "own_files", "whole_files"},
    "figures.experiments": {
        "build", "editing", "objectives", "pixels", "process", "randomness", "samplers", "sampling",
    },
    "figures.catalogue": {
        "datasets", "datasets.image_set", "errors", "evaluation.likelihood", "figures.experiments", "figures.plots",
        "image_files", "sampling", "schedules",
    },
    "report": set(),
    "report.charts": set(),
    "report.page": {"config", "errors", "image_files", "report.charts", "sampling", "whole_files"},
}  # fmt: skip


def rooms():
    """Module name as in the plan -> file."""
    files = [ROOT / "main.py", *sorted((ROOT / "tf_ddpm").rglob("*.py")), *sorted((ROOT / "export").rglob("*.py"))]
    names = {}
    for file in files:
        parts = list(file.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        names[".".join(parts[1:] if parts[0] == "tf_ddpm" and len(parts) > 1 else parts)] = file
    return names


def imports(file, known):
    """The rooms that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            # `from room import thing` is an arrow to the room, `from package import room` to the room alone.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if room(name) in known else node.module for name in inner]
        else:
            continue
        found.update(room(name) for name in names)
    return found & set(known)


def room(name):
    """The plan's name for a module; names of foreign modules match nothing in the plan."""
    ours = name == "main" or name.split(".")[0] in ("tf_ddpm", "export")
    return name.removeprefix("tf_ddpm.") if ours else f"foreign {name}"


def test_the_imports_are_those_of_the_plan():
    known = rooms()
    assert set(known) == set(PLAN), "a room without a place in the plan, or a place without a room"
    for name, file in known.items():
        assert imports(file, known) == PLAN[name], name


def test_there_are_no_cycles():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name in done:
            return
        path.append(name)
        for other in PLAN[name]:
            visit(other)
        path.pop()
        done.add(name)

    for name in PLAN:
        visit(name)


def test_the_configuration_imports_no_tensorflow():
    import subprocess
    import sys

    code = "import sys; sys.modules['tensorflow'] = None; import tf_ddpm.command_line, tf_ddpm.exchange.reading"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
