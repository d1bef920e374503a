"""GRepQ as a function, by the conventions of the package piq."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from grepq_metric.errors import InputError
from grepq_metric.model import GRepQ


def grepq(x: Tensor, data_range: float = 1.0, reduction: str = "none", weights: str | Path = "grepq-ll") -> Tensor:
    """Zero-shot score of images, higher is better.

    Args:
        x: ``(N, 3, H, W)`` RGB or ``(N, 1, H, W)`` grey in [0, `data_range`]; integers are taken, too.
        data_range: largest value of `x`: 1 or 255.
        reduction: ``none``, ``mean`` (piq's default) or ``sum`` over images.
        weights: as in `GRepQ.from_pretrained`. They are loaded once for each device: a folder that is written anew later
            does not change what this process computes.

    Returns:
        ``(N,)``, or a scalar. Gradients flow to `x`.

    Raises:
        ValueError: `reduction` is unknown, `data_range` is not positive, or as `GRepQ.forward`.

    Example:
        >>> import torch
        >>> from grepq_metric import grepq
        >>> grepq(torch.full((2, 3, 96, 128), 127), data_range=255).shape
        torch.Size([2])
    """
    if reduction not in ("none", "mean", "sum"):
        raise InputError(f"reduction must be one of none, mean, sum, got {reduction!r}")
    if not data_range > 0:
        raise InputError(f"data_range must be positive, got {data_range}")
    scores = _model(str(weights), str(x.device))(x / data_range).squeeze(1)
    return scores if reduction == "none" else getattr(scores, reduction)()


@lru_cache(maxsize=4)
def _model(weights: str, device: str) -> GRepQ:
    with torch.inference_mode(False):  # tensors of a first call in inference mode could carry no gradients later
        return GRepQ.from_pretrained(weights).requires_grad_(False).to(device)
