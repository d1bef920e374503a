"""GRepQ as a pyiqa metric: ``pyiqa.create_metric("grepq-sem")``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from grepq_metric import catalog
from grepq_metric.errors import InputError
from grepq_metric.heads.regressor import GRepQRegressor, weights_of
from grepq_metric.loss import GRepQLoss
from grepq_metric.models import OPTIONS, check_options, load_model


class GRepQArch(nn.Module):
    """The architecture that pyiqa builds for the built-in names of weights, such as ``grepq-sem``, and for ``grepq-mos``.

    Args:
        weights: as in `GRepQ.from_pretrained`; by default those of the head, or ``grepq-sem``.
        head: of ``grepq-mos``, and of it alone: a head of `grepq fit`, or the name of one in this package, ``biq2021``; the
            score is the MOS that it predicts.
        predicts_mos: set by the record of ``grepq-mos``.
        options: as in `GRepQ.from_pretrained`. The metric's record sets ``pathways``, so that other weights must have them.

    Raises:
        InputError: there is no head for ``grepq-mos``, or one for another metric, whose range of scores would be wrong; and as
            `GRepQ.from_pretrained`.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        head: str | Path | None = None,
        predicts_mos: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if predicts_mos != (head is not None):
            raise InputError(
                "a head predicts MOS, which is the metric grepq-mos: pyiqa.create_metric('grepq-mos', head='head.safetensors')"
            )
        check_options(options, ("weights", "head", *OPTIONS))
        if weights is None:
            weights = catalog.DEFAULT if head is None else weights_of(head)
        self.model = load_model(weights, **options).requires_grad_(False)
        self.regressor = None if head is None else GRepQRegressor.load(head, self.model)

    def forward(self, x: Tensor) -> Tensor:
        """Score ``(N, 3, H, W)`` RGB in [0, 1] -> ``(N, 1)``, higher is better. Gradients flow to `x`."""
        return self.model(x) if self.regressor is None else self.regressor.mos(x)


def register() -> None:
    """Add the architecture to pyiqa's registry; called through the ``pyiqa.archs`` entry point."""
    from pyiqa.utils.registry import ARCH_REGISTRY

    ARCH_REGISTRY.register(GRepQArch, name="GRepQ", override=True)


def register_loss() -> None:
    """Add `GRepQLoss` to pyiqa's registry of losses; called through the ``pyiqa.losses`` entry point."""
    from pyiqa.utils.registry import LOSS_REGISTRY

    LOSS_REGISTRY.register(GRepQLoss, override=True)
