"""Low-level pathway: the encoder f, its patches, and the distance to pristine statistics.

Method: "Learning Generalizable Perceptual Representations for Data-Efficient No-Reference Image Quality Assessment"
(GRepQ, WACV 2024, https://arxiv.org/abs/2312.04838).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

from grepq_metric.errors import InputError

FEATURES = 128
"""Length of a low-level feature vector."""


class LowLevelEncoder(nn.Module):
    """ResNet-18 with a two-layer head, the network f of the paper.

    Maps ``(N, 3, H, W)`` RGB in [0, 1], without mean/std normalisation, to ``(N, 128)`` features that are not
    L2-normalised. Any size that ResNet-18 takes will do: 96x96 patches for the zero-shot score, whole images for features.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        self.head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class LowLevelPathway(nn.Module):
    """Distance of an image's patches to pristine patches, in the feature space of f (the paper's zero-shot prediction).

    Args:
        patch_size: side of a square patch in pixels.
        patch_stride: distance between neighbouring patches in pixels; a remainder at the right or bottom edge is dropped.
        ridge: multiple of the identity added to the mean covariance before it is inverted.
        distance_scale: the distance is divided by it before the sigmoid.
        chunk_size: patches that go through f at once. It bounds memory and does not change what is computed.

    Attributes:
        checkpoint_chunks: when gradients flow to the image, keep the activations of one chunk at a time, computed twice.
        pristine_mean: ``(128,)`` float64 mean of the features of pristine patches.
        pristine_cov: ``(128, 128)`` float64 unbiased covariance of the same features.
    """

    def __init__(
        self,
        patch_size: int = 96,
        patch_stride: int = 48,
        ridge: float = 1e-3,
        distance_scale: float = 100.0,
        chunk_size: int = 64,
    ) -> None:
        super().__init__()
        for name, value in {"patch_size": patch_size, "patch_stride": patch_stride, "chunk_size": chunk_size}.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        for name, value in {"ridge": ridge, "distance_scale": distance_scale}.items():
            if not value > 0:
                raise InputError(f"{name} must be positive, got {value}")
        self.patch_size, self.patch_stride, self.chunk_size = patch_size, patch_stride, chunk_size
        self.ridge, self.distance_scale = ridge, distance_scale
        self.checkpoint_chunks = True
        self.encoder = LowLevelEncoder()
        self.register_buffer("pristine_mean", torch.full((FEATURES,), torch.nan, dtype=torch.float64))
        self.register_buffer("pristine_cov", torch.eye(FEATURES, dtype=torch.float64))

    def _apply(self, fn, recurse=True):
        # The statistics stay float64 under .half() and .to(dtype): an inverse of a rounded covariance is another metric.
        exact = {name: self._buffers[name] for name in ("pristine_mean", "pristine_cov")}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            if not value.is_meta:
                self._buffers[name] = value.to(self._buffers[name].device)
        return self

    def patch_features(self, x: Tensor, count: int | None = None) -> Tensor:
        """Features of patches: ``(N, 3, H, W)`` in [0, 1], both sides at least `patch_size` -> ``(N, h, w, 128)``.

        With `count`, of as many patches of each image at most, drawn at random without repetition: ``(N, count, 128)``.
        """
        size, stride = self.patch_size, self.patch_stride
        patches = x.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5)  # a view, nothing copied
        n, h, w = patches.shape[:3]
        # A graph has no loop over a number of chunks that it does not know.
        if torch.compiler.is_compiling() and count is None:
            columns = F.unfold(x, size, stride=stride).mT.reshape(n * h * w, x.shape[1], size, size)
            return self.encoder(columns).view(n, h, w, FEATURES)
        index = torch.arange(n * h * w, device=x.device).view(n, h * w)
        if count is not None and count < h * w:
            index = index.gather(1, torch.rand(n, h * w, device=x.device).argsort(1)[:, :count])
        index, shape = index.flatten(), (n, h, w) if count is None else index.shape

        def gather(part: Tensor) -> Tensor:
            return patches[part // (h * w), part // w % h, part % w]

        # Where gradients flow, all at once: the gradient of each part would be as large as that of all patches.
        chunks = gather(index).split(self.chunk_size) if x.requires_grad else map(gather, index.split(self.chunk_size))
        return torch.cat([self._encode(chunk) for chunk in chunks]).view(*shape, FEATURES)

    def _encode(self, patches: Tensor) -> Tensor:
        if self.checkpoint_chunks and patches.requires_grad:
            return checkpoint(self.encoder, patches, use_reentrant=False)
        return self.encoder(patches)

    def patch_summary(self, x: Tensor) -> Tensor:
        """Mean and standard deviation of the features of an image's patches: ``(N, 3, H, W)`` -> ``(N, 256)``."""
        z = self.patch_features(x).flatten(1, 2)
        # Of a single patch the deviation is 0, where the square root has no gradient.
        return torch.cat([z.mean(1), z.var(1, correction=0).clamp_min(1e-12).sqrt()], 1)

    def distance(self, features: Tensor) -> Tensor:
        """Distance between an image's patch features and the pristine statistics: ``(N, P, 128)`` -> ``(N,)`` float64, >= 0.

        NIQE's distance on learned features. One patch has a zero covariance.
        """
        z = features.double()
        mean = z.mean(1)
        centred = z - mean.unsqueeze(1)
        return self._distance(mean.unsqueeze(1), centred.mT @ centred / max(z.shape[1] - 1, 1)).squeeze(1)

    def _distance(self, means: Tensor, cov: Tensor) -> Tensor:
        """Distances of means ``(..., M, 128)`` that share a covariance ``(..., 128, 128)``, both float64 -> ``(..., M)``."""
        ridge = self.ridge * torch.eye(FEATURES, dtype=means.dtype, device=means.device)
        # Features that overflowed, as in float16 they may, give NaN and no error: a gradient scaler skips such a step.
        factor, failed = torch.linalg.cholesky_ex((self.pristine_cov + cov) / 2 + ridge)
        whitened = torch.linalg.solve_triangular(factor, (self.pristine_mean - means).mT, upper=False)
        # The clamp keeps the square root's gradient finite where an image equals the pristine mean.
        distance = whitened.square().sum(-2).clamp_min(1e-24).sqrt()
        return distance * torch.where(failed.unsqueeze(-1) == 0, 1.0, torch.nan)  # so that the gradient is NaN, too

    def quality(self, distance: Tensor) -> Tensor:
        """Q_L of a distance: 1 - sigmoid(d / 100), in (0, 0.5], higher is better."""
        return torch.sigmoid(-distance / self.distance_scale)

    def quality_map(self, x: Tensor) -> Tensor:
        """Distance of each patch on its own: ``(N, 3, H, W)`` -> ``(N, 1, h, w)`` float64, lower is better."""
        z = self.patch_features(x)
        with torch.autocast(x.device.type, enabled=False):
            # A patch has a zero covariance, so that all of them share one factorisation.
            return self._distance(z.flatten(0, 2).double(), torch.zeros_like(self.pristine_cov)).view(z.shape[:3]).unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """Distance of each image: ``(N, 3, H, W)`` in [0, 1] -> ``(N,)`` float64, lower is better."""
        z = self.patch_features(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.distance(z.flatten(1, 2))


def pad_to(x: Tensor, size: int) -> Tensor:
    """Pad ``(N, 3, H, W)`` symmetrically to at least `size` on each side.

    Mirrors the image where it is large enough to be mirrored, and repeats its edge where it is not.
    """
    for dim in (-1, -2):
        missing = max(size - x.shape[dim], 0)
        before, after = missing // 2, missing - missing // 2
        if missing:
            pad = [before, after, 0, 0] if dim == -1 else [0, 0, before, after]
            x = F.pad(x, pad, mode="reflect" if after < x.shape[dim] else "replicate")
    return x
