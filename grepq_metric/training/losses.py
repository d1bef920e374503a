"""Contrastive losses of the two pathways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def quality_aware_contrastive_loss(z1: Tensor, z2: Tensor, weights: Tensor, temperature: float = 0.5) -> Tensor:
    """Quality-aware contrastive loss (QACL) between two views of the versions of contents (paper: low-level pathway).

    Only versions of one content are compared.

    Args:
        z1: ``(B, D, C)`` features of view 1: B contents in D versions each.
        z2: ``(B, D, C)`` features of view 2.
        weights: ``(B, D, D)`` weights a_kl in [0, 1], see `contrastive_weights`.
        temperature: divides the cosine similarity.

    Returns:
        Scalar, the mean over contents.
    """
    logits = F.normalize(z1.float(), dim=-1) @ F.normalize(z2.float(), dim=-1).mT / temperature
    # log(sum a e) - log(sum e), with log a under the exponent: stable, and a zero weight is -inf, which logsumexp takes.
    weighted = logits + weights.log()
    loss = logits.new_zeros(())
    for dim in (-1, -2):
        loss = loss + (torch.logsumexp(logits, dim) - torch.logsumexp(weighted, dim)).mean()
    return loss
