"""A MOS from few labels: ridge regression on frozen features (the paper's data-efficient prediction)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from numbers import Real
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.heads.features import photo_features
from grepq_metric.model import GRepQ
from grepq_metric.pathways import FEATURE_KINDS

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Ridge penalties to choose from: the paper's four, and two larger ones for few labels and many features."""
LEAST_LABELS = 5
MOST_LEFT_OUT = 1000
"""With more labels, the predictions without one label are taken to be those with it."""
FORMAT = "grepq-metric head 1"


class GRepQRegressor(RegressorMixin, BaseEstimator):
    """Predicts mean opinion scores (MOS) by ridge regression on frozen, standardised features; a scikit-learn estimator.

    Args:
        model: whose features; or what `GRepQ.from_pretrained` takes; None for other features, which can't be saved.
        alpha: ridge penalty, or ``"cv"``: the one of `ALPHAS` with the least leave-one-out error, in closed form.
        features: ``image`` or ``patches``, see `GRepQ.features`.
        cache: folder where the features of photo files are kept, see `photo_features`.

    Attributes:
        coef_: ``(C,)`` MOS per standardised feature.
        intercept_: MOS where all features have their mean.
        mean_: ``(C,)`` mean of the features.
        scale_: ``(C,)`` standard deviation of the features.
        alpha_: the penalty; weights of labels have a mean of 1.
        label_range_: least and greatest MOS that it was fitted to.
        n_labels_: number of labels.
        weights_id_: of the model.
        residuals_: ``(n,)`` MOS minus prediction without that label.
        left_out_: ``(n, 1 + C)`` intercept and coefficients without each label; empty if there are more than 1,000.
        fitted_: date.

    Example:
        >>> import numpy as np
        >>> from grepq_metric import GRepQRegressor
        >>> features, mos = np.random.default_rng(0).normal(size=(20, 8)), np.linspace(1, 5, 20)
        >>> regressor = GRepQRegressor(None).fit(features, mos)  # with weights, also paths and image tensors
        >>> predicted, interval = regressor.predict(features[:3], interval=0.9)
        >>> predicted.shape, interval.shape
        ((3,), (3, 2))
    """

    def __init__(
        self,
        model: GRepQ | str | Path | None = "grepq-ll",
        alpha: float | str = "cv",
        features: str = "image",
        cache: str | Path | None = None,
    ) -> None:
        self.model = model
        self.alpha = alpha
        self.features = features
        self.cache = cache

    def fit(self, X, y: Sequence[float], sample_weight: Sequence[float] | None = None) -> GRepQRegressor:  # noqa: N803
        """Fit to opinion scores.

        Args:
            X: photo files, images ``(N, 3, H, W)`` or a list of ``(3, H, W)`` in [0, 1], or features ``(N, C)``.
            y: ``(N,)`` MOS on any scale, higher is better.
            sample_weight: ``(N,)`` positive weights, for example the number of raters.

        Raises:
            ValueError: fewer than 5 labels, lengths that differ, values that are not finite, labels that are all equal, or
                photos that can't be read; the message names them.
        """
        if self.features not in FEATURE_KINDS:
            raise InputError(f"features must be one of {', '.join(FEATURE_KINDS)}, got {self.features!r}")
        if self.alpha != "cv" and not (isinstance(self.alpha, Real) and 0 < self.alpha < np.inf):
            raise InputError(f'alpha must be "cv" or a positive number, got {self.alpha!r}')
        y = _column(y, "MOS")
        if len(X) != len(y):
            raise InputError(f"expected a MOS for each image, got {len(X)} images and {len(y)} MOS")
        if len(y) < LEAST_LABELS:
            raise InputError(f"expected at least {LEAST_LABELS} labels, got {len(y)}")
        if y.min() == y.max():
            raise InputError(f"all {len(y)} MOS are {y[0]:g}: there is nothing to learn from")
        w = np.ones(len(y)) if sample_weight is None else _column(sample_weight, "sample weight")
        if len(w) != len(y) or w.min() <= 0:
            raise InputError(f"expected a positive weight for each of {len(y)} labels, got {len(w)}, the least {w.min():g}")
        x = self._matrix(X)
        scaler, ridge = _ridge(x, y, w, self.alpha)
        self.alpha_ = float(ridge.alpha_ if self.alpha == "cv" else self.alpha)
        self.coef_, self.intercept_ = ridge.coef_, float(ridge.intercept_)
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        self.n_features_in_, self.n_labels_ = x.shape[1], len(y)
        self.label_range_ = (float(y.min()), float(y.max()))
        self.weights_id_ = None if self.model is None else self._loaded.weights_id
        self.fitted_ = datetime.now(timezone.utc).date().isoformat()
        self._leave_out(scaler.transform(x), y, w / w.mean())
        return self

    def predict(self, X, interval: float | None = None):  # noqa: N803
        """Predicted MOS, on the scale of the labels; not clipped to their range.

        Args:
            X: as for `fit`.
            interval: share of photos whose MOS is to lie in an interval, for example 0.9. The intervals are the jackknife+'s
                (Barber et al. 2021) with the penalty and the standardisation of all labels, for photos that are drawn as the
                labelled ones were.

        Returns:
            ``(N,)`` predictions; with `interval`, also ``(N, 2)`` lower and upper ends.

        Raises:
            ValueError: a photo can't be read, features are of another length, or the labels are too few for the interval.
        """
        check_is_fitted(self)
        if interval is not None and not 0 < interval < 1:
            raise InputError(f"interval must be in (0, 1), got {interval}")
        z = (self._matrix(X, self.n_features_in_) - self.mean_) / self.scale_
        predicted = z @ self.coef_ + self.intercept_
        if interval is None:
            return predicted
        n = len(self.residuals_)
        rank = int(np.ceil(interval * (n + 1)))
        if rank > n:
            least = int(np.ceil(interval / (1 - interval)))
            raise InputError(f"an interval of {interval:g} needs {least} labels or more, there are {n}")
        ends, error = np.empty((len(z), 2)), np.abs(self.residuals_)
        for i, row in enumerate(z):
            without = self.left_out_[:, 0] + self.left_out_[:, 1:] @ row if len(self.left_out_) else predicted[i]
            ends[i] = np.sort(without - error)[n - rank], np.sort(without + error)[rank - 1]
        return predicted, ends

    def score(self, X, y: Sequence[float], sample_weight: None = None) -> float:  # noqa: N803
        """SRCC between predictions and opinion scores, in [-1, 1]."""
        if sample_weight is not None:
            raise InputError("a rank correlation has no sample weights, expected None")
        y = _column(y, "MOS")
        if len(X) != len(y):
            raise InputError(f"expected a MOS for each image, got {len(X)} images and {len(y)} MOS")
        return float(scipy.stats.spearmanr(self.predict(X), y).statistic)

    def mos(self, x: Tensor) -> Tensor:
        """Predicted MOS of images: ``(N, 3, H, W)`` in [0, 1] -> ``(N, 1)``. Gradients flow to `x`."""
        check_is_fitted(self)
        z = self._loaded.features(x, self.features)
        mean, scale, coef = (torch.from_numpy(v).to(z.device, z.dtype) for v in (self.mean_, self.scale_, self.coef_))
        return ((z - mean) / scale @ coef + self.intercept_).unsqueeze(1)

    def save(self, path: str | Path) -> None:
        """Write the head, one safetensors file; an existing one is replaced at once.

        Raises:
            ValueError: it has no model.
            OSError: it can't be written.
        """
        check_is_fitted(self)
        if self.weights_id_ is None:
            raise InputError("a head of no model can't be saved: it would fit the features of any")
        values = {"coef": self.coef_, "mean": self.mean_, "scale": self.scale_, "residuals": self.residuals_}
        values |= {"intercept": np.array([self.intercept_]), "left_out": self.left_out_}
        facts = {"format": FORMAT, "weights_id": self.weights_id_, "features": self.features, "labels": self.n_labels_}
        facts |= {"mos_min": self.label_range_[0], "mos_max": self.label_range_[1], "alpha": self.alpha_, "date": self.fitted_}
        path = Path(path)
        try:
            with tempfile.TemporaryDirectory(prefix=".head-", dir=path.parent) as staging:
                part = Path(staging) / "head.safetensors"
                save_file(
                    {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in values.items()},
                    part,
                    {k: str(v) for k, v in facts.items()},
                )
                part.chmod(0o644)
                os.replace(part, path)
        except (OSError, SafetensorError) as error:
            raise OSError(f"cannot write {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path, model: GRepQ | str | Path = "grepq-ll", cache: str | Path | None = None) -> GRepQRegressor:
        """Read a head for the model that it was fitted with.

        Raises:
            FileNotFoundError: there is no such file.
            WeightsError: it is damaged, is no head, or belongs to other weights.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"no head at {path}")
        try:
            with safe_open(path, "pt") as file:
                facts = file.metadata() or {}
                values = {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is damaged or no head: {error}") from error
        if facts.get("format") != FORMAT:
            raise WeightsError(f"{path} is no head: its format is {facts.get('format')!r}, expected {FORMAT!r}")
        self = cls(model, float(facts["alpha"]), facts["features"], cache)
        if self._loaded.weights_id != facts["weights_id"]:
            raise WeightsError(
                f"{path} was fitted to features of {facts['weights_id']}, and does not fit those of {self._loaded.weights_id}"
            )
        self.coef_, self.mean_, self.scale_ = values["coef"], values["mean"], values["scale"]
        self.intercept_, self.alpha_ = float(values["intercept"][0]), self.alpha
        self.residuals_, self.left_out_ = values["residuals"], values["left_out"]
        self.n_features_in_, self.n_labels_ = len(self.coef_), int(facts["labels"])
        self.label_range_ = (float(facts["mos_min"]), float(facts["mos_max"]))
        self.weights_id_, self.fitted_ = facts["weights_id"], facts["date"]
        return self

    @property
    def _loaded(self) -> GRepQ:
        if self.model is None:
            raise InputError("without a model, expected features (N, C)")
        if isinstance(self.model, GRepQ):
            return self.model
        if getattr(self, "_opened", (None,))[0] != self.model:
            self._opened = self.model, GRepQ.from_pretrained(self.model)
        return self._opened[1]

    def _matrix(self, X, expected: int | None = None) -> np.ndarray:  # noqa: N803
        """Features ``(N, C)`` float64 of what `fit` and `predict` take."""
        if isinstance(X, (np.ndarray, Tensor)) and X.ndim == 2:
            x = np.asarray(X.detach().cpu() if isinstance(X, Tensor) else X, np.float64)
        elif isinstance(X, Tensor) and X.ndim == 4:
            x = self._of_images(X.unsqueeze(1))
        elif isinstance(X, (list, tuple)) and X and all(isinstance(image, Tensor) for image in X):
            x = self._of_images([image.unsqueeze(0) for image in X])
        elif isinstance(X, (list, tuple)) and X and all(isinstance(path, (str, Path)) for path in X):
            x, problems = photo_features(self._loaded, X, self.features, self.cache)
            if problems:
                raise InputError(f"{len(problems)} of {len(X)} photos can't be used: {'; '.join(list(problems.values())[:3])}")
        else:
            shape = tuple(X.shape) if hasattr(X, "shape") else ""
            raise InputError(
                "expected paths, images (N, 3, H, W), a list of images (3, H, W) or features (N, C), "
                f"got {type(X).__name__} {shape}"
            )
        if not np.isfinite(x).all():
            raise InputError(f"expected finite features, got NaN or infinity in {(~np.isfinite(x).all(1)).sum()} rows")
        if expected is not None and x.shape[1] != expected:
            raise InputError(f"expected features of length {expected}, got {x.shape[1]}")
        return x.astype(np.float64)

    def _of_images(self, images) -> np.ndarray:
        model = self._loaded
        device = next(model.parameters()).device
        with torch.inference_mode():
            return torch.cat([model.features(x.to(device), self.features) for x in images]).double().cpu().numpy()

    def _leave_out(self, z: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        """Residuals and coefficients without each label, in closed form (Sherman-Morrison), the penalty kept."""
        design = np.hstack([np.ones((len(z), 1)), z])
        penalty = np.diag([0.0, *np.full(z.shape[1], self.alpha_)])
        moved = np.linalg.solve(design.T @ (w[:, None] * design) + penalty, design.T).T  # (n, 1 + C)
        leverage = w * (design * moved).sum(1)
        beta = np.append(self.intercept_, self.coef_)
        self.residuals_ = (y - design @ beta) / (1 - leverage)
        change = (w * self.residuals_)[:, None] * moved
        self.left_out_ = beta - change if len(y) <= MOST_LEFT_OUT else np.empty((0, len(beta)))


def _column(values: Sequence[float], what: str) -> np.ndarray:
    try:
        column = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers as {what}, got {values!r}"[:200]) from error
    if column.ndim != 1:
        raise InputError(f"expected one {what} for each image, got an array {column.shape}")
    if not np.isfinite(column).all():
        first = int(np.flatnonzero(~np.isfinite(column))[0])
        raise InputError(f"expected finite {what} values, got {column[first]} at position {first}")
    return column


@dataclass(frozen=True)
class HeldOut:
    """How well labels are predicted by heads that were not fitted to them.

    Attributes:
        table: ``SRCC``, ``PLCC`` and ``RMSE``, each with the ends of its 95 % interval.
        predicted: ``(N,)`` a held-out prediction for each label, of the first partition.
        folds: parts of the labels, of which one at a time is held out.
        repeats: random partitions.
    """

    table: dict[str, tuple[float, float, float]]
    predicted: np.ndarray
    folds: int
    repeats: int


def held_out(
    regressor: GRepQRegressor, x: np.ndarray, y: Sequence[float], sample_weight: Sequence[float] | None = None
) -> HeldOut:
    """Cross-validate a regressor on features ``(N, C)``: 5 folds, each with a penalty and a standardisation of its own.

    A statistic is the median over ten random partitions (one, with more than 1,000 labels); its interval is a bootstrap's over
    photos, from all of them.

    Raises:
        ValueError: there are fewer than 10 labels.
    """
    if len(y) < 10:
        raise InputError(f"a held-out estimate needs at least 10 labels, got {len(y)}")
    y, rng, folds = np.asarray(y, np.float64), np.random.default_rng(0), 5
    w = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    runs, values, resampled = [], [], []
    for repeat in range(10 if len(y) <= MOST_LEFT_OUT else 1):
        predicted = np.empty(len(y))
        for train, test in KFold(folds, shuffle=True, random_state=repeat).split(x):
            scaler, ridge = _ridge(x[train], y[train], w[train], regressor.alpha)
            predicted[test] = ridge.predict(scaler.transform(x[test]))
        runs.append(predicted)
        values.append(_agreement(predicted, y))
        resampled += [_agreement(predicted[draw], y[draw]) for draw in rng.integers(len(y), size=(200, len(y)))]
    middle, (low, high) = np.median(values, 0), np.nanpercentile(resampled, (2.5, 97.5), 0)
    table = {name: (middle[i], low[i], high[i]) for i, name in enumerate(("SRCC", "PLCC", "RMSE"))}
    return HeldOut(table, runs[0], folds, len(runs))


def suggest(x: np.ndarray, count: int) -> list[int]:
    """Positions of `count` photos to have rated first: those nearest to the centres of as many clusters of features.

    `x` is ``(N, C)``, N at least `count`. Few labels should be of typical photos: on BIQ2021 this beat random choice for up to
    50 labels, and farthest-point sampling did not (``python -m benchmarks.studies.few_labels``).
    """
    z = StandardScaler().fit_transform(x)
    distance = KMeans(count, n_init=1, random_state=0).fit(z).transform(z)
    chosen = []
    for centre in distance.T:
        centre = centre.copy()
        centre[chosen] = np.inf  # two centres may share their nearest photo
        chosen.append(int(centre.argmin()))
    return chosen


def _ridge(x: np.ndarray, y: np.ndarray, w: np.ndarray, alpha: float | str) -> tuple[StandardScaler, Ridge]:
    """A standardisation and a ridge regression after it; the weights are scaled to a mean of 1, as the penalty needs it."""
    w = w / w.mean()
    scaler = StandardScaler().fit(x, sample_weight=w)
    ridge = RidgeCV(ALPHAS) if alpha == "cv" else Ridge(alpha)
    return scaler, ridge.fit(scaler.transform(x), y, w)


def _agreement(predicted: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    if predicted.min() == predicted.max() or y.min() == y.max():
        return np.nan, np.nan, float(np.sqrt(((predicted - y) ** 2).mean()))
    srcc, plcc = scipy.stats.spearmanr(predicted, y).statistic, scipy.stats.pearsonr(predicted, y).statistic
    return float(srcc), float(plcc), float(np.sqrt(((predicted - y) ** 2).mean()))
