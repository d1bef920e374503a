"""GRepQ as a metric of torchmetrics: ``pip install "grepq-metric[torchmetrics]"``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
    from torchmetrics.utilities.data import dim_zero_cat
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('GRepQMetric needs torchmetrics: pip install "grepq-metric[torchmetrics]"') from error

from grepq_metric import catalog
from grepq_metric.errors import InputError
from grepq_metric.inputs import check_data_range, scaled
from grepq_metric.models import load_model


class GRepQMetric(Metric):
    """Mean zero-shot score of images over all updates and processes; or, with ``reduction="none"``, the score of each.

    Args:
        weights: as in `GRepQ.from_pretrained`; by default ``grepq-sem``.
        data_range: largest value of the images: 1 or 255; integer images are taken, too.
        reduction: ``mean`` or ``none``.
        kwargs: of `torchmetrics.Metric`, for example ``sync_on_compute``.

    Raises:
        InputError: `reduction` is unknown or `data_range` is not positive; and as `GRepQ.from_pretrained`.

    Examples:
        >>> import torch
        >>> from grepq_metric.integrations.torchmetrics import GRepQMetric
        >>> metric = GRepQMetric()
        >>> metric.update(torch.full((2, 3, 96, 128), 0.5))
        >>> metric.compute().shape
        torch.Size([])
    """

    total: Tensor
    count: Tensor
    scores: list[Tensor]
    is_differentiable = True
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = None

    def __init__(
        self, weights: str | Path = catalog.DEFAULT, data_range: float = 1.0, reduction: str = "mean", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if reduction not in ("mean", "none"):
            raise InputError(f"reduction must be mean or none, got {reduction!r}")
        check_data_range(data_range)
        self.data_range, self.reduction = data_range, reduction
        self.model = load_model(weights).requires_grad_(False)
        if reduction == "mean":
            self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        else:
            self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, images: Tensor) -> None:
        """Take in images ``(N, 3, H, W)`` or ``(N, 1, H, W)`` in [0, `data_range`], of any size.

        Raises:
            InputError: as `GRepQ.forward`, of ``images / data_range``.
        """
        scores = self.model(scaled(images, self.data_range)).squeeze(1)
        if self.reduction == "mean":
            self.total = self.total + scores.sum()
            self.count = self.count + len(scores)
        else:
            self.scores.append(scores)

    def compute(self) -> Tensor:
        """The mean, a float32 scalar; or all scores ``(N,)``."""
        return (self.total / self.count).float() if self.reduction == "mean" else dim_zero_cat(self.scores)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot a value, or several of successive steps, as torchmetrics does; needs matplotlib."""
        return self._plot(val, ax)
