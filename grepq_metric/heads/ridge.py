"""Ridge regression on feature matrices, with prediction intervals: the paper's data-efficient prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Real

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from grepq_metric.errors import InputError

ALPHAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties to choose from. With 1, a sample's noise weighs as much as all that the features may say."""
MOST_INFLUENCES = 200
"""With more samples, the predictions without one sample are taken to be those with it."""
LEAST_SLOPE = 0.1
"""Of the score, as a share of the values' standard deviation for one of the score: it is known which end is better."""
LEAST_SAMPLES = 3
"""Of different samples where there is a score: a line through two of them has no errors."""


class RidgeHead(RegressorMixin, BaseEstimator):
    """Ridge regression on standardised features in blocks, with jackknife+ intervals; a scikit-learn regressor.

    Each block of features counts as the square root of its width: 700 features of one kind do not drown 30 of another, and a
    block is not taken for as good as another that is ten times as wide. With a score, the prediction is a rising line of it
    plus what the features say in the direction of the residuals, which the penalty shrinks: with few samples what is left is
    the line, and so the score's order.

    Samples of equal features and equal values are taken as one, with the sum of their weights: to leave out one of them, and
    predict it by the other, would make errors look small.

    Args:
        alpha: ridge penalty, or ``"cv"``: the one of `ALPHAS` with the least leave-one-out error, in closed form. The error
            of a sample counts as much as the sample, and the features stay standardised as those of all samples. A
            coefficient of a block of width c is penalised by alpha sqrt(c) S, with S the sum of the square roots of all
            widths: with a single block, by alpha C.
        blocks: widths of the blocks of features, in order, without the score; None: one block. See `GRepQ.feature_blocks`.
        scored: whether the first feature is a score that rises with the values. It is not penalised, and its slope, for
            standardised values and scores, is at least 0.1.

    Attributes:
        coef_: ``(C,)`` value per standardised feature.
        intercept_: value where all features have their mean.
        mean_: ``(C,)`` mean of the features.
        scale_: ``(C,)`` standard deviation of the features; 1 for a feature that is constant.
        alpha_: the penalty; 0 where there is nothing to penalise.
        residuals_: ``(n,)`` value minus prediction without that sample, for different samples of positive weight.
        influence_: ``(n, 1 + C)`` float32: what a unit of each sample's residual adds to intercept and coefficients; empty if
            there are more than 200 samples.
        n_features_in_: C.
        feature_names_in_: ``(C,)`` names of the features, where `fit` was given a data frame.

    Examples:
        >>> import numpy as np
        >>> from grepq_metric.heads.ridge import RidgeHead
        >>> features, mos = np.random.default_rng(0).normal(size=(20, 8)), np.linspace(1, 5, 20)
        >>> head = RidgeHead(alpha=10).fit(features, mos)
        >>> head.predict(features[:3]).shape, head.predict_interval(features[:3], level=0.9).shape
        ((3,), (3, 2))
    """

    def __init__(self, alpha: float | str = "cv", blocks: Sequence[int] | None = None, scored: bool = False) -> None:
        self.alpha = alpha
        self.blocks = blocks
        self.scored = scored

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> RidgeHead:  # noqa: N803
        """Fit to values.

        Args:
            X: features ``(n, C)``, n at least 2.
            y: ``(n,)`` values.
            sample_weight: ``(n,)`` weights, 0 or more. A weight of 2 is the same as the sample given twice. The penalty
                stands against the weighted sum over samples: with all weights doubled it counts half as much.

        Raises:
            ValueError: shapes or values that scikit-learn refuses, an `alpha` that is no penalty, `blocks` that are not those
                of `X`, fewer than three different samples where there is a score, values so large that the coefficients are
                not finite.
        """
        if self.alpha != "cv" and not (_is_number(self.alpha) and 0 < float(self.alpha) < np.inf):
            raise InputError(f'alpha must be "cv" or a positive number, got {self.alpha!r}')
        x, values = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        values = values.astype(np.float64)
        widths = self._widths(x.shape[1])
        x, values, w = _distinct(x, values, _weights(sample_weight, len(x)))
        if self.scored and len(x) < LEAST_SAMPLES:
            raise InputError(f"with a score, expected {LEAST_SAMPLES} different samples or more, got {len(x)}")
        with np.errstate(all="ignore"):  # what overflows is refused
            if not (np.isfinite(x.var(0)).all() and np.isfinite(values @ values)):
                raise self._not_finite(x, values)
            self._fit(x, values, w, widths)
        fitted = (self.coef_, self.intercept_, self.mean_, self.scale_, self.residuals_, self.influence_)
        if not all(np.isfinite(part).all() for part in fitted):
            raise self._not_finite(x, values)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Predicted values of features ``(N, C)`` -> ``(N,)``.

        Raises:
            ValueError: shapes, names or values that scikit-learn refuses.
        """
        return self._standardised(X) @ self.coef_ + self.intercept_

    def predict_interval(self, X: ArrayLike, level: float = 0.9) -> np.ndarray:  # noqa: N803
        """Intervals that are to hold the value of new samples.

        They are the jackknife+'s (Barber et al. 2021, https://arxiv.org/abs/1905.02928) with the penalty and the
        standardisation of all samples, for new samples that are drawn as the fitted ones were.

        Args:
            X: features ``(N, C)``.
            level: share of the samples whose value is to lie in their interval, in (0, 1).

        Returns:
            ``(N, 2)`` lower and upper ends.

        Raises:
            ValueError: as `predict`, or the level is not in (0, 1) or needs more samples than there were.
        """
        z = self._standardised(X)
        if not (_is_number(level) and 0 < level < 1):
            raise InputError(f"the level of an interval must be in (0, 1), got {level!r}")
        n = len(self.residuals_)
        rank = int(np.ceil(level * (n + 1)))
        if rank > n:
            least = int(np.ceil(level / (1 - level)))
            raise InputError(f"an interval of {level:g} needs {least} labels or more, there are {n}")
        predicted = z @ self.coef_ + self.intercept_
        ends, error = np.empty((len(z), 2)), np.abs(self.residuals_)
        for i, row in enumerate(z):
            without = predicted[i]
            if len(self.influence_):
                without = without - self.residuals_ * (self.influence_[:, 0] + self.influence_[:, 1:] @ row)
            ends[i] = np.sort(without - error)[n - rank], np.sort(without + error)[rank - 1]
        return ends

    def predict_tensor(self, features: Tensor) -> Tensor:
        """What `predict` does, on the device and in the type of `features`: ``(N, C)`` -> ``(N,)``. Gradients flow."""
        check_is_fitted(self)
        if features.ndim != 2 or features.shape[1] != self.n_features_in_:
            raise InputError(f"expected features (N, {self.n_features_in_}), got {tuple(features.shape)}")
        mean, scale, coef = (torch.from_numpy(v).to(features) for v in (self.mean_, self.scale_, self.coef_))
        with torch.autocast(features.device.type, enabled=False):  # which would round a MOS to three digits
            return (features - mean) / scale @ coef + self.intercept_

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` makes the same head of: float64, the influences float32."""
        check_is_fitted(self)
        arrays = {"coef": self.coef_, "intercept": np.array([self.intercept_]), "mean": self.mean_, "scale": self.scale_}
        # Where their order does not matter, it is not kept: with the photos at hand it would give their values away.
        residuals = self.residuals_ if len(self.influence_) else np.sort(self.residuals_)
        return arrays | {"residuals": residuals, "influence": self.influence_}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], alpha: float, blocks: Sequence[int] | None = None, scored: bool = False
    ) -> RidgeHead:
        """A fitted head from the arrays of another one and its settings.

        Raises:
            ValueError: an array is missing, or its shape or values are none that `fit` leaves.
        """
        if missing := {"coef", "intercept", "mean", "scale", "residuals", "influence"} - set(arrays):
            raise InputError(f"it lacks {', '.join(map(repr, sorted(missing)))}")
        width, count = arrays["coef"].size, arrays["residuals"].size
        rows = count if count <= MOST_INFLUENCES else 0
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("coef", "mean", "scale"), (width,))
        shapes |= {"intercept": (1,), "residuals": (count,), "influence": (rows, 1 + width)}
        for name, shape in shapes.items():
            if arrays[name].shape != shape or 0 in (width, count):
                raise InputError(f"{name!r} has the shape {arrays[name].shape}, expected {shape} of positive numbers")
            if not np.isfinite(arrays[name]).all():
                raise InputError(f"{name!r} holds values that are not finite")
        if arrays["scale"].min() <= 0:
            raise InputError(f"'scale' holds {arrays['scale'].min():g}, expected positive values")
        head = cls(alpha or "cv", blocks, scored)
        head.alpha_, head.coef_, head.intercept_ = alpha, arrays["coef"], float(arrays["intercept"][0])
        head.mean_, head.scale_ = arrays["mean"], arrays["scale"]
        head.residuals_, head.influence_ = arrays["residuals"], arrays["influence"]
        head.n_features_in_ = width
        return head

    def _standardised(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        return (validate_data(self, X, dtype=np.float64, reset=False) - self.mean_) / self.scale_

    def _widths(self, count: int) -> list[int]:
        """Widths of the blocks of features that are penalised, of so many features in all."""
        penalised = count - bool(self.scored)
        if self.blocks is None:
            return [penalised] if penalised else []
        widths = list(self.blocks)
        if not all(_is_number(width) and width == int(width) > 0 for width in widths) or sum(widths) != penalised:
            score = " beside the score" if self.scored else ""
            raise InputError(f"blocks must be widths whose sum is the number of features{score}, {penalised}, got {widths}")
        return [int(width) for width in widths]

    def _fit(self, x: np.ndarray, y: np.ndarray, w: np.ndarray, widths: list[int]) -> None:
        scaler = StandardScaler().fit(x, sample_weight=w)
        z = scaler.transform(x)
        roots = np.sqrt(widths)
        factor = np.repeat(1 / np.sqrt(roots * roots.sum()), widths)
        ones, features = np.ones((len(z), 1)), z[:, bool(self.scored) :] * factor
        least = LEAST_SLOPE * float(np.sqrt(np.average((y - np.average(y, weights=w)) ** 2, weights=w)))
        free = _Ridge(np.hstack([ones, z[:, :1]]), features, w) if self.scored and z[:, 0].any() else None
        held = cache(lambda: _Ridge(ones, features, w))  # seldom needed where there is a score

        def solved(alpha: float) -> tuple[_Ridge, np.ndarray]:
            """The regression and the values that it is fitted to: without the least slope where it has to be held."""
            if free is not None and free.coefficients(y, alpha)[1] >= least:
                return free, y
            return held(), y - least * z[:, 0] if self.scored else y

        def loss(alpha: float) -> float:
            ridge, values = solved(alpha)
            return float(w @ np.square(ridge.residuals(values, alpha)))

        self.alpha_ = 0.0
        if widths:
            self.alpha_ = min(ALPHAS, key=loss) if isinstance(self.alpha, str) else float(self.alpha)
        ridge, values = solved(self.alpha_)
        fitted = ridge.coefficients(values, self.alpha_)
        self.intercept_ = float(fitted[0])
        line = [] if not self.scored else [fitted[1] if ridge is free else least]
        self.coef_ = np.concatenate([line, fitted[ridge.unpenalised :] * factor])
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        self.residuals_ = ridge.residuals(values, self.alpha_)
        self.influence_ = np.zeros((len(y) if len(y) <= MOST_INFLUENCES else 0, 1 + len(self.coef_)), np.float32)
        if len(self.influence_):
            moved = ridge.influence(self.alpha_)
            self.influence_[:, : ridge.unpenalised] = moved[:, : ridge.unpenalised]
            self.influence_[:, 1 + len(line) :] = moved[:, ridge.unpenalised :] * factor

    def _not_finite(self, x: np.ndarray, y: np.ndarray) -> InputError:
        return InputError(
            f"the coefficients are not finite: values from {y.min():g} to {y.max():g} or features from {x.min():g} to "
            f"{x.max():g} are too large, or the penalty {self.alpha} is too small"
        )


class _Ridge:
    """Weighted ridge regression on ``(n, C)`` features beside ``(n, k)`` columns without a penalty.

    What the columns explain is projected out of the features, and one eigendecomposition, of the smaller side, does for all
    penalties.
    """

    def __init__(self, columns: np.ndarray, features: np.ndarray, w: np.ndarray) -> None:
        self.unpenalised = columns.shape[1]
        self.root = np.sqrt(w)
        self.features = self.root[:, None] * features
        self.q, self.r = np.linalg.qr(self.root[:, None] * columns)
        self.x = self.features - self.q @ (self.q.T @ self.features)
        wide = self.x.shape[1] >= len(self.x)
        values, vectors = np.linalg.eigh(self.x @ self.x.T if wide else self.x.T @ self.x)
        kept = values > np.finfo(float).eps * len(values) * max(values.max(initial=0.0), 0.0)
        self.values = values[kept]
        self.vectors = vectors[:, kept] if wide else self.x @ vectors[:, kept] / np.sqrt(self.values)

    def residuals(self, y: np.ndarray, alpha: float) -> np.ndarray:
        """Value minus prediction without that sample, ``(n,)``."""
        y, share = self.root * y, self.values / (self.values + alpha)
        fitted = self.q @ (self.q.T @ y) + self.vectors @ (share * (self.vectors.T @ y))
        leverage = np.square(self.q).sum(1) + np.square(self.vectors) @ share
        return (y - fitted) / (1 - leverage) / self.root

    def coefficients(self, y: np.ndarray, alpha: float) -> np.ndarray:
        """Those of the columns, then those of the features: ``(k + C,)``."""
        return self._solve((self.root * y)[:, None], alpha)[:, 0]

    def influence(self, alpha: float) -> np.ndarray:
        """What a unit of each sample's residual adds to the coefficients, ``(n, k + C)`` (Sherman-Morrison)."""
        return self._solve(np.diag(self.root), alpha).T

    def _solve(self, y: np.ndarray, alpha: float) -> np.ndarray:
        penalised = self.x.T @ (self.vectors @ ((self.vectors.T @ y) / (self.values + alpha)[:, None]))
        free = scipy.linalg.solve_triangular(self.r, self.q.T @ (y - self.features @ penalised))
        return np.concatenate([free, penalised])


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _weights(sample_weight: ArrayLike | None, count: int) -> np.ndarray:
    if sample_weight is None:
        return np.ones(count)
    w = check_array(sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
    if w.shape != (count,):
        raise InputError(f"expected a sample_weight for each of {count} samples, got an array {w.shape}")
    if w.min() < 0:
        raise InputError(f"expected sample weights of 0 or more, got {w.min():g}")
    return w


def _distinct(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of positive weight, in order, equal ones as one of the sum of their weights."""
    x, y, w = x[w > 0], y[w > 0], w[w > 0]
    if not len(w):
        raise InputError("all sample weights are zero, expected two positive ones or more")
    _, first, group = np.unique(np.column_stack([x, y]), axis=0, return_index=True, return_inverse=True)
    if len(first) < 2:
        raise InputError(f"expected two different samples or more, got {len(w)} times the same")
    if len(first) == len(y):
        return x, y, w
    order = np.argsort(first)
    return x[first[order]], y[first[order]], np.bincount(group.ravel(), w)[order]
