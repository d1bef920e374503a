"""A MOS of photos from few labels: frozen features of a model, and a head that is fitted to them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import scipy.sparse
import scipy.stats
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from grepq_metric import catalog
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.heads import headfile
from grepq_metric.heads.features import photo_features
from grepq_metric.heads.labels import LARGEST
from grepq_metric.heads.ridge import RidgeHead
from grepq_metric.models import QualityModel, load_model

if TYPE_CHECKING:
    import pandas as pd

    Photos: TypeAlias = Sequence[str | Path] | Sequence[Tensor] | np.ndarray | Tensor | pd.Series | pd.DataFrame

LEAST_LABELS = 5
KINDS = ("monotone", "shrunk", "ridge")
"""Kinds of heads, see `GRepQRegressor`."""
LEAST_SHRUNK, LEAST_SHRUNK_LOW = 50, 800
"""Labels from which on features add to the zero-shot score on the mean, and those of the low-level pathway alone, by
``python -m benchmarks.studies.few_labels``."""


def kind_for(labels: int, model: QualityModel) -> str:
    """The kind of head for a number of labels: ``monotone`` below 50 (the low-level pathway alone: 800), else ``shrunk``."""
    least = LEAST_SHRUNK_LOW if model.pathways == ("low",) else LEAST_SHRUNK
    return "monotone" if labels < least else "shrunk"


def whole_kind(model: QualityModel, kind: str, features: str | None) -> str:
    """The features that a kind of head is fitted to, as `GRepQ.feature_kind` names them.

    Raises:
        ValueError: `features` name the score, which the kind of the head decides on, or what the weights lack.
    """
    if features is not None and "score" in features.split("+"):
        raise InputError(f"features are beside the score, which the kind of the head decides on, got {features!r}")
    found = model.feature_kind(features)
    return {"monotone": "score", "shrunk": f"score+{found}", "ridge": found}[kind]


def new_head(model: QualityModel | None, features: str | None, alpha: float | str = "cv") -> RidgeHead:
    """The head for features that a name of `whole_kind` stands for; without a model, for one block of any."""
    if model is None or features is None:
        return RidgeHead(alpha)
    blocks, scored = model.feature_blocks(features), "score" in features.split("+")
    return RidgeHead(alpha, blocks[scored:], scored)


class GRepQRegressor(RegressorMixin, BaseEstimator):
    """Predicts mean opinion scores (MOS) of photos from few labels; a scikit-learn estimator.

    `X` is in all methods one of

    - photo files: a list, a tuple, a numpy array or a pandas Series of paths;
    - images in [0, 1]: a tensor ``(N, 3, H, W)``, or a list of ``(3, H, W)`` where sizes differ;
    - features ``(N, C)`` of the model: an array, a tensor, a list of rows or a pandas DataFrame.

    Args:
        model: whose features; or what `GRepQ.from_pretrained` takes; None for other features, which can't be saved. Copies of
            the regressor, such as scikit-learn's for a search, share a model that is given as `GRepQ`.
        head: the regression, any regressor of scikit-learn, on the features without the score; None is a `RidgeHead` of the
            blocks of the model's features, which also gives intervals, gradients and files. To search settings, as
            ``head__alpha``, give one.
        features: see `GRepQ.feature_kind`; None is what predicts best. Without the score, which `kind` decides on.
        kind: of the head, if `head` is None. ``monotone``: a rising line of the zero-shot score, whose order it keeps;
            ``shrunk``: such a line, and features as far as the labels bear them out; ``ridge``: features alone, as in the
            paper; ``auto``: that of `kind_for`. Without a model there is no score, and
            ``auto`` is ``ridge``.
        cache: folder where the features of photo files are kept, see `photo_features`; None: nowhere.

    Attributes:
        head_: the fitted head.
        kind_: of the head: ``monotone``, ``shrunk`` or ``ridge``; that of a given head is ``ridge``.
        features_: the features that it predicts from, as in `GRepQ.features`: with ``score``, but for ``ridge``; None without
            a model. `X` as a matrix has these columns.
        label_range_: least and greatest MOS that it was fitted to.
        n_labels_: number of labels.
        n_features_in_: number of features.
        feature_names_in_: their names, where `fit` was given a DataFrame.
        weights_id_: of the model; None without.
        fitted_: day, ISO 8601.

    Examples:
        >>> import numpy as np
        >>> from grepq_metric import GRepQRegressor
        >>> features, mos = np.random.default_rng(0).normal(size=(20, 8)), np.linspace(1, 5, 20)
        >>> regressor = GRepQRegressor(model=None).fit(features, mos)  # with a model, also paths and images
        >>> regressor.predict(features[:3]).shape
        (3,)
        >>> regressor.predict_interval(features[:3], level=0.9).shape
        (3, 2)
    """

    def __init__(
        self,
        model: QualityModel | str | Path | None = catalog.DEFAULT,
        head: RegressorMixin | None = None,
        features: str | None = None,
        kind: str = "auto",
        cache: str | Path | None = None,
    ) -> None:
        self.model = model
        self.head = head
        self.features = features
        self.kind = kind
        self.cache = cache

    def fit(self, X: Photos, y: ArrayLike, sample_weight: ArrayLike | None = None) -> GRepQRegressor:  # noqa: N803
        """Fit to opinion scores.

        Args:
            X: photos or features, see the class.
            y: ``(N,)`` MOS on any scale, higher is better.
            sample_weight: ``(N,)`` positive weights, for example the number of raters; they are scaled to a mean of 1.

        Raises:
            ValueError: fewer than 5 labels, lengths that differ, values that are not finite or above 1e100, labels that are
                all equal, images that are not in [0, 1], features that are not the model's, or photos that can't be read;
                the message names them.
        """
        if self.kind not in ("auto", *KINDS):
            raise InputError(f"kind must be one of auto, {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind != "auto" and self.head is not None:
            raise InputError(f"kind {self.kind!r} is of the default head: give it or a head, not both")
        if self.kind in ("monotone", "shrunk") and self.model is None:
            raise InputError(f"kind {self.kind!r} needs the zero-shot score, which there is not without a model")
        count = _length(X)
        if y is None:
            raise InputError("GRepQRegressor requires y to be passed, but the target y is None: expected a MOS for each image")
        mos = _column(y, "MOS")
        _check_labels(mos, count)
        weights = None if sample_weight is None else _column(sample_weight, "sample weight")
        if weights is not None and (len(weights) != count or weights.min() <= 0):
            raise InputError(f"expected a positive weight for each of {count} labels, got {_summary(weights)}")
        model = self._model()
        kind = self.kind
        if kind == "auto":
            kind = "ridge" if model is None or self.head is not None else kind_for(count, model)
        features = None if model is None else whole_kind(model, kind, self.features)
        x = self._matrix(X, features)
        if model is not None and x.shape[1] != (width := sum(model.feature_blocks(features))):
            raise InputError(f"expected the {width} features {features!r} of {model.weights_id}, got {x.shape[1]}")
        head = new_head(model, features) if self.head is None else clone(self.head)
        self.head_ = head.fit(x, mos, **({} if weights is None else {"sample_weight": weights / weights.mean()}))
        self.kind_, self.features_, self.weights_id_ = kind, features, None if model is None else model.weights_id
        self.n_labels_, self.label_range_ = count, (float(mos.min()), float(mos.max()))
        self.fitted_ = datetime.now(timezone.utc).date().isoformat()
        return self

    def predict(self, X: Photos) -> np.ndarray:  # noqa: N803
        """Predicted MOS ``(N,)``, on the scale of the labels; not clipped to their range.

        Raises:
            ValueError: a photo can't be read, an image is not in [0, 1], or features are of another length.
        """
        check_is_fitted(self)
        return self.head_.predict(self._matrix(X, self.features_))

    def predict_interval(self, X: Photos, level: float = 0.9) -> np.ndarray:  # noqa: N803
        """Intervals ``(N, 2)`` that are to hold the MOS of a share `level` of photos, see `RidgeHead.predict_interval`.

        Raises:
            ValueError: as `predict`; the level is not in (0, 1) or needs more labels than there were; the head has none.
        """
        check_is_fitted(self)
        if not hasattr(self.head_, "predict_interval"):
            raise InputError(f"a head of {type(self.head_).__name__} gives no intervals, a RidgeHead does")
        return self.head_.predict_interval(self._matrix(X, self.features_), level)

    def score(self, X: Photos, y: ArrayLike, sample_weight: None = None) -> float:  # noqa: N803
        """SRCC between predictions and opinion scores, in [-1, 1]: what models of quality are compared by, not R^2.

        Raises:
            ValueError: as `predict`; lengths that differ, or sample weights, which a rank correlation has not.
        """
        check_is_fitted(self)
        if sample_weight is not None:
            raise InputError("a rank correlation has no sample weights, expected None")
        mos = _column(y, "MOS")
        if _length(X) != len(mos):
            raise InputError(f"expected a MOS for each image, got {_length(X)} images and {len(mos)} MOS")
        return float(scipy.stats.spearmanr(self.predict(X), mos).statistic)

    def mos(self, x: Tensor) -> Tensor:
        """Predicted MOS of images: ``(N, 3, H, W)`` in [0, 1] -> ``(N, 1)``. Gradients flow to `x`.

        Raises:
            ValueError: as `GRepQ.forward`; there is no model, or the head has no gradients.
        """
        check_is_fitted(self)
        model = self._model()
        if model is None or self.features_ is None:
            raise InputError("without a model there are no features of images")
        if not isinstance(self.head_, RidgeHead):
            raise InputError(f"a head of {type(self.head_).__name__} gives no gradients, a RidgeHead does")
        return self.head_.predict_tensor(model.features(x, self.features_)).unsqueeze(1)

    def save(self, path: str | Path) -> None:
        """Write the regressor without its model, one safetensors file; an existing one is replaced at once.

        Raises:
            ValueError: it has no model, or its head is no `RidgeHead`.
            OSError: it can't be written.
        """
        check_is_fitted(self)
        if self.weights_id_ is None or self.features_ is None:
            raise InputError("a head of no model can't be saved: it would fit the features of any")
        if not isinstance(self.head_, RidgeHead):
            raise InputError(f"a head of {type(self.head_).__name__} can't be saved, a RidgeHead can")
        least, greatest = self.label_range_
        facts = headfile.HeadFacts(
            head=self.kind_,
            weights_id=self.weights_id_,
            features=self.features_,
            labels=self.n_labels_,
            mos_min=least,
            mos_max=greatest,
            alpha=self.head_.alpha_,
            date=self.fitted_,
        )
        headfile.write(path, facts, self.head_.arrays())

    @classmethod
    def load(
        cls, path: str | Path, model: QualityModel | str | Path | None = None, cache: str | Path | None = None
    ) -> GRepQRegressor:
        """Read what `save` wrote, for the model that it was fitted with.

        Args:
            path: a file, or the name of a head in this package, such as ``biq2021``.
            model: whose features; None: the built-in weights that the head names.
            cache: see the class.

        Raises:
            FileNotFoundError: there is no such file.
            WeightsError: it is damaged, is no head, or belongs to other weights.
        """
        facts, arrays = headfile.read(path)
        kind, features, identity = facts["head"], facts["features"], facts["weights_id"]
        if kind not in KINDS:
            raise WeightsError(f"{path} is a head {kind!r}, which is unknown here, expected one of {', '.join(KINDS)}")
        loaded = model if isinstance(model, QualityModel) else load_model(model or weights_of(path))
        if loaded.weights_id != identity:
            raise WeightsError(f"{path} was fitted to features of {identity}, and does not fit those of {loaded.weights_id}")
        given = "+".join(name for name in features.split("+") if name != "score") or None
        try:
            whole = whole_kind(loaded, kind, given)
        except InputError as error:
            raise WeightsError(f"{path} is of features {features!r}, which are unknown here: {error}") from error
        if features != whole:
            raise WeightsError(f"{path} is damaged: a head {kind!r} of features {features!r}, expected {whole!r}")
        plain = new_head(loaded, features)
        try:
            head = RidgeHead.from_arrays(arrays, facts["alpha"], plain.blocks, plain.scored)
        except InputError as error:
            raise WeightsError(f"{path} is damaged: {error}") from error
        if len(head.residuals_) > facts["labels"]:
            raise WeightsError(f"{path} is damaged: {len(head.residuals_)} residuals of {facts['labels']} labels")
        if head.n_features_in_ != (width := sum(loaded.feature_blocks(features))):
            raise WeightsError(f"{path} is damaged: it is for {head.n_features_in_} features, expected {width}")
        self = cls(loaded, None, given, kind, cache)
        self.head_, self.kind_, self.features_, self.weights_id_ = head, kind, features, identity
        self.n_labels_, self.label_range_ = facts["labels"], (facts["mos_min"], facts["mos_max"])
        self.fitted_ = facts["date"]
        return self

    @property
    def n_features_in_(self) -> int:
        """Number of features."""
        check_is_fitted(self, "head_")
        return self.head_.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the features."""
        check_is_fitted(self, "head_")
        return self.head_.feature_names_in_

    def __sklearn_clone__(self) -> GRepQRegressor:
        """An unfitted copy with the same model, which is large and never changed."""
        parameters = self.get_params(deep=False)
        model = parameters.pop("model")
        return type(self)(model=model, **{name: clone(value, safe=False) for name, value in parameters.items()})

    def _model(self) -> QualityModel | None:
        if self.model is None or isinstance(self.model, QualityModel):
            return self.model
        if getattr(self, "_opened", (None,))[0] != self.model:
            self._opened = self.model, load_model(self.model)
        return self._opened[1]

    def _matrix(self, X: Photos, kind: str | None) -> np.ndarray | pd.DataFrame:  # noqa: N803
        """Features ``(N, C)`` of what `fit` and `predict` take."""
        if isinstance(X, (str, os.PathLike)):
            raise InputError(f"expected a list of photos, got one path: [{os.fspath(X)!r}]")
        if hasattr(X, "columns"):  # of a DataFrame, whose names the head compares
            return X
        if isinstance(X, Tensor) and X.ndim == 4:
            return self._of_images(X.unsqueeze(1), kind)
        if isinstance(X, (np.ndarray, Tensor)) and X.ndim == 2:
            return _checked(np.asarray(X.detach().cpu() if isinstance(X, Tensor) else X))
        if scipy.sparse.issparse(X):
            raise InputError("sparse features are not supported: pass X.toarray()")
        if not isinstance(X, (Tensor, Sequence)) and not hasattr(X, "ndim") and hasattr(X, "__array__"):
            return self._matrix(np.asarray(X), kind)
        if not isinstance(X, Tensor) and getattr(X, "ndim", 1) == 1 and _length(X):
            items = list(X)
            if all(isinstance(item, Tensor) and item.ndim == 3 for item in items):
                return self._of_images((image.unsqueeze(0) for image in items), kind)
            if all(isinstance(item, (str, os.PathLike)) for item in items):
                return self._of_files(items, kind)
            if all(isinstance(item, (list, tuple, np.ndarray)) for item in items):
                return _checked(_stacked(items))
        shape = tuple(X.shape) if hasattr(X, "shape") else ""
        raise InputError(
            "expected paths, images (N, 3, H, W) as a tensor, a list of images (3, H, W) or features (N, C), "
            f"got {type(X).__name__} {shape}"
        )

    def _of_files(self, paths: list[str | Path], kind: str | None) -> np.ndarray:
        model = self._model()
        if model is None:
            raise InputError("without a model, expected features (N, C)")
        x, problems = photo_features(model, paths, kind, self.cache)
        if problems:
            raise InputError(f"{len(problems)} of {len(paths)} photos can't be used: {'; '.join(list(problems.values())[:3])}")
        return x.astype(np.float64)

    def _of_images(self, images: Iterable[Tensor], kind: str | None) -> np.ndarray:
        model = self._model()
        if model is None or kind is None:
            raise InputError("without a model, expected features (N, C)")
        with torch.inference_mode():
            return torch.cat([model.features(x.to(model.device), kind) for x in images]).double().cpu().numpy()


def weights_of(path: str | Path) -> str:
    """The tag of the built-in weights that a head belongs to, a file or a name.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged or no head, or belongs to weights that are not built in.
    """
    identity = headfile.describe(path)["weights_id"]
    name, _, digest = identity.rpartition("-")
    entry = catalog.find(f"{name}.{digest}") or catalog.find(name)
    if entry is None:
        raise WeightsError(f"{path} was fitted to features of {identity}, which are not built in: name their folder")
    return entry.tag


def _length(X: Photos) -> int:  # noqa: N803
    if isinstance(X, (str, os.PathLike)):
        raise InputError(f"expected a list of photos, got one path: [{os.fspath(X)!r}]")
    if shape := getattr(X, "shape", ()):  # sparse matrices have no length
        return shape[0]
    if not isinstance(X, Sequence) and hasattr(X, "__array__"):
        return len(np.asarray(X))
    try:
        return len(X)
    except TypeError as error:
        raise InputError(f"expected a list of photos or a matrix of features, got {type(X).__name__}") from error


def _column(values: ArrayLike, what: str) -> np.ndarray:
    try:
        column = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers as {what}, got {values!r}"[:200]) from error
    if column.ndim != 1:
        raise InputError(f"expected one {what} for each image, got an array {column.shape}")
    if not (usable := np.abs(column) <= LARGEST).all():
        first = int(np.flatnonzero(~usable)[0])
        raise InputError(f"expected finite {what} values up to {LARGEST:g}, got {column[first]} at position {first}")
    return column


def _check_labels(mos: np.ndarray, count: int) -> None:
    if count != len(mos):
        raise InputError(f"expected a MOS for each image, got {count} images and {len(mos)} MOS")
    if count < LEAST_LABELS:
        raise InputError(f"expected at least {LEAST_LABELS} labels, got {count}")
    if mos.min() == mos.max():
        raise InputError(f"all {count} MOS are {mos[0]:g}: there is nothing to learn from")


def _summary(weights: np.ndarray) -> str:
    return f"{len(weights)}, the least {weights.min():g}" if len(weights) else "none"


def _stacked(rows: list[ArrayLike]) -> np.ndarray:
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise InputError(f"expected features (N, C), got {len(rows)} rows that differ in length") from error


def _checked(features: np.ndarray) -> np.ndarray:
    """A matrix of features as float64."""
    if features.dtype.kind == "c":
        raise InputError(f"Complex data not supported: expected real features (N, C), got {features.dtype}")
    try:
        if features.ndim != 2 or features.dtype.kind not in "fiubO":
            raise ValueError("no matrix of numbers")
        x = features.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected features (N, C) of numbers, got an array {features.shape} of {features.dtype}") from error
    if not (finite := np.isfinite(x).all(1)).all():
        raise InputError(f"expected finite features, got NaN or infinity in {(~finite).sum()} rows")
    return x
