"""GRepQ as a loss term for training restoration networks."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grepq_metric import catalog
from grepq_metric.errors import InputError
from grepq_metric.inputs import likely_scale, result_type
from grepq_metric.models import OPTIONS, check_options, load_model

REDUCTIONS = ("mean", "sum", "none")
SETTINGS = ("weights", "reduction", "patches", "loss_weight", "checkpoint")
LOOK_EVERY = 1000
"""Calls after which the range of values is looked at again; each look waits for the device."""
OVERSHOOT = 0.5
"""How far a network in training may leave [0, 1] without a warning."""


class GRepQLoss(nn.Module):
    """1 - score / best possible score: in [0, 1], 0 is best. A loss term beside a fidelity loss such as L1.

    With the semantic pathway alone, and with `QFMIQM`, it is 1 - the score, with the low-level one tanh(d / 200) of the
    distance d, and with both 1 - (Q_L + Q_S) / 1.5. The weights are frozen and stay in evaluation mode under `train`.
    Gradients flow to all pixels, but from the low-level pathway not to what patches of 96 pixels, 48 apart, leave over at the
    right and the bottom of a crop.

    Args:
        weights: as in `GRepQ.from_pretrained`; by default ``grepq-sem``.
        reduction: ``mean``, ``sum`` or ``none``.
        patches: take as many patches of each image at most, drawn at random in each call (``torch.manual_seed``), instead of
            all: quicker, but the distance then varies, and is larger on average, since fewer patches estimate its mean. For
            weights with the low-level pathway only.
        loss_weight: the loss is multiplied by it.
        checkpoint: of the low-level pathway, keep the activations of one chunk of patches at a time, and compute them twice:
            memory then grows with the patches, four times the images, and not with what the network makes of them.
        options: as in `GRepQ.from_pretrained`, for example ``chunk_size=16``.

    Raises:
        InputError: `weights` is no name or folder, a setting is unknown or out of its range, or there are no patches because
            the weights lack the low-level pathway; and as `GRepQ.from_pretrained`.

    Warns:
        UserWarning: values look like another scale, such as [-1, 1], in the first call or in every thousandth. The loss means
            little then. A network that overshoots [0, 1] a little is no reason for one.

    Examples:
        >>> import torch
        >>> from grepq_metric import GRepQLoss
        >>> perceptual = GRepQLoss(loss_weight=0.03)
        >>> clean = 0.9 * torch.rand(1, 3, 96, 128)
        >>> restored = (clean + 0.1).requires_grad_()
        >>> loss = torch.nn.functional.l1_loss(restored, clean) + perceptual(restored)
        >>> loss.backward()
    """

    def __init__(
        self,
        weights: str | Path = catalog.DEFAULT,
        *,
        reduction: str = "mean",
        patches: int | None = None,
        loss_weight: float = 1.0,
        checkpoint: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        check_options(options, (*SETTINGS, *OPTIONS))
        if not isinstance(weights, (str, Path)):
            raise InputError(f"weights must be a name or a folder, got {weights!r}; the weight of the loss is loss_weight")
        if reduction not in REDUCTIONS:
            raise InputError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if patches is not None and (isinstance(patches, bool) or not isinstance(patches, int) or patches < 1):
            raise InputError(f"patches must be None or a whole number of at least 1, got {patches!r}")
        if isinstance(loss_weight, bool) or not isinstance(loss_weight, (int, float)) or not math.isfinite(loss_weight):
            raise InputError(f"loss_weight must be a finite number, got {loss_weight!r}")
        self.reduction, self.patches, self.loss_weight, self.checkpoint = reduction, patches, loss_weight, bool(checkpoint)
        self.model = load_model(weights, **options).requires_grad_(False)
        if "low" not in self.model.pathways and patches is not None:
            raise InputError(f"patches={patches} needs the low-level pathway, which {weights} lacks")
        self._calls = 0

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """Loss of images.

        Args:
            x: ``(N, 3, H, W)`` RGB or ``(N, 1, H, W)`` grey, nominally in [0, 1]; a network in training may overshoot.
            target: not used; training frameworks pass the clean images to every loss.

        Returns:
            Scalar, or ``(N,)`` with the reduction ``none``, in float32, or float64 for such images. NaN where features
            overflowed, so that a gradient scaler skips the step.

        Raises:
            InputError: `x` has another shape or type.
        """
        prepared = self.model.prepare(x, values=False)
        if not torch.compiler.is_compiling():
            if self._calls % LOOK_EVERY == 0:
                _warn_of_another_scale(x)
            self._calls += 1
        score = self.model.parts(prepared, patches=self.patches, checkpoint=self.checkpoint)["score"]
        loss = (self.loss_weight * (1 - score / self.model.best)).to(result_type(x))
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()


def _warn_of_another_scale(x: Tensor) -> None:
    least, greatest = (value.item() for value in x.detach().aminmax())
    if least < -OVERSHOOT or greatest > 1 + OVERSHOOT:
        message = f"GRepQLoss expects values in [0, 1], got {least:g} to {greatest:g}: {likely_scale(least, greatest)}"
        warnings.warn(message, stacklevel=5)  # names the line that called the module, not torch's
