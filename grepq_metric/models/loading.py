"""Weights of any kind as the model that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from grepq_metric.models.base import QualityModel, check_options
from grepq_metric.models.grepq import GRepQ
from grepq_metric.models.qfm import QFMIQM
from grepq_metric.weights import HubOptions, read_weights

MODELS: tuple[type[QualityModel], ...] = (GRepQ, QFMIQM)
OPTIONS = tuple(dict.fromkeys(option for model in MODELS for option in model.OPTIONS))
"""Options of some kind of model."""


def load_model(
    weights: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    **options: Any,
) -> QualityModel:
    """The model of weights of any kind: `GRepQ` or `QFMIQM`, whichever they are of.

    Args:
        weights: as in `GRepQ.from_pretrained`, and so are all other arguments and errors.
        revision, token, cache_dir, force_download, local_files_only: of the Hub's client.
        options: of that kind of model.

    Examples:
        >>> from grepq_metric import load_model
        >>> type(load_model("grepq-sem")).__name__, type(load_model("qfm-iqm")).__name__
        ('GRepQ', 'QFMIQM')
    """
    check_options(options, OPTIONS)
    hub = HubOptions(revision, token, cache_dir, force_download, local_files_only)
    config, tensors, file = read_weights(weights, hub)
    return model_of(config, tensors, source=file, **options)


def model_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: str | Path, **options: Any) -> QualityModel:
    """The model of the content of a weights folder, see `GRepQ.from_parts`."""
    kind = QFMIQM if set(config["pathways"]) & set(QFMIQM.PARTS) else GRepQ
    return kind.from_parts(config, tensors, source=source, **options)
