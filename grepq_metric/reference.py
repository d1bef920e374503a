"""What a score means: where it stands among those of reference photos, and on a scale from 0 to 100 for people."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from grepq_metric.errors import InputError
from grepq_metric.tables import read_table

Numbers = TypeVar("Numbers", float, np.ndarray, Tensor)
LEVELS = np.linspace(0, 1, 201)
"""Shares of the reference photos at whose scores a distribution is kept."""
FILE = "reference.json"
"""Of the packaged distributions, in ``assets``; ``python -m benchmarks.reference`` makes it."""
STANDARD_SIDE = 640
"""Pixels of the longer side at which photos of all sizes are best compared: the standard viewing size.

It is the largest side of the packaged reference photos; the photos with opinions by which the metrics were chosen have 512.
"""
LEAST = 20
"""Photos of a reference below which shares of them mean nothing."""
_REDUCED = re.compile(r"\+(\d+)px$")


@dataclass(frozen=True)
class Distribution:
    """Values of one column over reference photos.

    Attributes:
        quantiles: ``(201,)``, ascending, at `LEVELS`.
    """

    quantiles: np.ndarray

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution:
        """That of values, at least `LEAST`."""
        return cls(np.quantile(np.fromiter(values, float), LEVELS))

    def percentile(self, values: Numbers) -> Numbers:
        """Percentage of the reference below each value, from 0 to 100; of equal ones half is counted."""
        known, first, count = np.unique(self.quantiles, return_index=True, return_counts=True)
        below, above = LEVELS[first], LEVELS[first + count - 1]
        return _like(values, lambda x: 50 * (np.interp(x, known, below) + np.interp(x, known, above)))


@dataclass(frozen=True)
class Reference:
    """Scores of reference photos under one metric, in one mode.

    Attributes:
        name: what the photos are.
        count: number of photos.
        scores: their distribution.
    """

    name: str
    count: int
    scores: Distribution

    @classmethod
    def packaged(cls, weights_id: str) -> Reference:
        """The one that this package has for a metric and its mode.

        A mode that reduces photos to `STANDARD_SIDE` or more has that of the mode that does not: the reference photos are
        smaller.

        Raises:
            InputError: there is none.
        """
        found = _packaged()
        reduced = _REDUCED.search(weights_id)
        same = weights_id[: reduced.start()] if reduced and int(reduced[1]) >= found["largest_side"] else weights_id
        if same not in found["scores"]:
            raise InputError(
                f"this package has no reference for {weights_id}, it has some for {', '.join(found['scores'])}: "
                "score photos of your own with it, and give the table of their scores as the reference"
            )
        return cls(found["name"], found["count"], Distribution(np.array(found["scores"][same])))

    @classmethod
    def read(cls, path: str | Path, column: str = "score", weights_id: str | None = None) -> Reference:
        """Reference photos of your own, from a finished table of their scores.

        Args:
            path: what `read_table` reads; rows without a score, of photos that could not be read, are left out.
            column: that holds the scores.
            weights_id: that the scores must be of, where the table or the record of its run beside it say so.

        Raises:
            FileNotFoundError: there is no such table.
            InputError: it is damaged, lacks the column, holds what is no number or fewer than `LEAST` scores, or scores of
                another metric or mode.
        """
        rows = read_table(path, [column])
        ids = {str(row["weights_id"]) for row in rows if row.get("weights_id")} | _recorded_id(Path(path))
        if weights_id is not None and ids - {weights_id}:
            raise InputError(f"{path} holds scores of {', '.join(sorted(ids))}, expected {weights_id}")
        values = [row[column] for row in rows if row.get(column) is not None]
        return cls.of(values, str(path))

    @classmethod
    def of(cls, scores: Iterable[Any], name: str) -> Reference:
        """From scores.

        Raises:
            InputError: there are fewer than `LEAST`, or one is no number.
        """
        values = list(scores)
        if wrong := [value for value in values if isinstance(value, (str, bool)) or not np.isfinite(value)]:
            raise InputError(f"{name} has a score that is no number: {wrong[0]!r:.80}")
        if len(values) < LEAST:
            raise InputError(f"{name} has {len(values)} scores, expected {LEAST} or more for a reference")
        return cls(name, len(values), Distribution.of(values))

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that tell references apart."""
        return hashlib.sha256(self.scores.quantiles.tobytes()).hexdigest()[:8]

    def percentile(self, scores: Numbers) -> Numbers:
        """Percentage of the reference photos with a lower score, from 0 to 100: a number, an array or a tensor, as given.

        Of a reference of n photos it is known to about 98 / sqrt(n) at most: 2.8 for 1,200 (95 % interval in the middle).

        Examples:
            >>> from grepq_metric.reference import Reference
            >>> Reference.of(range(101), "an example").percentile(83.0)
            83.0
        """
        return self.scores.percentile(scores)


@dataclass(frozen=True)
class Scale:
    """The scale from 0 to 100: 100 Phi((logit(score / best) - centre) / spread), where Phi is the normal distribution's.

    It rises with the score, everywhere, and is fixed for a metric and its mode: its constants come from the packaged
    reference photos, half of which are above 50; 16 and 84 are the bounds of the middle 68 %.

    Attributes:
        best: least upper bound of scores, `GRepQ.best`.
        centre: median of the logits.
        spread: half the distance between their quantiles of 16 % and 84 %.
    """

    best: float
    centre: float
    spread: float

    @classmethod
    def packaged(cls, weights_id: str, best: float) -> Scale:
        """That of a metric and its mode. Raises as `Reference.packaged`."""
        known = Reference.packaged(weights_id).scores.quantiles
        low, centre, high = _logit(np.interp([0.16, 0.5, 0.84], LEVELS, known) / best)
        return cls(best, float(centre), float(high - low) / 2)

    def points(self, scores: Numbers) -> Numbers:
        """Points from 0 to 100: a number, an array or a tensor, as given."""
        return _like(scores, lambda x: 100 * _normal((_logit(x / self.best) - self.centre) / self.spread))


def packaged_photos() -> str:
    """What the packaged reference photos are."""
    return str(_packaged()["name"])


@cache
def fact_distributions() -> Mapping[str, Distribution]:
    """Distributions of the facts of `grepq_metric.facts` over the packaged reference photos, by name."""
    return {name: Distribution(np.array(values)) for name, values in _packaged()["facts"].items()}


@cache
def _packaged() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((resources.files("grepq_metric") / "assets" / FILE).read_text(encoding="utf-8"))
    return found


def _recorded_id(table: Path) -> set[str]:
    """The weights' id in the record that ``grepq score`` leaves beside a table, if there is one."""
    try:
        with table.with_name(f"{table.name}.run.jsonl").open(encoding="utf-8") as stream:
            return {json.loads(stream.readline())["grepq score"]["weights_id"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _like(values: Numbers, function: Any) -> Numbers:
    """What a function of arrays gives, in the type of its argument."""
    if isinstance(values, Tensor):
        found = function(values.detach().double().cpu().numpy())
        return torch.as_tensor(found, dtype=values.dtype, device=values.device)
    found = function(np.asarray(values, dtype=float))
    return found if isinstance(values, np.ndarray) else float(found)


def _normal(x: np.ndarray) -> np.ndarray:
    """Distribution function of the normal distribution: by torch, since importing SciPy's takes longer than a score."""
    return torch.special.ndtr(torch.from_numpy(np.asarray(x))).numpy()


def _logit(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x) - np.log1p(-x)
