"""The keys `section.name` of the configuration: parsed, checked one by one, compared."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Collection, Iterable
from typing import Any

from tf_ddpm.config import autoencoder_rules
from tf_ddpm.config.schema import Config
from tf_ddpm.errors import UserError


def closest(word: str, known: Iterable[str]) -> str:
    """The names that a misspelt `word` may have meant, else all of them, as text."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return ", ".join(near or known)


@dataclasses.dataclass(frozen=True)
class Key:
    """What a key of the configuration may hold."""

    kind: type[Any]
    item: type[Any] | None
    optional: bool
    default: Any
    help: str
    low: float | None
    high: float | None
    above: float | None
    choices: tuple[str, ...] | None
    freezes: str
    resolves: bool
    measures: bool
    later: bool

    @property
    def expected(self) -> str:
        """In words, what the key takes."""
        if self.choices:
            text = "one of " + ", ".join(self.choices)
        else:
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
            several = "whole numbers" if self.item is int else "numbers"
            text = words.get(self.kind, f"{several} separated by commas")
            if self.above is not None:
                text += f" above {self.above:g} and at most {self.high:g}"
            elif self.low is not None:
                text += f" from {self.low} to {self.high}"
        return text + (" or none" if self.optional else "")


@functools.cache
def keys() -> dict[str, Key]:
    """All keys of the configuration, `section.name`, in order."""
    found = {}
    for section in dataclasses.fields(Config):
        default: Any = section.default
        hints = typing.get_type_hints(type(default))
        for field in dataclasses.fields(default):
            hint = hints[field.name]
            options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            kind = next(option for option in options if option is not type(None))
            item = next(iter(typing.get_args(kind)), None)
            kind = typing.get_origin(kind) or kind
            name = f"{section.name}.{field.name}"
            found[name] = Key(kind, item, len(options) > 1, field.default, **field.metadata)
    return found


def get(config: Config, key: str) -> Any:
    """The value of `section.name`."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def changed(before: Config, after: Config) -> list[str]:
    """The keys that the two do not share, in order."""
    names = list(keys())
    return [name for name in names if get(before, name) != get(after, name)]


# Names that keys had before, which are still read.
FORMER = {"train.timestep_sampling": "train.level_sampling"}


def _check_names(given: Collection[str]) -> None:
    """Whether no key is given by both of its names, of which one would be passed over."""
    for former, name in FORMER.items():
        if former in given and name in given:
            raise UserError(f"{former} is the former name of {name}; give one of them")


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """A copy with typed `values` (`section.name` -> value), each checked on its own."""
    known = keys()
    _check_names(values)
    for key, value in values.items():
        key = FORMER.get(key, key)
        if key not in known:
            raise UserError(f"unknown config key {key!r}; did you mean: {closest_keys(key)}?")
        section, name = key.split(".")
        value = _checked(key, known[key], value)
        config = dataclasses.replace(
            config, **{section: dataclasses.replace(getattr(config, section), **{name: value})}
        )
    return config


def with_settings(config: Config, settings: Iterable[str]) -> Config:
    """A copy with each `section.name=value` of the command line applied."""
    known, settings = keys(), tuple(settings)
    _check_names([setting.partition("=")[0].strip() for setting in settings])
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = FORMER.get(key.strip(), key.strip())
        if not equals:
            raise UserError(f"{' '.join(setting.split())}: expected section.key=value, for example train.steps=2000")
        if key not in known:
            raise UserError(f"{' '.join(setting.split())}: unknown key {key!r}; did you mean: {closest_keys(key)}?")
        values[key] = _parsed(key, known[key], text.strip())
    return with_values(config, _implied(config, values) | values)


def _implied(config: Config, values: dict[str, Any]) -> dict[str, Any]:
    """What follows from settings for other keys, whose value in `config` (of a preset, perhaps) does not fit them."""
    found: dict[str, Any] = {}
    if values.get("autoencoder.kind", "none") != "none" and not config.autoencoder.trained:
        found |= {key: keys()[key].default for key in autoencoder_rules.of_denoisers(config)}
        found["train.guide_at"] = ()
    if values.get("codec.run"):
        found["sample.clip"] = "none"  # latents have no range to be kept in
    if values.get("train.objective", "simple") != "simple" and config.train.level_sampling == "lognormal":
        found["train.level_sampling"] = "uniform"  # as a bound expects
    if (found | values).get("train.level_sampling", "lognormal") != "lognormal":
        found |= {"train.level_mean": keys()["train.level_mean"].default}
        found |= {"train.level_std": keys()["train.level_std"].default}
    return found


def closest_keys(key: str) -> str:
    """The keys that a misspelt one may have meant, as text."""
    known = list(keys())
    tail = key.rpartition(".")[2]
    same_name = [name for name in known if name.endswith("." + tail)]
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    found = list(dict.fromkeys(same_name + near))
    return (
        ", ".join(found) if found else "one of " + ", ".join(f.name for f in dataclasses.fields(Config)) + " .<name>"
    )


def _refuse(name: str, key: Key, value: Any) -> typing.NoReturn:
    shown = " ".join(value.split()) if isinstance(value, str) else repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise UserError(f"{name}={shown}: expected {key.expected} ({key.help})")


def _parsed(name: str, key: Key, text: str) -> Any:
    """The value that a word of the command line stands for."""
    try:
        if key.optional and text.lower() in ("none", "null"):
            return None
        if key.kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if key.kind is tuple and text.lower() in ("none", "null"):
            return ()
        if key.kind is tuple:
            read = float if key.item is float else int
            return tuple(read(part) for part in text.strip("()[]").split(",") if part.strip())
        if key.kind is str and not text:
            _refuse(name, key, text)
        return key.kind(text)
    except (ValueError, KeyError):
        _refuse(name, key, text)


def _checked(name: str, key: Key, value: Any) -> Any:
    """`value` in the type of its key (a list becomes a tuple, an int a float), or a UserError."""
    if value is None and key.optional:
        return None
    if key.kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if key.kind is tuple and isinstance(value, list):
        value = tuple(value)
    if key.item is float and isinstance(value, tuple):
        value = tuple(float(number) if type(number) is int else number for number in value)
    numbers = value if key.kind is tuple and isinstance(value, tuple) else ()
    if type(value) is not key.kind or any(type(number) is not key.item for number in numbers):
        _refuse(name, key, value)
    if key.choices and value not in key.choices:
        _refuse(name, key, value)
    if key.kind in (int, float):
        numbers = (value,)
    for number in numbers:
        too_low = (key.low is not None and number < key.low) or (key.above is not None and number <= key.above)
        if number != number or too_low or (key.high is not None and number > key.high):
            _refuse(name, key, value)
    if name == "data.image_size":
        if len(value) not in (1, 2):
            _refuse(name, key, value)
        value = (value[0], value[-1])
    return value
