"""What is written on the command line for a data set or a metric: ``name:option=value,option=value``."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any, TypeVar

Options = TypeVar("Options")


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """``name:key=value,key=value`` -> name, and the options as they are written.

    Raises:
        ValueError: an option is no ``key=value``.
    """
    name, _, rest = spec.partition(":")
    if os.name == "nt" and len(name) == 1:  # a drive
        drive, (name, _, rest) = name, rest.partition(":")
        name = f"{drive}:{name}"
    options = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{spec!r}: expected name:key=value,key=value, got {part!r}")
        options[key] = value
    return name, options


def typed(kind: type[Options], options: dict[str, str], what: str) -> Options:
    """The options as a dataclass, each of the type of its default.

    Args:
        kind: a dataclass whose fields are booleans, floats or strings with defaults.
        options: as `parse_spec` gives them.
        what: takes them, for messages.

    Raises:
        ValueError: an option is unknown, or not of the type of its default.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in defaults:
            raise ValueError(f"unknown option {key!r} of {what}, expected some of {', '.join(defaults)}")
        values[key] = text if isinstance(defaults[key], str) else json_value(text)
        number = isinstance(values[key], (int, float)) and not isinstance(values[key], bool)
        if not (number if isinstance(defaults[key], float) else isinstance(values[key], type(defaults[key]))):
            raise ValueError(f"option {key} of {what} must be like {defaults[key]!r}, got {text!r}")
    return kind(**values)


def safe_name(name: str) -> str:
    """A name that an option gives, which also names a folder of results.

    Raises:
        ValueError: it could lead out of that folder.
    """
    if name.startswith(".") or any(sign in "/\\" or not sign.isprintable() for sign in name):
        raise ValueError(f"a name must hold no slash and not begin with a dot, got {name!r}")
    return name


def one_of(name: str, known: Sequence[str], what: str) -> str:
    """The name, if it is known.

    Raises:
        ValueError: it is not.
    """
    if name not in known:
        raise ValueError(f"expected one of {', '.join(known)} as {what}, got {name!r}")
    return name


def json_value(text: str) -> Any:
    """The text as JSON reads it (numbers, true, false, lists), or itself."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text
