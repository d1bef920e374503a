"""GRepQ as a function, by the conventions of the package piq."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from grepq_metric import catalog
from grepq_metric.errors import InputError
from grepq_metric.inputs import check_data_range, scaled
from grepq_metric.models import QualityModel, load_model


def grepq(x: Tensor, data_range: float = 1.0, reduction: str = "mean", weights: str | Path = catalog.DEFAULT) -> Tensor:
    """Zero-shot score of images, higher is better.

    Args:
        x: ``(N, 3, H, W)`` RGB or ``(N, 1, H, W)`` grey in [0, `data_range`]; integers are taken, too.
        data_range: largest value of `x`: 1 or 255.
        reduction: ``mean`` (piq's default), ``sum`` or ``none`` over images.
        weights: as in `GRepQ.from_pretrained`; by default ``grepq-sem``. They are loaded once for each device: a folder that
            is written anew later does not change what this process computes.

    Returns:
        A scalar, or ``(N,)`` with the reduction ``none``. Gradients flow to `x`.

    Raises:
        InputError: `reduction` is unknown, `data_range` is no positive number, or as `GRepQ.forward`, of ``x / data_range``.

    Examples:
        >>> import torch
        >>> from grepq_metric import grepq
        >>> grepq(torch.full((2, 3, 96, 128), 127), data_range=255, reduction="none").shape
        torch.Size([2])
    """
    if reduction not in ("none", "mean", "sum"):
        raise InputError(f"reduction must be one of none, mean, sum, got {reduction!r}")
    check_data_range(data_range)
    images = scaled(x, data_range)
    scores = loaded(weights, str(images.device))(images).squeeze(1)
    if reduction == "none":
        return scores
    return scores.mean() if reduction == "mean" else scores.sum()


@lru_cache(maxsize=4)
def loaded(weights: str | Path, device: str) -> QualityModel:
    """Weights on a device, kept for the next call."""
    with torch.inference_mode(False):  # tensors that move in a first call in inference mode could carry no gradients later
        return load_model(weights).requires_grad_(False).to(device)
