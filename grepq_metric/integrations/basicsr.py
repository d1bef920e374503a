"""GRepQ as a perceptual loss of BasicSR's models.

BasicSR imports the files ``basicsr/losses/*_loss.py`` of its own folder: one with the line
``import grepq_metric.integrations.basicsr`` is enough. Then ``perceptual_opt: {type: GRepQPerceptualLoss, loss_weight: 0.03}``
goes below ``pixel_opt`` in the option file.
"""

from __future__ import annotations

from torch import Tensor

try:
    from basicsr.utils.registry import LOSS_REGISTRY
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("GRepQPerceptualLoss is for BasicSR, which is not installed") from error

from grepq_metric.loss import GRepQLoss


@LOSS_REGISTRY.register()
class GRepQPerceptualLoss(GRepQLoss):
    """`GRepQLoss` in the form that BasicSR's models expect: a pair of a perceptual and a style loss. Arguments as there."""

    def forward(self, x: Tensor, target: Tensor | None = None) -> tuple[Tensor, None]:  # type: ignore[override]
        """The loss of images, and None: there is no style loss."""
        return super().forward(x, target), None
