"""GRepQ as a loss term for training restoration networks."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from grepq_metric.errors import InputError
from grepq_metric.model import GRepQ

REDUCTIONS = ("mean", "sum", "none")
BEST = {"low": 0.5, "high": 1.0}
"""Least upper bound of the score of each pathway."""


class GRepQLoss(nn.Module):
    """1 - score / best possible score: in [0, 1], 0 is best. A loss term beside a fidelity loss such as L1.

    With the low-level pathway alone it is tanh(d / 200) of the distance d. The weights are frozen and stay in evaluation mode
    under `train`; gradients flow to the images, but not to what patches of 96 pixels, 48 apart, leave over at the right and
    the bottom of a crop.

    Args:
        weights: as in `GRepQ.from_pretrained`.
        reduction: ``mean``, ``sum`` or ``none``.
        patches: take as many patches of each image at most, drawn at random in each call (``torch.manual_seed``), instead of
            all: quicker, but the distance then varies, and is larger on average, since fewer patches estimate its mean.
        loss_weight: the loss is multiplied by it.
        checkpoint: of the low-level pathway, keep the activations of one chunk of patches at a time, and compute them twice:
            memory then grows with the patches, four times the images, and not with what the network makes of them.
        options: as in `GRepQ.from_pretrained`, for example ``chunk_size=16``.

    Raises:
        ValueError: `weights` is no name or folder, `reduction` or `patches` is not one of these, or there are no patches
            because the weights lack the low-level pathway; and as `GRepQ.from_pretrained`.

    Warns:
        UserWarning: values of the first call are far outside of [0, 1]. The loss is then close to 1, and its gradient to 0.

    Example:
        >>> import torch
        >>> from grepq_metric import GRepQLoss
        >>> perceptual = GRepQLoss(loss_weight=0.03)
        >>> clean = torch.rand(1, 3, 96, 128)
        >>> restored = (clean + 0.1).requires_grad_()
        >>> loss = torch.nn.functional.l1_loss(restored, clean) + perceptual(restored)
        >>> loss.backward()
    """

    def __init__(
        self,
        weights: str | Path = "grepq-ll",
        *,
        reduction: str = "mean",
        patches: int | None = None,
        loss_weight: float = 1.0,
        checkpoint: bool = True,
        **options,
    ) -> None:
        super().__init__()
        if not isinstance(weights, (str, Path)):
            raise InputError(f"weights must be a name or a folder, got {weights!r}; the weight of the loss is loss_weight")
        if reduction not in REDUCTIONS:
            raise InputError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if patches is not None and not (isinstance(patches, int) and patches >= 1):
            raise InputError(f"patches must be None or at least 1, got {patches!r}")
        self.reduction, self.patches, self.loss_weight = reduction, patches, loss_weight
        self.model = GRepQ.from_pretrained(weights, **options).requires_grad_(False)
        if self.model.low is not None:
            self.model.low.checkpoint_chunks = checkpoint
        elif patches is not None:
            raise InputError(f"patches={patches} needs the low-level pathway, which {weights} lacks")
        self._checked = False

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """Loss of images.

        Args:
            x: ``(N, 3, H, W)`` RGB or ``(N, 1, H, W)`` grey, nominally in [0, 1]; a network in training may overshoot.
            target: not used; training frameworks pass the clean images to every loss.

        Returns:
            Scalar, or ``(N,)`` with the reduction ``none``, in float32, or float64 for such images.

        Raises:
            ValueError: `x` has another shape or type.
        """
        x, dtype = self.model._prepare(x, check_values=False)
        if not (self._checked or torch.compiler.is_compiling()):  # later calls need not wait for the device
            self._checked = True
            low, high = x.detach().aminmax()
            if low < -1 or high > 2:
                message = f"GRepQLoss expects values in [0, 1], got {low.item():g} to {high.item():g}"
                warnings.warn(message, stacklevel=4)  # names the line that called the module, not torch's
        score = x.new_zeros(len(x), dtype=torch.float64)
        if (low := self.model.low) is not None:
            z = low.patch_features(x, self.patches)
            with torch.autocast(x.device.type, enabled=False):
                score = score + low.quality(low.distance(z.flatten(1, -2)))
        if (high := self.model.high) is not None:
            score = score + high.quality(high(x)).double()
        loss = 1 - score / sum(BEST[pathway] for pathway in self.model.pathways)
        loss = (self.loss_weight * loss).to(dtype)
        return loss if self.reduction == "none" else getattr(loss, self.reduction)()
