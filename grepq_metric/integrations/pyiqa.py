"""GRepQ as a pyiqa metric: ``pyiqa.create_metric("grepq-ll")``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from grepq_metric.model import GRepQ


class GRepQArch(nn.Module):
    """The architecture that pyiqa builds for the metrics ``grepq``, ``grepq-hl`` and ``grepq-ll``.

    Args:
        weights: as in `GRepQ.from_pretrained`.
        head: a head of `grepq fit`; the score is then the MOS that it predicts, on its own scale.
        options: as in `GRepQ.from_pretrained`. The metric's record sets ``pathways``, so that other weights must have them.
    """

    def __init__(self, weights: str | Path = "grepq-ll", head: str | Path | None = None, **options) -> None:
        super().__init__()
        self.model = GRepQ.from_pretrained(weights, **options).requires_grad_(False)
        self.regressor = None
        if head is not None:
            from grepq_metric.heads.regressor import GRepQRegressor

            self.regressor = GRepQRegressor.load(head, self.model)

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

    from grepq_metric.loss import GRepQLoss

    LOSS_REGISTRY.register(GRepQLoss, override=True)
