"""The JSON of `config.json`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tf_ddpm.config.parsing import FORMER, keys, with_values
from tf_ddpm.config.rules import validated
from tf_ddpm.config.schema import FORMAT_VERSION, Config, DataConfig
from tf_ddpm.errors import UserError

_LATER = ("codec", "autoencoder", "distill")
_FORMER_NAMES = {new.partition(".")[2]: old.partition(".")[2] for old, new in FORMER.items()}


def to_json(config: Config) -> str:
    """The text of `config.json`; what has come later, a section or a key, is left out where it says nothing."""
    names = [field.name for field in dataclasses.fields(Config)]
    kept = [name for name in names if name not in _LATER or getattr(config, name) != getattr(Config(), name)]
    sections = {name: said(name, getattr(config, name)) for name in kept}
    if config.train.level_sampling != "lognormal":  # it has the form that it had under its former name
        sections["train"] = {_FORMER_NAMES.get(name, name): value for name, value in sections["train"].items()}
    return json.dumps({"format_version": FORMAT_VERSION, **sections}, indent=2) + "\n"


def said(section: str, values: Any) -> dict[str, Any]:
    """What a section says: its values by name, but for keys that have come later and have their defaults."""
    known = keys()
    return {
        name: value
        for name, value in dataclasses.asdict(values).items()
        if not known[f"{section}.{name}"].later or value != known[f"{section}.{name}"].default
    }


def from_json(text: str, where: str = "config.json") -> Config:
    """The inverse of `to_json`.

    Raises:
      UserError: for text that is no config, is of a newer format, or holds an unknown or wrong key.
    """
    try:
        loaded = json.loads(text)
        version = loaded.pop("format_version")
        values = {f"{section}.{name}": value for section, keys_ in loaded.items() for name, value in keys_.items()}
        sections = [field.name for field in dataclasses.fields(Config)]
        unknown = [section for section in loaded if section not in sections]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise UserError(f"{where} is not a run's configuration (expected JSON with a format_version)") from None
    if type(version) is not int or version < 1:
        raise UserError(f"{where}: format_version={version!r} is not a version; expected 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{where} has format_version {version}; this program reads up to {FORMAT_VERSION}: use a newer one"
        )
    if unknown:
        raise UserError(f"{where}: unknown section {unknown[0]!r}; expected {', '.join(sections)}")
    if values.get("data.name", "digits") is not None:  # (an imported run has decoded nothing yet)
        values.setdefault("data.decoder", 1)  # the rules before they were told apart
    try:
        return validated(with_values(Config(), values))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def portable(config: Config) -> Config:
    """`config` without the paths of this machine, for files that leave it."""
    name = None if config.data.name == "folder" else config.data.name
    paths = {f"data.{key}": getattr(DataConfig(), key) for key in ("path", "data_dir", "cache_dir")}
    if config.codec.run is not None:
        paths["codec.run"] = "-"
    if config.distill.teacher is not None:
        paths["distill.teacher"] = "-"
    if config.distill.guide is not None and not config.distill.guide.isdecimal():
        paths["distill.guide"] = "-"
    guide = config.sample.guide
    if guide is not None and not guide.isdecimal():
        paths["sample.guide"] = "-"
    return with_values(config, paths | {"data.name": name})
