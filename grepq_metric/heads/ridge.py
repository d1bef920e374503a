"""Ridge regression on feature matrices, with prediction intervals: the paper's data-efficient prediction."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from grepq_metric.errors import InputError

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Ridge penalties to choose from: the paper's four, and two larger ones for few labels and many features."""
MOST_LEFT_OUT = 1000
"""With more labels, the predictions without one label are taken to be those with it."""


class RidgeHead(RegressorMixin, BaseEstimator):
    """Ridge regression on standardised features, with jackknife+ intervals; a scikit-learn regressor.

    Samples of equal features and equal values are taken as one, with the sum of their weights: to leave out one of them, and
    predict it by the other, would make errors look small.

    Args:
        alpha: ridge penalty, or ``"cv"``: the one of `ALPHAS` with the least leave-one-out error, in closed form. The error
            of a sample counts as much as the sample, and the features stay standardised as those of all samples.

    Attributes:
        coef_: ``(C,)`` value per standardised feature.
        intercept_: value where all features have their mean.
        mean_: ``(C,)`` mean of the features.
        scale_: ``(C,)`` standard deviation of the features; 1 for a feature that is constant.
        alpha_: the penalty.
        residuals_: ``(n,)`` value minus prediction without that sample, for different samples of positive weight.
        left_out_: ``(n, 1 + C)`` intercept and coefficients without each sample; empty if there are more than 1,000.
        n_features_in_: C.
        feature_names_in_: ``(C,)`` names of the features, where `fit` was given a data frame.

    Example:
        >>> import numpy as np
        >>> from grepq_metric.heads.ridge import RidgeHead
        >>> features, mos = np.random.default_rng(0).normal(size=(20, 8)), np.linspace(1, 5, 20)
        >>> head = RidgeHead(alpha=10).fit(features, mos)
        >>> head.predict(features[:3]).shape, head.predict_interval(features[:3], level=0.9).shape
        ((3,), (3, 2))
    """

    def __init__(self, alpha: float | str = "cv") -> None:
        self.alpha = alpha

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> RidgeHead:  # noqa: N803
        """Fit to values.

        Args:
            X: features ``(n, C)``, n at least 2.
            y: ``(n,)`` values.
            sample_weight: ``(n,)`` weights, 0 or more. A weight of 2 is the same as the sample given twice. The penalty
                stands against the weighted sum over samples: with all weights doubled it counts half as much.

        Raises:
            ValueError: shapes or values that scikit-learn refuses, an `alpha` that is no penalty, values so large that the
                coefficients are not finite.
        """
        if self.alpha != "cv" and not (_is_number(self.alpha) and 0 < float(self.alpha) < np.inf):
            raise InputError(f'alpha must be "cv" or a positive number, got {self.alpha!r}')
        x, values = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        values = values.astype(np.float64)
        x, values, w = _distinct(x, values, _weights(sample_weight, len(x)))
        with np.errstate(all="ignore"):  # what overflows is refused
            if not (np.isfinite(x.var(0)).all() and np.isfinite(values @ values)):
                raise self._not_finite(x, values)
            self._fit(x, values, w)
        fitted = (self.coef_, self.intercept_, self.mean_, self.scale_, self.residuals_, self.left_out_)
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
            without = self.left_out_[:, 0] + self.left_out_[:, 1:] @ row if len(self.left_out_) else predicted[i]
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
        """What `from_arrays` makes the same head of, each float64."""
        check_is_fitted(self)
        arrays = {"coef": self.coef_, "intercept": np.array([self.intercept_]), "mean": self.mean_, "scale": self.scale_}
        return arrays | {"residuals": self.residuals_, "left_out": self.left_out_}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], alpha: float) -> RidgeHead:
        """A fitted head from the arrays of another one and its penalty.

        Raises:
            ValueError: an array is missing, or its shape or values are none that `fit` leaves.
        """
        if missing := {"coef", "intercept", "mean", "scale", "residuals", "left_out"} - set(arrays):
            raise InputError(f"it lacks {', '.join(map(repr, sorted(missing)))}")
        width, count = arrays["coef"].size, arrays["residuals"].size
        rows = count if count <= MOST_LEFT_OUT else 0
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("coef", "mean", "scale"), (width,))
        shapes |= {"intercept": (1,), "residuals": (count,), "left_out": (rows, 1 + width)}
        for name, shape in shapes.items():
            if arrays[name].shape != shape or 0 in (width, count):
                raise InputError(f"{name!r} has the shape {arrays[name].shape}, expected {shape} of positive numbers")
            if not np.isfinite(arrays[name]).all():
                raise InputError(f"{name!r} holds values that are not finite")
        if arrays["scale"].min() <= 0:
            raise InputError(f"'scale' holds {arrays['scale'].min():g}, expected positive values")
        head = cls(alpha)
        head.alpha_, head.coef_, head.intercept_ = alpha, arrays["coef"], float(arrays["intercept"][0])
        head.mean_, head.scale_ = arrays["mean"], arrays["scale"]
        head.residuals_, head.left_out_ = arrays["residuals"], arrays["left_out"]
        head.n_features_in_ = width
        return head

    def _standardised(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        return (validate_data(self, X, dtype=np.float64, reset=False) - self.mean_) / self.scale_

    def _fit(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        scaler = StandardScaler().fit(x, sample_weight=w)
        ridge = RidgeCV(ALPHAS) if self.alpha == "cv" else Ridge(self.alpha)
        z = scaler.transform(x)
        ridge.fit(z, y, w)
        self.alpha_ = float(ridge.alpha_ if self.alpha == "cv" else self.alpha)
        self.coef_, self.intercept_ = ridge.coef_, float(ridge.intercept_)
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        self._leave_out(z, y, w)

    def _not_finite(self, x: np.ndarray, y: np.ndarray) -> InputError:
        return InputError(
            f"the coefficients are not finite: values from {y.min():g} to {y.max():g} or features from {x.min():g} to "
            f"{x.max():g} are too large, or the penalty {self.alpha} is too small"
        )

    def _leave_out(self, z: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        """Residuals and coefficients without each sample, in closed form (Sherman-Morrison), the penalty kept."""
        design = np.hstack([np.ones((len(z), 1)), z])
        penalty = np.diag([0.0, *np.full(z.shape[1], self.alpha_)])
        moved = np.linalg.solve(design.T @ (w[:, None] * design) + penalty, design.T).T  # (n, 1 + C)
        leverage = w * (design * moved).sum(1)
        beta = np.append(self.intercept_, self.coef_)
        self.residuals_ = (y - design @ beta) / (1 - leverage)
        change = (w * self.residuals_)[:, None] * moved
        self.left_out_ = beta - change if len(y) <= MOST_LEFT_OUT else np.empty((0, len(beta)))


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
