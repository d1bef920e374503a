"""Low-level pathway: the encoder f, its patches, and the distance to pristine statistics.

Method: "Learning Generalizable Perceptual Representations for Data-Efficient No-Reference Image Quality Assessment"
(GRepQ, WACV 2024, https://arxiv.org/abs/2312.04838).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.pathways.base import Pathway, check_number, wide
from grepq_metric.pathways.folding import Folding, in_graph
from grepq_metric.pathways.tiles import in_tiles

if TYPE_CHECKING:
    from torchvision.models import ResNet

FEATURES = 128
"""Length of a low-level feature vector."""
STATISTICS = ("pristine_mean", "pristine_cov")
LARGEST = 1e6
"""Features are below it by orders of magnitude."""
SPEEDS = ("exact", "dense")
CHANNELS, CELL = 512, 32
"""Of the encoder's last map."""
TILE, REACH = 512, 21
"""Pixels of a side of the tiles in which the first layers run on a CPU, and how far those see."""
PENALTY = 1e-2
"""Of the ridge regression that reads features from the map, in units of the map's mean variance."""


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


class PristineStatistics(nn.Module):
    """Mean and covariance of the features of pristine patches, and the distance to them.

    Attributes:
        pristine_mean: ``(128,)`` float64.
        pristine_cov: ``(128, 128)`` float64, unbiased.
    """

    pristine_mean: Tensor
    pristine_cov: Tensor

    def register_statistics(self) -> None:
        """Make the buffers, without values."""
        self.register_buffer("pristine_mean", torch.full((FEATURES,), torch.nan, dtype=torch.float64))
        self.register_buffer("pristine_cov", torch.eye(FEATURES, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PristineStatistics:
        # The statistics stay float64 under .half() and .to(dtype): an inverse of a rounded covariance is another metric.
        exact = {name: self._buffers[name] for name in STATISTICS}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved = self._buffers[name]
            if value is not None and moved is not None:
                self._buffers[name] = moved.to(value.dtype) if value.is_meta else value.to(moved.device)
        return self

    def set_statistics(self, features: Tensor) -> None:
        """Compute the statistics of the features of pristine patches ``(P, 128)``, and keep them.

        Raises:
            InputError: there are fewer than two patches.

        Warns:
            UserWarning: there are no more patches than features, so that their covariance has no inverse.
        """
        z = features.double()
        if len(z) < 2:
            raise InputError(f"pristine statistics need at least 2 patches, the photos gave {len(z)}")
        if len(z) <= FEATURES:
            warnings.warn(
                f"{len(z)} pristine patches for {FEATURES} features: their covariance has no inverse, and distances rest "
                "on the ridge; give more photos",
                stacklevel=4,
            )
        self.pristine_mean.copy_(z.mean(0))
        self.pristine_cov.copy_(torch.cov(z.T))

    def check_statistics(self, name: str) -> None:
        """Look at the values that were loaded.

        Args:
            name: of this module, for messages.

        Raises:
            WeightsError: the covariance is not symmetric or has a negative eigenvalue, or values are no features'.
        """
        cov = self.pristine_cov
        size = cov.abs().max()
        if float(self.pristine_mean.abs().max()) > LARGEST or float(size) > LARGEST**2:
            raise WeightsError(
                f"{name}.pristine_mean or pristine_cov is of features beyond {LARGEST:g}, which no encoder gives"
            )
        if not torch.allclose(cov, cov.mT, rtol=0, atol=1e-8 * float(size)):
            raise WeightsError(f"{name}.pristine_cov is no covariance: it is not symmetric")
        least = float(torch.linalg.eigvalsh(cov.cpu())[0])
        if least < -1e-6 * float(size):
            raise WeightsError(f"{name}.pristine_cov is no covariance: it has the eigenvalue {least:g}, expected none below 0")


class DenseReading(PristineStatistics):
    """What reads features of patches from a map of the whole image, for ``speed="dense"``, and their pristine statistics.

    Attributes:
        linear: mean of the map over a patch ``(..., 512)`` -> features ``(..., 128)``, near those of the patch alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, FEATURES)
        self.register_statistics()

    def fit(self, windows: Tensor, features: Tensor, pristine: Tensor) -> None:
        """Learn the reading, a ridge regression, and compute the statistics.

        Args:
            windows: means of maps over patches, ``(P, 512)``.
            features: of the same patches alone, ``(P, 128)``.
            pristine: means of maps over the pristine patches, ``(Q, 512)``.

        Raises:
            InputError: there are fewer than two of either.
        """
        x, z = windows.double(), features.double()
        if len(x) < 2:
            raise InputError(f"the dense mode is learned from at least 2 patches, the photos gave {len(x)}")
        mean = x.mean(0)
        cov = (x - mean).mT @ (x - mean) / len(x)
        ridge = PENALTY * cov.diagonal().mean().clamp_min(1e-12) * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
        weight = torch.linalg.solve(cov + ridge, (x - mean).mT @ (z - z.mean(0)) / len(x)).mT
        with torch.no_grad():
            self.linear.weight.copy_(weight.half())  # as they are stored
            self.linear.bias.copy_((z.mean(0) - self.linear.weight.double() @ mean).half())
        self.set_statistics(self(pristine))

    def forward(self, windows: Tensor) -> Tensor:
        """Means of maps ``(..., 512)`` -> features ``(..., 128)``, float32 at least."""
        values, weight, bias = wide(windows), self.linear.weight, self.linear.bias
        with torch.autocast(windows.device.type, enabled=False):
            return F.linear(values, weight.to(values.dtype), bias.to(values.dtype))


class LowLevelPathway(PristineStatistics, Pathway):
    """Distance of an image's patches to pristine patches, in the feature space of f (the paper's zero-shot prediction).

    Args:
        config: the constants that enter a score.
        chunk_size: patches that go through f at once. It bounds memory and does not change what is computed.
        speed: ``exact``: each patch goes through f by itself, as in the paper; ``dense``: f's convolutions run once over the
            whole image, and the features of patches are read from the last map, a cheaper mode.
        dense: whether the weights have what the latter needs.

    Attributes:
        encoder: the network f.
        dense: what reads features from a map, or None.

    Raises:
        InputError: `chunk_size` is no whole number from 1 on, or the dense mode lacks its weights, or its cells do not fit
            the patches.
    """

    name: ClassVar[str] = "low"
    best: ClassVar[float] = 0.5
    kinds: ClassVar[tuple[str, ...]] = ("patches", "image")
    dense: DenseReading | None

    def __init__(
        self, config: LowLevelConfig | None = None, chunk_size: int = 64, speed: str = "exact", dense: bool = False
    ) -> None:
        super().__init__(config or LowLevelConfig())
        if speed not in SPEEDS:
            raise InputError(f"speed must be one of {SPEEDS}, got {speed!r:.80}")
        if speed == "dense" and not dense:
            raise InputError("these weights have no dense mode: `grepq pristine` gives them one")
        for name in ("patch_size", "patch_stride"):
            if speed == "dense" and (size := getattr(self.config, name)) % (CELL // 2):
                raise InputError(f"the dense mode needs a {name} that is a multiple of {CELL // 2}, got {size}")
        check_number("chunk_size", chunk_size, 1, 1_000_000, whole=True)
        self.chunk_size = chunk_size
        self.encoder = LowLevelEncoder()
        self._fast = Folding()
        self.register_statistics()
        self.dense = DenseReading() if dense else None
        self._speed = speed

    @property
    def speed(self) -> str:
        """How features of patches are computed, ``exact`` or ``dense``."""
        return self._speed

    @property
    def statistics(self) -> PristineStatistics:
        """Those of the mode in force."""
        return self if self._speed == "exact" or self.dense is None else self.dense

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
        if self._speed == "dense" and self.dense is not None:
            features = self.dense(self.windows(x, checkpoint))
            if count is None:
                return features
            chosen = _draw(len(x), features.shape[1] * features.shape[2], count, x.device)
            return features.flatten(0, 2)[chosen]
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

    def windows(self, x: Tensor, checkpoint: bool = True) -> Tensor:
        """Means of the encoder's last map over the places of patches: ``(N, 3, H, W)`` -> ``(N, h, w, 512)``.

        The map has a cell for 32 pixels; of those that a patch covers in part, that part counts.
        """
        size, stride = self.config.patch_size, self.config.patch_stride
        rows, columns = ((length - size) // stride + 1 for length in x.shape[2:])
        x = x[..., : size + stride * (rows - 1), : size + stride * (columns - 1)]
        if x.requires_grad:
            walk = partial(_last_map, self.encoder.backbone)
            cells = checkpointed(walk, x, use_reentrant=False) if checkpoint else walk(x)
        else:
            encoder, dtype = self._fast(self.encoder, x)
            cells = _last_map(encoder.backbone, x.to(dtype))
        halves = F.interpolate(wide(cells), scale_factor=2.0, mode="nearest")
        half = CELL // 2
        means = F.avg_pool2d(halves, size // half, stride // half)
        return means[..., :rows, :columns].permute(0, 2, 3, 1)

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
        whitened = torch.linalg.solve_triangular(factor, (self.statistics.pristine_mean - means).mT, upper=False)
        # The clamp keeps the square root's gradient finite where an image equals the pristine mean.
        distance = whitened.square().sum(-2).clamp_min(1e-24).sqrt()
        return distance * torch.where(failed.unsqueeze(-1) == 0, 1.0, torch.nan)  # so that the gradient is NaN, too

    def _pooled(self, cov: Tensor) -> Tensor:
        """The matrix whose inverse weighs a distance: the mean of both covariances and the ridge."""
        ridge = self.config.ridge * torch.eye(FEATURES, dtype=cov.dtype, device=cov.device)
        return (self.statistics.pristine_cov + cov) / 2 + ridge

    def quality(self, distance: Tensor) -> Tensor:
        """Q_L of a distance: 1 - sigmoid(d / 100), in (0, 0.5], higher is better."""
        return torch.sigmoid(-distance / self.config.distance_scale)

    def distance_map(self, x: Tensor) -> Tensor:
        """Distance of each patch on its own: ``(N, 3, H, W)`` -> ``(N, 1, h, w)`` float64, lower is better."""
        z = self.patch_features(x)
        with torch.autocast(x.device.type, enabled=False):
            # A patch has a zero covariance, so that all of them share one factorisation.
            cov = torch.zeros_like(self.pristine_cov)
            return self._distance(z.flatten(0, 2).double(), cov).view(z.shape[:3]).unsqueeze(1)

    def pristine_distance(self) -> float:
        """Root mean square of the distances of single pristine patches: sqrt(tr((Sigma_p / 2 + ridge I)^-1 Sigma_p))."""
        pooled = self._pooled(torch.zeros_like(self.pristine_cov))
        return torch.linalg.solve(pooled, self.statistics.pristine_cov).trace().sqrt().item()

    @torch.inference_mode()
    def encode(self, patches: Tensor) -> Tensor:
        """Features of patches, by this pathway's device, without gradients: ``(P, 3, H, W)`` in [0, 1] -> ``(P, 128)``."""
        parts = [self.encoder(self.like_weights(chunk)) for chunk in patches.split(self.chunk_size) if len(chunk)]
        return torch.cat(parts) if parts else self.like_weights(patches.new_empty(0, FEATURES))

    def like_weights(self, x: Tensor) -> Tensor:
        """Images on the device and in the type of the encoder's weights."""
        weight = next(self.encoder.parameters())
        return x.to(weight.device, weight.dtype)

    def fit_pristine(self, batches: Iterable[Tensor]) -> int:
        """Compute the pristine statistics of patches and keep them; a dense mode, which needs whole photos, goes.

        Args:
            batches: of patches ``(P, 3, H, W)`` RGB in [0, 1]; P may be 0.

        Returns:
            The number of patches.

        Raises:
            InputError: there are fewer than two patches.

        Warns:
            UserWarning: there are no more patches than features, so that their covariance has no inverse.
        """
        z = torch.cat([torch.empty(0, FEATURES), *(self.encode(batch).cpu() for batch in batches)])
        self.set_statistics(z)
        self.drop_dense()
        return len(z)

    def drop_dense(self) -> None:
        """Forget the dense mode, and leave it."""
        self.dense, self._speed = None, "exact"

    def fit_dense(self, windows: Tensor, features: Tensor, pristine: Tensor) -> None:
        """Give these weights a dense mode. Arguments and errors as of `DenseReading.fit`."""
        weight = next(self.encoder.parameters())
        self.dense = DenseReading().to(weight.device, weight.dtype)
        self.dense.fit(windows, features, pristine)

    def check(self) -> None:
        """See `Pathway.check`: the pristine covariance is symmetric and has no negative eigenvalue."""
        if self.pristine_mean.isnan().any():
            raise InputError(
                "the model has no weights: load some with GRepQ.from_pretrained, or compute the pristine statistics of a "
                "trained encoder"
            )
        self.check_statistics("low")
        if self.dense is not None:
            self.dense.check_statistics("low.dense")

    def forward(self, x: Tensor) -> Tensor:
        """Distance of each image: ``(N, 3, H, W)`` in [0, 1] -> ``(N,)`` float64, lower is better."""
        return self.parts(x)["distance"]


def _last_map(backbone: ResNet, x: Tensor) -> Tensor:
    """Of ResNet-18, before it is averaged: ``(N, 3, H, W)`` -> ``(N, 512, ceil(H / 32), ceil(W / 32))``."""

    def first(part: Tensor) -> Tensor:
        return backbone.layer1(backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(part)))))

    if x.device.type != "cpu" or x.requires_grad or in_graph() or x.shape[2] * x.shape[3] <= TILE**2:
        maps = first(x if in_graph() else x.to(memory_format=torch.channels_last))
    else:
        maps = in_tiles(x, lambda part: first(part.to(memory_format=torch.channels_last)), 4, REACH, TILE)
    return backbone.layer4(backbone.layer3(backbone.layer2(maps)))


def _draw(images: int, patches: int, count: int, device: torch.device) -> Tensor:
    """Flat positions of `count` patches of each image, or of all if there are fewer: ``(images, count)``."""
    index = torch.arange(images * patches, device=device).view(images, patches)
    if count >= patches:
        return index
    return index.gather(1, torch.rand(images, patches, device=device).argsort(1)[:, :count])
