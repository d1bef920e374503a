"""How far two columns of scores of the same photos agree."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grepq_metric.errors import InputError

LEAST = 3
"""Photos, below which nothing is to be said."""
RESAMPLES, LEVEL = 1000, 0.95
_CELLS = 1 << 21


@dataclass(frozen=True)
class Joined:
    """Scores of the photos that two tables share, in the order of the first one.

    Attributes:
        paths: as the first table has them.
        first: ``(n,)`` float64, of the first table.
        second: of the second one.
        only_first: photos that the second table lacks; `only_second` likewise.
        unscored: photos of both that one of them has no number for.
    """

    paths: list[str]
    first: np.ndarray
    second: np.ndarray
    only_first: int
    only_second: int
    unscored: int


@dataclass(frozen=True)
class Agreement:
    """How far two columns agree.

    Attributes:
        srcc: Spearman's rank correlation; `low` and `high`: its 95 % bootstrap interval (percentiles, of `RESAMPLES`).
        plcc: Pearson's linear correlation, of the values as they are.
        krcc: Kendall's tau-b.
        alike: share of the pairs that neither column ties which both put in the same order.
        first: ``(n,)`` ranks, 1 is the highest score, equal scores share the mean of theirs; `second` likewise.
    """

    srcc: float
    low: float
    high: float
    plcc: float
    krcc: float
    alike: float
    first: np.ndarray
    second: np.ndarray

    def most(self, number: int) -> list[int]:
        """Photos whose ranks differ most, by index; those that differ equally in their order."""
        gaps = np.abs(self.first - self.second)
        return np.argsort(-gaps, kind="stable")[:number].tolist()


def join(tables: Sequence[Sequence[Mapping[str, Any]]], columns: Sequence[str], names: Sequence[str]) -> Joined:
    """Two tables by ``path``, where ``./a.jpg`` and ``a.jpg`` are one.

    Args:
        tables: two lists of rows.
        columns: whose numbers are compared, one of each.
        names: of the tables, for messages.

    Raises:
        InputError: a column holds text, a photo is named twice in a table, or fewer than `LEAST` photos are in both.
    """
    found = [_by_path(rows, column, name) for rows, column, name in zip(tables, columns, names, strict=True)]
    common = [key for key in found[0] if key in found[1]]
    if not common:
        examples = " and ".join(f"{next(iter(one.values()))[0]!r} of {name}" for one, name in zip(found, names, strict=True))
        raise InputError(f"the tables have no photo in common: paths must be equal, such as {examples}")
    pairs = [(found[0][key][0], found[0][key][1], found[1][key][1]) for key in common]
    whole = [(path, a, b) for path, a, b in pairs if a is not None and b is not None]
    if len(whole) < LEAST:
        raise InputError(f"expected {LEAST} photos or more with a number in both tables, got {len(whole)} of {len(common)}")
    paths, first, second = zip(*whole, strict=True)
    return Joined(
        list(paths),
        np.array(first, float),
        np.array(second, float),
        len(found[0]) - len(common),
        len(found[1]) - len(common),
        len(common) - len(whole),
    )


def agreement(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Agreement:
    """Compare two columns of numbers.

    Args:
        first: ``(n,)``, finite; `second` likewise.
        seed: of the bootstrap.

    Raises:
        InputError: all values of one of them are equal.

    Examples:
        >>> import numpy as np
        >>> from grepq_metric.pages.agreement import agreement
        >>> found = agreement(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 3.0, 2.0, 4.0]))
        >>> round(found.srcc, 3), round(found.alike, 3), found.first.tolist()
        (0.8, 0.833, [4.0, 3.0, 2.0, 1.0])
    """
    from scipy.stats import kendalltau, pearsonr, rankdata

    for values, which in ((first, "first"), (second, "second")):
        if (values == values[0]).all():
            raise InputError(f"all {len(values)} values of the {which} table are {values[0]:g}: they have no order to compare")
    ranks = [rankdata(-values) for values in (first, second)]
    tau = float(kendalltau(first, second).statistic)
    low, high = _interval(first, second, seed)
    return Agreement(
        srcc=float(pearsonr(*ranks).statistic),
        low=low,
        high=high,
        plcc=float(pearsonr(first, second).statistic),
        krcc=tau,
        alike=_alike(first, second, tau),
        first=ranks[0],
        second=ranks[1],
    )


def _by_path(rows: Sequence[Mapping[str, Any]], column: str, table: str) -> dict[str, tuple[str, float | None]]:
    found: dict[str, tuple[str, float | None]] = {}
    for row in rows:
        path, value = row.get("path"), row.get(column)
        if path in (None, ""):
            raise InputError(f"{table} has a row without a path")
        key = os.path.normpath(str(path))
        if key in found:
            raise InputError(f"{table} names the photo {path} more than once")
        if isinstance(value, (str, bool)):
            raise InputError(f"{table} has {value!r} in the column {column!r}, expected numbers")
        found[key] = (str(path), None if value is None or not math.isfinite(value) else float(value))
    return found


def _interval(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[float, float]:
    """Of SRCC, by resampling photos; samples in which a column is constant say nothing."""
    from scipy.stats import rankdata

    generator, count, found = np.random.default_rng(seed), len(first), []
    at_once = max(1, _CELLS // count)
    for begin in range(0, RESAMPLES, at_once):
        chosen = generator.integers(count, size=(min(at_once, RESAMPLES - begin), count))
        a, b = (rankdata(values[chosen], axis=1) for values in (first, second))
        a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
        scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
        found.append(((a * b).sum(1)[scale > 0]) / scale[scale > 0])
    low, high = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _alike(first: np.ndarray, second: np.ndarray, tau: float) -> float:
    """From tau-b, which takes n log n steps: it is (alike - other) / sqrt((pairs - ties) (pairs - other ties))."""
    pairs = len(first) * (len(first) - 1) // 2
    ties = [_tied(values) for values in (first, second)]
    both = _tied(np.stack([first, second], 1))
    told = pairs - ties[0] - ties[1] + both
    less = tau * math.sqrt((pairs - ties[0]) * (pairs - ties[1]))
    return float("nan") if told == 0 else (told + less) / 2 / told


def _tied(values: np.ndarray) -> int:
    _, counts = np.unique(values, axis=0, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())
