"""The configuration of a run on disk: read, resumed, used. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tf_ddpm.config import (
    Config,
    changed,
    from_json,
    get,
    keys,
    validated,
    with_settings,
    with_values,
)
from tf_ddpm.config.plans import in_steps
from tf_ddpm.config.presets import earlier, preset
from tf_ddpm.errors import NotTrainedError, UserError
from tf_ddpm.runs import checkpoint_files
from tf_ddpm.runtime.paths import home_expanded


def read(run_dir: str | os.PathLike) -> Config:
    """The configuration of the run in `run_dir`.

    Raises:
      UserError: where there is no run, or its config cannot be read.
    """
    path = Path(run_dir) / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise UserError(f"cannot read {path}: it is a link that leads nowhere") from None
        raise NotTrainedError(f"no run in {run_dir} (it has no config.json)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    config = from_json(text, str(path))
    if config.data.image_size is None or config.data.channels is None:
        raise UserError(f"{path}: data.image_size or data.channels is missing; expected those of the run's images")
    return config


def training_config(run_dir: str | os.PathLike, preset_name: str | None, settings: Sequence[str]) -> Config:
    """What `--mode=train` asks for: the preset (default: digits) with every `--set` applied.

    A run that exists already resumes with its own configuration, so changed; all but its data may be, until it has a
    checkpoint.

    Raises:
      UserError: for unknown names or values, or those that would make an existing run another one.
    """
    saved = read(run_dir) if os.path.lexists(os.path.join(run_dir, "config.json")) else None
    if saved is None or preset_name is not None:
        asked = validated(with_settings(preset(preset_name or "digits"), settings))
    begun = bool(checkpoint_files.steps(run_dir))  # which also finds a directory that cannot be read
    if saved is None:
        return asked
    if preset_name is not None:
        wanted = _resumed_by(saved, preset_name, asked, settings, begun)  # another preset is another run
        if saved.data.name is None or not begun:  # imported, or stopped early: it has no training of its own yet
            return wanted
    return resumed(saved, with_settings(saved, settings), begun)


def _resumed_by(saved: Config, name: str, asked: Config, settings: Sequence[str], begun: bool) -> Config:
    """`resumed`, of a preset as it is or as it was when the run began."""
    try:
        return resumed(saved, asked, begun)
    except UserError:
        for before in earlier(name):
            with contextlib.suppress(UserError):
                return resumed(saved, validated(with_settings(before, settings)), begun)
        raise


def resumed(saved: Config, wanted: Config, begun: bool = True) -> Config:
    """The configuration with which the run of `saved` resumes when `wanted` is asked for.

    Args:
      begun: whether it has a checkpoint; without one all but its data may still change.

    Raises:
      UserError: naming the keys that would make it a different run.
    """
    fixed, values = [], {}
    for key in changed(saved, wanted):
        old, new, known = get(saved, key), get(wanted, key), keys()[key]
        if known.resolves and new == known.default:
            continue  # as the run has found it when it began
        if key == "train.steps" and begun and saved.distill.staged:
            fixed.append(f"{key} is {_shown(old)}, not {_shown(new)} (a student's stages follow from it)")
            continue
        if key == "codec.run" and old and new and _same_place(old, new):
            continue
        section = key.partition(".")[0]
        imported = saved.data.name is None and section in ("data", "train")  # it begins its training
        still_open = imported and key not in ("data.image_size", "data.channels")
        if still_open or known.freezes == "never" or (known.freezes == "checkpoint" and not begun):
            values[key] = new
        else:
            fixed.append(f"{key} is {_shown(old)}, not {_shown(new)}")
    if fixed:
        raise UserError(
            "this run was started with another configuration: "
            + "; ".join(fixed[:4])
            + ("; ..." if len(fixed) > 4 else "")
            + "\nResume with its own values, or start a new run in another directory."
        )
    return validated(with_values(saved, values))


def _same_place(*paths: str) -> bool:
    return len({os.path.realpath(home_expanded(path, "codec.run")) for path in paths}) == 1


def data_config(settings: Iterable[str]) -> Config:
    """The defaults with `--set` of data.* keys, where there is no run.

    Raises:
      UserError: for another key, or a value that is out of range.
    """
    config = with_settings(Config(), settings)
    for key in changed(Config(), config):
        if not key.startswith("data."):
            raise UserError(f"{key}: there is no run; expected data.* keys only")
    return validated(config)


def used(saved: Config, settings: Iterable[str], sampling: dict[str, Any], measures: bool = False) -> Config:
    """The configuration with which a trained run is used.

    Args:
      settings: `key=value`, of sample.* keys. sampling: value by key of `SampleConfig`; None: not given.
      measures: whether it is measured, on other data perhaps.

    Raises:
      UserError: for another key, or a value that does not fit the run.
    """
    wanted = with_settings(saved, settings)
    for key in changed(saved, wanted):
        if not (keys()[key].measures and (measures or key.startswith("sample."))):
            open_keys = [name for name in keys() if keys()[name].measures and not name.startswith("sample.")]
            known = f"sample.* and {', '.join(open_keys)}" if measures else "sample.* keys only"
            raise UserError(f"{key} cannot change a trained run; expected {known}")
    given = {f"sample.{name}": value for name, value in sampling.items() if value is not None}
    if sampling.get("steps") is not None and wanted.sample.sigmas == saved.sample.sigmas:
        given |= in_steps(saved.sample, sampling["steps"])
    found = validated(with_values(wanted, given))
    own, sample = saved.sample, found.sample
    unsaid = sampling.get("guidance") is None and sample.guidance == own.guidance != 1.0
    if unsaid and own.guide is None and sample.guide is not None:
        raise UserError(
            f"guide={sample.guide}: the run's own guidance, {own.guidance:g}, is of its null class; say how much this "
            "one guides: --guidance=W"
        )
    return found


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
