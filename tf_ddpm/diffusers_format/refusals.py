"""Options of a foreign configuration that this project does not know, refused by name."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from tf_ddpm.errors import UserError

Word = TypeVar("Word")


def refuse_others(
    where: str, given: dict[str, Any], known: dict[str, Any], fixed: dict[str, tuple], ignored: set[str]
) -> None:
    """Refuses every option that is neither known nor at the one value that we have."""
    for name, value in given.items():
        if name.startswith("_") or name in ignored:
            continue
        sample = known.get(name, fixed.get(name, [None])[0])
        if isinstance(sample, bool) != isinstance(value, bool) and value is not None:
            refuse(
                where, name, value, f"expected {'true or false' if isinstance(sample, bool) else 'no true or false'}"
            )
        if name in fixed:
            if value not in fixed[name]:
                refuse(where, name, value, f"expected {' or '.join(map(str, fixed[name]))}")
        elif name not in known:
            refuse(where, name, value, "this option is not known here")


def translated(where: str, name: str, given: dict[str, Any], words: dict[str, Word]) -> Word:
    """Our word for an option of diffusers; refused where there is none."""
    if not isinstance(given[name], str) or given[name] not in words:
        refuse(where, name, given[name], f"expected {', '.join(words)}")
    return words[given[name]]


def refuse(where: str, name: str, value: Any, remedy: str) -> NoReturn:
    """Refuses an option by its name, with a remedy."""
    raise UserError(f"{where} {name}={value!r:.60}: {remedy}")
