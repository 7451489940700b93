"""The labels that a run knows, as users write them."""

from __future__ import annotations

from collections.abc import Sequence

from tf_ddpm.config.parsing import closest
from tf_ddpm.config.schema import Config
from tf_ddpm.errors import UserError


def parse_label(config: Config, word: str | None, names: Sequence[str] = ()) -> int | None:
    """The label that a word names: a number or a name, `none` (-1), or `all` or nothing (None).

    Args:
      names: of the labels, by label. A word that is a number is the number, whatever the names are.

    Raises:
      UserError: where the run does not know it.
    """
    if word in (None, "all"):
        if word and not config.model.classes:
            raise UserError("label=all: this run is unconditional; leave the label out")
        return None
    if word in names and word != "none" and not word.isdecimal():
        value = names.index(word)
    else:
        if word != "none" and not word.removeprefix("-").isdecimal():
            known = f"; this run knows {closest(word, names)}" if names and config.model.classes else ""
            raise UserError(f"label={word}: expected a number, a name, all or none{known}")
        value = -1 if word == "none" else int(word)
    check_label(config, value)
    return value


def check_label(config: Config, value: int) -> None:
    """Whether a run knows the label `value`, -1 being no label.

    Raises:
      UserError: where it does not.
    """
    classes = config.model.classes
    if not classes:
        raise UserError(f"label {value}: this run is unconditional (train one with a preset such as digits_cond)")
    if value == -1 and not config.model.null_class:
        raise UserError(f"label none: this run has no null class; expected 0 to {classes - 1}")
    if not -1 <= value < classes:
        raise UserError(f"label {value}: expected 0 to {classes - 1}" + (", or none" * config.model.null_class))
