"""Heads: opinion scores (MOS) on the scale of your own raters, from frozen features and few labels.

`GRepQRegressor` takes photos, `RidgeHead` matrices of features. What needs scikit-learn loads when it is first used; the facts
of a head file, from `describe`, need neither scikit-learn nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grepq_metric.heads.headfile import HeadFacts, describe, is_head

if TYPE_CHECKING:
    from grepq_metric.heads.evaluation import HeldOut, held_out
    from grepq_metric.heads.features import default_cache, photo_features
    from grepq_metric.heads.labels import Labels, read_labels
    from grepq_metric.heads.regressor import GRepQRegressor
    from grepq_metric.heads.ridge import RidgeHead
    from grepq_metric.heads.selection import suggest
    from grepq_metric.heads.threshold import Threshold, find_threshold

__all__ = [
    "GRepQRegressor",
    "HeadFacts",
    "HeldOut",
    "Labels",
    "RidgeHead",
    "Threshold",
    "default_cache",
    "describe",
    "find_threshold",
    "held_out",
    "is_head",
    "photo_features",
    "read_labels",
    "suggest",
]
_HOMES = {
    "GRepQRegressor": "regressor",
    "HeldOut": "evaluation",
    "Labels": "labels",
    "RidgeHead": "ridge",
    "Threshold": "threshold",
    "default_cache": "features",
    "find_threshold": "threshold",
    "held_out": "evaluation",
    "photo_features": "features",
    "read_labels": "labels",
    "suggest": "selection",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
