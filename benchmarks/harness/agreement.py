"""Agreement of scores with opinion scores: correlations, fitted curves, intervals, and tests between metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networkx
import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

RESAMPLES = 1000
FEWEST_CONTENTS = 5
"""With fewer contents, resampling them says nothing."""

Interval = tuple[float, float]
Curve = Callable[..., np.ndarray]


def _logistic4(x: np.ndarray, top: float, bottom: float, middle: float, width: float) -> np.ndarray:
    return (top - bottom) * scipy.special.expit((x - middle) / width) + bottom


def _logistic5(x: np.ndarray, height: float, slope: float, middle: float, trend: float, offset: float) -> np.ndarray:
    return height * (0.5 - scipy.special.expit(-slope * (x - middle))) + trend * x + offset


FITS: dict[str, tuple[Curve, Sequence[Sequence[float]]]] = {
    "logistic4": (_logistic4, [(1.5, -1.5, 0, 0.5), (1.5, -1.5, 0, 2), (1.5, -1.5, 0, -0.5)]),
    "logistic5": (_logistic5, [(2, 1, 0, 0.1, 0), (1, 3, 0, 0.5, 0), (2, -1, 0, 0.1, 0)]),
}
"""VQEG's curves with starting points, for standardised scores and opinions."""


@dataclass(frozen=True)
class Fit:
    """A curve fitted to opinion scores.

    Attributes:
        predict: score -> opinion score.
        problem: why there is none, or None.
    """

    predict: Callable[[np.ndarray], np.ndarray] | None
    problem: str | None = None


def fit_curve(scores: np.ndarray, mos: np.ndarray, kind: str) -> Fit:
    """Fit a curve by least squares.

    Args:
        scores: ``(N,)``.
        mos: ``(N,)``.
        kind: ``logistic4``, ``logistic5`` (VQEG), or ``cubic``, the polynomial that GRepQ's authors use.
    """
    parameters = 4 if kind in ("logistic4", "cubic") else 5
    if len(scores) <= parameters:
        return Fit(None, f"{kind}: {len(scores)} images do not determine {parameters} parameters")
    centre, spread, middle, height = scores.mean(), scores.std(), mos.mean(), mos.std()
    if spread == 0 or height == 0:
        return Fit(None, f"{kind}: all scores or all opinions are equal")
    x, y = (scores - centre) / spread, (mos - middle) / height

    def on_scale(curve: Curve, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda s: middle + height * curve((np.asarray(s, float) - centre) / spread, *values)

    if kind == "cubic":
        return Fit(on_scale(lambda s, *c: np.polyval(c, s), np.polyfit(x, y, 3)))
    curve, starts = FITS[kind]
    best: np.ndarray | None = None
    least = np.inf
    for start in starts:
        try:
            with warnings.catch_warnings():
                # A covariance that can't be estimated: the data do not determine the curve.
                warnings.simplefilter("error", scipy.optimize.OptimizeWarning)
                values, _ = scipy.optimize.curve_fit(curve, x, y, p0=start, maxfev=5000)
        except (RuntimeError, scipy.optimize.OptimizeWarning):
            continue
        error = np.square(curve(x, *values) - y).sum()
        if error < least:
            best, least = values, error
    if best is None:
        return Fit(None, f"{kind}: did not converge")
    return Fit(on_scale(curve, best))


def srcc(scores: np.ndarray, mos: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where all values are equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        return float(scipy.stats.spearmanr(scores, mos).statistic)


def plcc(scores: np.ndarray, mos: np.ndarray) -> float:
    """Pearson's linear correlation; NaN where all values are equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        return float(scipy.stats.pearsonr(scores, mos).statistic)


def agreement(scores: np.ndarray, mos: np.ndarray) -> tuple[dict[str, float | None], list[str]]:
    """All figures of agreement, and what could not be computed.

    Args:
        scores: ``(N,)`` higher is better.
        mos: ``(N,)`` higher is better.

    Returns:
        ``srcc``, ``plcc`` (raw), ``plcc_logistic4``, ``plcc_logistic5``, ``plcc_cubic``, ``krcc`` and ``rmse`` (after the
        4-parameter logistic, on the scale of `mos`), None where there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        krcc = float(scipy.stats.kendalltau(scores, mos).statistic)
    found: dict[str, float | None] = {"srcc": srcc(scores, mos), "plcc": plcc(scores, mos), "krcc": krcc, "rmse": None}
    problems: list[str] = []
    for kind in ("logistic4", "logistic5", "cubic"):
        fit = fit_curve(scores, mos, kind)
        found[f"plcc_{kind}"] = plcc(fit.predict(scores), mos) if fit.predict else None
        if fit.problem:
            problems.append(fit.problem)
        if kind == "logistic4" and fit.predict:
            found["rmse"] = float(np.sqrt(np.square(fit.predict(scores) - mos).mean()))
    if np.isnan(srcc(scores, mos)):
        problems.append("all scores or all opinions are equal: no correlation")
    return {key: None if value is None or np.isnan(value) else value for key, value in found.items()}, problems


def resamples(groups: Sequence[str] | None, images: int, count: int = RESAMPLES, seed: int = 0) -> list[np.ndarray]:
    """Bootstrap samples of image positions; images of one group (a reference content) come and go together.

    Args:
        groups: the content of each image; None: each image is a content of its own.
        images: how many there are.
        count: how many samples.
        seed: of the samples; the same one gives the same samples for every metric.

    Returns:
        `count` arrays of positions; none where there are fewer than `FEWEST_CONTENTS` contents.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return list(rng.integers(images, size=(count, images))) if images >= FEWEST_CONTENTS else []
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    members = [np.flatnonzero(index == g) for g in range(index.max() + 1)]
    if len(members) < FEWEST_CONTENTS:
        return []
    return [np.concatenate([members[g] for g in draw]) for draw in rng.integers(len(members), size=(count, len(members)))]


def interval(values: np.ndarray) -> Interval | None:
    """The middle 95 % of bootstrap values, or None where none of them is finite."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    scores: np.ndarray,
    mos: np.ndarray,
    groups: Sequence[str] | None = None,
    count: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """95 % percentile bootstrap interval of a statistic of scores and opinion scores, resampled together.

    Args:
        statistic: scores ``(n,)`` and opinion scores ``(n,)`` -> a value, for example `srcc`.
        scores: ``(N,)``.
        mos: ``(N,)``.
        groups: the content of each image, where images share one: contents are resampled.
        count: how many samples.
        seed: of the samples.

    Returns:
        Its ends; None where there are fewer than `FEWEST_CONTENTS` contents or the statistic is never finite.
    """
    draws = resamples(groups, len(scores), count, seed)
    return interval(np.array([statistic(scores[draw], mos[draw]) for draw in draws]))


def pairwise_tests(boot: dict[str, np.ndarray], values: dict[str, float]) -> dict[tuple[str, str], float]:
    """Paired tests between metrics scored on the same images: p-values, corrected by Holm's method.

    The difference of Fisher-transformed SRCC is divided by the standard deviation of its bootstrap, from the same resamples of
    images for both metrics.

    Args:
        boot: ``(RESAMPLES,)`` SRCC of the resamples, by metric.
        values: SRCC by metric.
    """

    def fisher(correlation: float | np.ndarray) -> np.ndarray:
        return np.arctanh(np.clip(correlation, -0.999999, 0.999999))

    names, raw = list(values), dict[tuple[str, str], float]()
    z = {name: fisher(boot[name]) for name in names}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            spread = np.nanstd(z[a] - z[b])
            gap = abs(fisher(values[a]) - fisher(values[b]))
            raw[a, b] = float(2 * scipy.stats.norm.sf(gap / spread)) if spread > 0 else float(gap == 0)
    return dict(zip(raw, holm(list(raw.values())), strict=True))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values."""
    order, corrected, worst = np.argsort(np.asarray(p)), np.empty(len(p)), 0.0
    for step, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - step) * p[i]))
        corrected[i] = worst
    return corrected.tolist()


def letters(values: dict[str, float], p: dict[tuple[str, str], float], level: float = 0.05) -> dict[str, str]:
    """Letters by metric: two metrics that share one do not differ significantly. ``a`` belongs to the best."""
    graph = networkx.Graph()
    graph.add_nodes_from(values)
    graph.add_edges_from(pair for pair, value in p.items() if value >= level)
    groups = sorted(networkx.find_cliques(graph), key=lambda group: sorted(-values[name] for name in group))
    found = dict.fromkeys(values, "")
    for number, group in enumerate(groups):
        letter = chr(ord("a") + number) if number < 26 else f"({number + 1})"
        for name in group:
            found[name] += letter
    return found
