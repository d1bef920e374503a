"""Low-level pathway: the encoder f, its patches, and the distance to pristine statistics.

Method: "Learning Generalizable Perceptual Representations for Data-Efficient No-Reference Image Quality Assessment"
(GRepQ, WACV 2024, https://arxiv.org/abs/2312.04838).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.pathways.base import Pathway, check_number, wide
from grepq_metric.pathways.folding import Folding

FEATURES = 128
"""Length of a low-level feature vector."""
STATISTICS = ("pristine_mean", "pristine_cov")
LARGEST = 1e6
"""Features are below it by orders of magnitude."""


@dataclass(frozen=True)
class LowLevelConfig:
    """Constants of the low-level pathway that enter a score.

    Attributes:
        patch_size: side of a square patch in pixels, 32 to 1024.
        patch_stride: distance between neighbouring patches in pixels; a remainder at the right or bottom edge is dropped.
        ridge: multiple of the identity added to the mean covariance before it is inverted.
        distance_scale: the distance is divided by it before the sigmoid.

    Raises:
        InputError: a value is out of its range.
    """

    patch_size: int = 96
    patch_stride: int = 48
    ridge: float = 1e-3
    distance_scale: float = 100.0

    def __post_init__(self) -> None:
        check_number("patch_size", self.patch_size, 32, 1024, whole=True)
        check_number("patch_stride", self.patch_stride, 1, 1024, whole=True)
        check_number("ridge", self.ridge, 1e-12, 1e6)
        check_number("distance_scale", self.distance_scale, 1e-6, 1e9)


class LowLevelEncoder(nn.Module):
    """ResNet-18 with a two-layer head, the network f of the paper.

    Maps ``(N, 3, H, W)`` RGB in [0, 1], without mean/std normalisation, to ``(N, 128)`` features that are not
    L2-normalised. Any size that ResNet-18 takes will do: 96x96 patches for the zero-shot score, whole images for features.
    """

    def __init__(self) -> None:
        super().__init__()
        # Here, since the import takes longer than a score of the pathways that need none of it.
        from torchvision.models import resnet18

        self.backbone = resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        self.head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``(N, 3, H, W)`` -> ``(N, 128)``."""
        return self.head(self.backbone(x))


class LowLevelPathway(Pathway):
    """Distance of an image's patches to pristine patches, in the feature space of f (the paper's zero-shot prediction).

    Args:
        config: the constants that enter a score.
        chunk_size: patches that go through f at once. It bounds memory and does not change what is computed.

    Attributes:
        encoder: the network f.
        pristine_mean: ``(128,)`` float64 mean of the features of pristine patches.
        pristine_cov: ``(128, 128)`` float64 unbiased covariance of the same features.

    Raises:
        InputError: `chunk_size` is no whole number from 1 on.
    """

    name: ClassVar[str] = "low"
    best: ClassVar[float] = 0.5
    kinds: ClassVar[tuple[str, ...]] = ("patches", "image")
    pristine_mean: Tensor
    pristine_cov: Tensor

    def __init__(self, config: LowLevelConfig | None = None, chunk_size: int = 64) -> None:
        super().__init__(config or LowLevelConfig())
        check_number("chunk_size", chunk_size, 1, 1_000_000, whole=True)
        self.chunk_size = chunk_size
        self.encoder = LowLevelEncoder()
        self._fast = Folding()
        self.register_buffer("pristine_mean", torch.full((FEATURES,), torch.nan, dtype=torch.float64))
        self.register_buffer("pristine_cov", torch.eye(FEATURES, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LowLevelPathway:
        # The statistics stay float64 under .half() and .to(dtype): an inverse of a rounded covariance is another metric.
        exact = {name: self._buffers[name] for name in STATISTICS}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved = self._buffers[name]
            if value is not None and moved is not None:
                self._buffers[name] = moved.to(value.dtype) if value.is_meta else value.to(moved.device)
        return self

    def parts(self, x: Tensor, *, patches: int | None = None, checkpoint: bool = True) -> dict[str, Tensor]:
        """``distance`` and ``quality`` of images with sides of `patch_size` or more, ``(N,)`` float64, see `Pathway.parts`."""
        z = self.patch_features(x, patches, checkpoint)
        with torch.autocast(x.device.type, enabled=False):
            distance = self.distance(z.flatten(1, -2))
            return {"distance": distance, "quality": self.quality(distance)}

    def features(self, x: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        """See `Pathway.features`: ``image``: of the whole image ``(N, 128)``; ``patches``: ``(N, 256)``.

        The latter are the mean and the standard deviation of the features of the patches of the zero-shot score.
        """
        found = {}
        if "image" in kinds:
            encoder, dtype = self._fast(self.encoder, x)
            found["image"] = encoder(x.to(dtype, memory_format=torch.channels_last))
        if "patches" in kinds or "score" in kinds:
            z = wide(self.patch_features(x).flatten(1, 2))
        if "patches" in kinds:
            # Of a single patch the deviation is 0, where the square root has no gradient.
            found["patches"] = torch.cat([z.mean(1), z.var(1, correction=0).clamp_min(1e-12).sqrt()], 1)
        if "score" in kinds:
            with torch.autocast(x.device.type, enabled=False):
                found["score"] = self.quality(self.distance(z))
        return found

    def feature_blocks(self, kind: str) -> tuple[int, ...]:
        """See `Pathway.feature_blocks`."""
        return {"image": (FEATURES,), "patches": (2 * FEATURES,)}[kind]

    def patch_features(self, x: Tensor, count: int | None = None, checkpoint: bool = True) -> Tensor:
        """Features of patches: ``(N, 3, H, W)`` in [0, 1], both sides at least `patch_size` -> ``(N, h, w, 128)``.

        With `count`, of as many patches of each image at most, drawn at random without repetition: ``(N, count, 128)``.
        With `checkpoint`, where gradients flow to the image, the activations of one chunk at a time are kept, and computed
        twice.
        """
        size, stride = self.config.patch_size, self.config.patch_stride
        patches = x.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5)  # a view, nothing copied
        n, h, w = patches.shape[:3]
        if count is not None:
            chosen = _draw(n, h * w, count, x.device)
            return self._encode(patches, chosen.flatten(), checkpoint).view(*chosen.shape, FEATURES)
        if torch.compiler.is_compiling():  # a graph has no loop over a number of chunks that it does not know
            columns = F.unfold(x, size, stride=stride).mT.reshape(n * h * w, x.shape[1], size, size)
            return self.encoder(columns).view(n, h, w, FEATURES)
        return self._encode(patches, torch.arange(n * h * w, device=x.device), checkpoint).view(n, h, w, FEATURES)

    def _encode(self, patches: Tensor, index: Tensor, checkpoint: bool) -> Tensor:
        """Features of the patches ``(N, h, w, 3, S, S)`` at flat positions, in chunks: ``(P,)`` -> ``(P, 128)``."""
        h, w = patches.shape[1:3]

        def gather(part: Tensor) -> Tensor:
            return patches[part // (h * w), part // w % h, part % w]

        if not patches.requires_grad:
            encoder, dtype = self._fast(self.encoder, patches)
            parts = (gather(part).to(dtype, memory_format=torch.channels_last) for part in index.split(self.chunk_size))
            return torch.cat([encoder(part) for part in parts])
        # All at once: the gradient of each part would be as large as that of all patches.
        chunks = gather(index).split(self.chunk_size)
        if not checkpoint:
            return torch.cat([self.encoder(chunk) for chunk in chunks])
        return torch.cat([checkpointed(self.encoder, chunk, use_reentrant=False) for chunk in chunks])

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
        # Features that overflowed, as in float16 they may, give NaN and no error: a gradient scaler skips such a step.
        factor, failed = torch.linalg.cholesky_ex(self._pooled(cov))
        whitened = torch.linalg.solve_triangular(factor, (self.pristine_mean - means).mT, upper=False)
        # The clamp keeps the square root's gradient finite where an image equals the pristine mean.
        distance = whitened.square().sum(-2).clamp_min(1e-24).sqrt()
        return distance * torch.where(failed.unsqueeze(-1) == 0, 1.0, torch.nan)  # so that the gradient is NaN, too

    def _pooled(self, cov: Tensor) -> Tensor:
        """The matrix whose inverse weighs a distance: the mean of both covariances and the ridge."""
        ridge = self.config.ridge * torch.eye(FEATURES, dtype=cov.dtype, device=cov.device)
        return (self.pristine_cov + cov) / 2 + ridge

    def quality(self, distance: Tensor) -> Tensor:
        """Q_L of a distance: 1 - sigmoid(d / 100), in (0, 0.5], higher is better."""
        return torch.sigmoid(-distance / self.config.distance_scale)

    def distance_map(self, x: Tensor) -> Tensor:
        """Distance of each patch on its own: ``(N, 3, H, W)`` -> ``(N, 1, h, w)`` float64, lower is better."""
        z = self.patch_features(x)
        with torch.autocast(x.device.type, enabled=False):
            # A patch has a zero covariance, so that all of them share one factorisation.
            return self._distance(z.flatten(0, 2).double(), torch.zeros_like(self.pristine_cov)).view(z.shape[:3]).unsqueeze(1)

    def pristine_distance(self) -> float:
        """Root mean square of the distances of single pristine patches: sqrt(tr((Sigma_p / 2 + ridge I)^-1 Sigma_p))."""
        pooled = self._pooled(torch.zeros_like(self.pristine_cov))
        return torch.linalg.solve(pooled, self.pristine_cov).trace().sqrt().item()

    @torch.inference_mode()
    def fit_pristine(self, batches: Iterable[Tensor]) -> int:
        """Compute the pristine statistics of patches, on this pathway's device, and keep them.

        Args:
            batches: of patches ``(P, 3, H, W)`` RGB in [0, 1]; P may be 0.

        Returns:
            The number of patches.

        Raises:
            InputError: there are fewer than two patches.

        Warns:
            UserWarning: there are no more patches than features, so that their covariance has no inverse.
        """
        weight = self.encoder.head[0].weight
        features = [
            self.encoder(chunk.to(weight.device, weight.dtype)).double().cpu()
            for batch in batches
            for chunk in batch.split(self.chunk_size)
            if len(chunk)
        ]
        z = torch.cat(features) if features else torch.empty(0, FEATURES)
        if len(z) < 2:
            raise InputError(f"pristine statistics need at least 2 patches, the photos gave {len(z)}")
        if len(z) <= FEATURES:
            warnings.warn(
                f"{len(z)} pristine patches for {FEATURES} features: their covariance has no inverse, and distances rest "
                "on the ridge; give more photos",
                stacklevel=3,
            )
        self.pristine_mean.copy_(z.mean(0))
        self.pristine_cov.copy_(torch.cov(z.T))
        return len(z)

    def check(self) -> None:
        """See `Pathway.check`: the pristine covariance is symmetric and has no negative eigenvalue."""
        if self.pristine_mean.isnan().any():
            raise InputError(
                "the model has no weights: load some with GRepQ.from_pretrained, or compute the pristine statistics of a "
                "trained encoder"
            )
        cov = self.pristine_cov
        size = cov.abs().max()
        if float(self.pristine_mean.abs().max()) > LARGEST or float(size) > LARGEST**2:
            raise WeightsError(f"low.pristine_mean or pristine_cov is of features beyond {LARGEST:g}, which no encoder gives")
        if not torch.allclose(cov, cov.mT, rtol=0, atol=1e-8 * float(size)):
            raise WeightsError("low.pristine_cov is no covariance: it is not symmetric")
        least = float(torch.linalg.eigvalsh(cov.cpu())[0])
        if least < -1e-6 * float(size):
            raise WeightsError(f"low.pristine_cov is no covariance: it has the eigenvalue {least:g}, expected none below 0")

    def forward(self, x: Tensor) -> Tensor:
        """Distance of each image: ``(N, 3, H, W)`` in [0, 1] -> ``(N,)`` float64, lower is better."""
        return self.parts(x)["distance"]


def _draw(images: int, patches: int, count: int, device: torch.device) -> Tensor:
    """Flat positions of `count` patches of each image, or of all if there are fewer: ``(images, count)``."""
    index = torch.arange(images * patches, device=device).view(images, patches)
    if count >= patches:
        return index
    return index.gather(1, torch.rand(images, patches, device=device).argsort(1)[:, :count])
