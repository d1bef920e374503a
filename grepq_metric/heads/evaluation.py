"""How well a head predicts what it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin, clone
from sklearn.model_selection import KFold

from grepq_metric.errors import InputError

FOLDS = 5
LEAST = 10
"""Labels of which a held-out estimate can be made."""
ONE_PARTITION = 1000
"""With more labels, one random partition tells what ten do."""


class Estimate(NamedTuple):
    """A statistic and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class HeldOut:
    """How well labels are predicted by heads that were not fitted to them.

    Attributes:
        table: ``SRCC``, ``PLCC`` and ``RMSE``.
        predicted: ``(N,)`` a held-out prediction for each label, of the first partition.
        folds: parts of the labels, of which one at a time is held out.
        repeats: random partitions.
    """

    table: dict[str, Estimate]
    predicted: np.ndarray
    folds: int
    repeats: int


def held_out(head: RegressorMixin, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> HeldOut:
    """Cross-validate a head on features: 5 folds, each with a penalty and a standardisation of its own.

    A statistic is the median over ten random partitions (one, with more than 1,000 labels); its interval is a bootstrap's over
    photos, from all of them.

    Args:
        head: a scikit-learn regressor, such as `RidgeHead`; it stays as it is.
        x: features ``(N, C)``.
        y: ``(N,)`` MOS.
        sample_weight: ``(N,)`` positive weights; in each fold they are scaled to a mean of 1, as `GRepQRegressor` does.

    Raises:
        ValueError: there are fewer than 10 labels, or lengths differ.

    Examples:
        >>> import numpy as np
        >>> from grepq_metric.heads.evaluation import held_out
        >>> from grepq_metric.heads.ridge import RidgeHead
        >>> x = np.random.default_rng(0).normal(size=(40, 8))
        >>> found = held_out(RidgeHead(), x, 3 + x[:, 0])
        >>> found.table["SRCC"].low > 0.9
        True
    """
    features, labels = np.asarray(x, np.float64), np.asarray(y, np.float64)
    weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if len(labels) < LEAST:
        raise InputError(f"a held-out estimate needs at least {LEAST} labels, got {len(labels)}")
    if not len(features) == len(labels) == len(weights):
        raise InputError(
            f"expected a MOS and a weight for each photo, got {len(labels)} and {len(weights)} for {len(features)}"
        )
    rng, runs, values, resampled = np.random.default_rng(0), [], [], []
    for repeat in range(10 if len(labels) <= ONE_PARTITION else 1):
        predicted = _predict_held_out(head, features, labels, weights, repeat)
        runs.append(predicted)
        values.append(_agreement(predicted, labels))
        draws = rng.integers(len(labels), size=(200, len(labels)))
        resampled += [_agreement(predicted[draw], labels[draw]) for draw in draws]
    middle, (low, high) = np.median(values, 0), np.nanpercentile(resampled, (2.5, 97.5), 0)
    names = ("SRCC", "PLCC", "RMSE")
    table = {name: Estimate(float(middle[i]), float(low[i]), float(high[i])) for i, name in enumerate(names)}
    return HeldOut(table, runs[0], FOLDS, len(runs))


def _predict_held_out(head: RegressorMixin, x: np.ndarray, y: np.ndarray, w: np.ndarray, seed: int) -> np.ndarray:
    predicted = np.empty(len(y))
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        fitted = clone(head).fit(x[train], y[train], sample_weight=w[train] / w[train].mean())
        predicted[test] = fitted.predict(x[test])
    return predicted


def _agreement(predicted: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    rmse = float(np.sqrt(((predicted - y) ** 2).mean()))
    if predicted.min() == predicted.max() or y.min() == y.max():
        return np.nan, np.nan, rmse
    return float(scipy.stats.spearmanr(predicted, y).statistic), float(scipy.stats.pearsonr(predicted, y).statistic), rmse
