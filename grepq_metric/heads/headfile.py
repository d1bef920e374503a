"""The file of a head: safetensors, with facts that bind it to the weights whose features it was fitted to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import TypedDict

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from grepq_metric import catalog
from grepq_metric.errors import WeightsError
from grepq_metric.files import whole_file

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "heads"
KIND = "grepq-metric head"
FORMAT = f"{KIND} 3"
SINGLE = ("influence",)
"""Arrays that are float32; all others are float64."""


class HeadFacts(TypedDict):
    """What a head is."""

    head: str
    """Kind of regression: ``monotone``, ``shrunk`` or ``ridge``."""
    weights_id: str
    """Weights whose features it was fitted to."""
    features: str
    """Kind of features, see `GRepQ.features`."""
    labels: int
    """Number of labels."""
    mos_min: float
    mos_max: float
    alpha: float
    """Ridge penalty; 0 where there is none."""
    date: str
    """Day of fitting, ISO 8601."""


def find(head: str | Path) -> Path:
    """The file of a head: a path, or the name of one in this package, see `catalog.HEADS`."""
    entry = catalog.find_head(str(head))
    return Path(head) if entry is None else FOLDER / f"{entry.name}.safetensors"


def is_head(path: str | Path) -> bool:
    """Whether a file or name is a head, of this format or another one; False where it can't be read."""
    try:
        with safe_open(find(path), "numpy") as file:
            return (file.metadata() or {}).get("format", "").startswith(KIND)
    except (SafetensorError, OSError):
        return False


def describe(path: str | Path) -> HeadFacts:
    """What a head is, a file or a name, without the model that it belongs to.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged or no head; the message says what is wrong.
    """
    path = find(path)
    if not path.exists():
        raise FileNotFoundError(f"no head at {path}")
    try:
        with safe_open(path, "numpy") as file:
            stored = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or no head: {error}") from error
    if stored.get("format") != FORMAT:
        raise WeightsError(f"{path} is no head: its format is {stored.get('format')!r}, expected {FORMAT!r}")
    facts: dict[str, str | int | float] = {}
    for name, parse in _FACTS.items():
        try:
            facts[name] = parse(stored[name])
        except KeyError as error:
            raise WeightsError(f"{path} is damaged: it lacks {name!r}") from error
        except ValueError as error:
            raise WeightsError(f"{path} is damaged: its {name!r} is {stored[name][:80]!r}") from error
    return HeadFacts(**facts)  # type: ignore[typeddict-item]


def read(path: str | Path) -> tuple[HeadFacts, dict[str, np.ndarray]]:
    """Facts and arrays of a head, a file or a name. Errors as in `describe`."""
    path, facts = find(path), describe(path)
    arrays = {}
    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                expected = "F32" if name in SINGLE else "F64"
                if kind != expected:
                    raise WeightsError(f"{path} is damaged: {name!r} is {kind}, expected {expected}")
                arrays[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or no head: {error}") from error
    return facts, arrays


def write(path: str | Path, facts: HeadFacts, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a head file, whole or not at all.

    Raises:
        OSError: it can't be written; the message names it.
    """
    texts = {"format": FORMAT} | {name: str(value) for name, value in facts.items()}
    types = {name: np.float32 if name in SINGLE else np.float64 for name in arrays}
    data = save({name: np.ascontiguousarray(value, types[name]) for name, value in arrays.items()}, texts)
    with whole_file(path) as part:
        part.write_bytes(data)


def _plain(text: str) -> str:
    if not re.fullmatch(r"[\w.+-]{1,200}", text, re.ASCII):  # it is shown on terminals
        raise ValueError
    return text


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _penalty(text: str) -> float:
    if (value := _finite(text)) < 0:
        raise ValueError
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


_FACTS: dict[str, Callable[[str], str | int | float]] = {
    "head": _plain,
    "weights_id": _plain,
    "features": _plain,
    "labels": _count,
    "mos_min": _finite,
    "mos_max": _finite,
    "alpha": _penalty,
    "date": lambda text: date.fromisoformat(text).isoformat(),
}
