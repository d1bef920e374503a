"""Losses of the pathways' trainings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grepq_metric.errors import InputError


def quality_aware_contrastive_loss(
    z1: Tensor, z2: Tensor, weights: Tensor, temperature: float = 0.5, anchors: Tensor | None = None, first: int = 0
) -> Tensor:
    """Quality-aware contrastive loss (QACL) between two views of the versions of contents (paper: low-level pathway).

    The paper compares only versions of one content. With `anchors`, which are not in the paper, each version is also compared
    with the undistorted version of the other contents, with the weight that it has with its own: what a photo shows then
    matters less to its features than how much it is distorted.

    Args:
        z1: ``(B, D, C)`` features of view 1: B contents in D versions each, the undistorted one first.
        z2: ``(B, D, C)`` features of view 2.
        weights: ``(B, D, D)`` weights a_kl in [0, 1], see `contrastive_weights`.
        temperature: divides the cosine similarity.
        anchors: ``(2, N, C)`` features of both views of the undistorted versions of a batch that `z1` is part of.
        first: position in `anchors` of the first content of `z1`.

    Returns:
        Scalar, the mean over contents.
    """
    z1, z2 = (F.normalize(z.float(), dim=-1) for z in (z1, z2))
    loss = z1.new_zeros(())
    for view, (ours, theirs, a) in enumerate(((z1, z2, weights), (z2, z1, weights.mT))):
        logits, log_a = ours @ theirs.mT / temperature, a.log()
        if anchors is not None:
            contents, versions = ours.shape[:2]
            clean = F.normalize(anchors[1 - view].float(), dim=-1)
            own = torch.arange(contents, device=clean.device) + first
            others = torch.arange(len(clean), device=clean.device) != own[:, None]  # (B, N)
            with_anchors = (ours @ clean.T / temperature).masked_fill(~others[:, None], -torch.inf)
            logits = torch.cat([logits, with_anchors], -1)
            log_a = torch.cat([log_a, log_a[..., :1].expand(contents, versions, len(clean))], -1)
        # log(sum a e) - log(sum e), with log a under the exponent: stable, and a zero weight is -inf, which logsumexp takes.
        loss = loss + (logits.logsumexp(-1) - (logits + log_a).logsumexp(-1)).mean()
    return loss


class UndistortedStatistics(nn.Module):
    """Running mean and covariance of the features of undistorted views, which stand in for pristine patches during training.

    Args:
        features: length of a feature vector.
        ridge: multiple of the identity added to the covariance, as in the zero-shot distance.
        share: weight of a new batch; the first ones weigh more, so that all count alike until 1 / share of them are seen.
    """

    mean: Tensor
    cov: Tensor
    batches: Tensor

    def __init__(self, features: int, ridge: float = 1e-3, share: float = 0.01) -> None:
        super().__init__()
        self.ridge, self.share = ridge, share
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("cov", torch.zeros(features, features))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Take in features ``(N, C)`` of undistorted views."""
        self.batches += 1
        weight = max(self.share, 1 / self.batches.item())
        self.mean.lerp_(z.float().mean(0), weight)
        centred = z.float() - self.mean
        self.cov.lerp_(centred.mT @ centred / len(z), weight)

    def distance(self, z: Tensor) -> Tensor:
        """Mahalanobis distance of features to the statistics: ``(..., C)`` -> ``(...)``."""
        factor = torch.linalg.cholesky(self.cov.double() + self.ridge * torch.eye(len(self.cov), device=z.device).double())
        centred = (z.double() - self.mean).flatten(0, -2).mT
        squares = torch.linalg.solve_triangular(factor, centred, upper=False).square().sum(0)
        return squares.clamp_min(1e-24).sqrt().view(z.shape[:-1])


def distortion_order_loss(distance: Tensor, similarity: Tensor) -> Tensor:
    """1 minus Pearson's correlation of distances to undistorted photos with sqrt(1 - FSIM). Not in the paper.

    The contrastive loss says which versions are alike, but not that a worse one lies further from what is undistorted, which
    is what the zero-shot score goes by. The root spreads the slight distortions.

    Args:
        distance: ``(N,)`` distances, see `UndistortedStatistics`.
        similarity: ``(N,)`` FSIM to the undistorted version, in [0, 1].

    Returns:
        Scalar in [0, 2].
    """
    target = (1 - similarity).clamp_min(0).sqrt()
    return agreement_loss(distance, target)


def agreement_loss(scores: Tensor, targets: Tensor, sources: Tensor | None = None) -> Tensor:
    """1 minus Pearson's correlation of scores with targets, of which each source is centred on its own. Not in the paper.

    Args:
        scores: ``(N,)``.
        targets: ``(N,)``.
        sources: ``(N,)`` whole numbers that tell which source each is of; None: all are of one.

    Returns:
        Scalar in [0, 2].
    """
    pair = torch.stack([scores.float(), targets.float()])
    for source in () if sources is None else sources.unique():
        own = sources == source
        pair = pair - own * pair[:, own].mean(1, keepdim=True)
    centred = F.normalize(pair - pair.mean(1, keepdim=True), dim=1)
    return 1 - (centred[0] * centred[1]).sum()


def version_ranking_loss(scores: Tensor, targets: Tensor, margin: float = 0.1, steepness: float = 2.0) -> Tensor:
    """Logistic ranking loss between the versions of each content. Not in the paper.

    Args:
        scores: ``(B, D)`` of B contents in D versions, higher is better.
        targets: ``(B, D)``; pairs whose targets differ by more than `margin` count, all alike.
        margin: see `targets`.
        steepness: multiplies differences of scores.

    Returns:
        Scalar, the mean over pairs; 0 if there is none.
    """
    better = (targets.unsqueeze(2) - targets.unsqueeze(1) > margin).float()
    wrong = F.softplus(-steepness * (scores.unsqueeze(2) - scores.unsqueeze(1)))
    return (wrong * better).sum() / better.sum().clamp_min(1)


def group_contrastive_loss(z: Tensor, temperature: float = 0.5) -> Tensor:
    """Group contrastive loss (GCL) between a group of poor and a group of good photos (paper: high-level pathway).

    A sample is drawn to the members of its own group and driven from those of the other.

    Args:
        z: ``(2, G, C)`` projected features of the two groups, G >= 2.
        temperature: divides the cosine similarity.

    Returns:
        Scalar, the mean over all 2 G samples.
    """
    group = z.shape[1]
    n = F.normalize(z.float(), dim=-1)
    own = n @ n.mT / temperature
    own = (own.sum(-1) - own.diagonal(dim1=-2, dim2=-1)) / (group - 1)  # (2, G), without the sample itself
    other = n @ n.flip(0).mT / temperature  # (2, G, G)
    return (torch.logsumexp(torch.cat([own.unsqueeze(-1), other], -1), -1) - own).mean()


def extreme_groups(quality: Tensor, size: int = 4) -> Tensor:
    """Positions of the samples with the lowest and the highest pseudo-scores: ``(B,)`` -> ``(2, size)``.

    Raises:
        InputError: there are fewer than two groups of samples.
    """
    if len(quality) < 2 * size:
        raise InputError(f"two groups of {size} need a batch of {2 * size} or more, got {len(quality)}")
    order = quality.argsort(stable=True)
    return torch.stack([order[:size], order[-size:]])
