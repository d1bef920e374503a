"""MDFS: how far the deep features of an image's patches are from those of pristine photos. Lower is better.

Our reading of "Opinion-Unaware Blind Image Quality Assessment using Multi-Scale Deep Feature Statistics" (Ni et al., IEEE
Transactions on Multimedia 26, 2024, https://arxiv.org/abs/2405.18790). The paper's abstract gives the idea: a multivariate
Gaussian of patch-wise multi-scale features of a pre-trained network, and the distance between that of the image and that of
high-quality images. The rest is from what its authors' code computes (https://github.com/eezkni/MDFS, files ``model.py``,
``train.py`` and ``test.py`` of commit 22677d0):

- Maps are those at the end of the first five stages of torchvision's EfficientNet-B7 (``features[:2]``, 2, 3, 4 and 5; strides
  2, 4, 8, 16 and 16), of the whole image at its own size, normalised by ImageNet's mean and deviation.
- The first four are blurred by a Gaussian of 3 x 3 (deviation 1) and halved, again and again, until they are as large as the
  fourth. All five side by side are one map of 544 channels.
- A patch is a window of that map: 3 x 3 cells, one at each cell; where the shorter side has 64 cells or more,
  2 * (cells // 32) + 1 along a side, in steps of half of that. Its features are the window's means, weighted by a Gaussian
  whose deviation is a third of the window; those of each stage have length 1. Its sharpness is the deviation within the
  window, mean over all channels.
- Pristine statistics are mean and covariance of the patches that are sharper than the mean of their own image. No PCA.
- The distance of a patch is that of Mahalanobis to the pristine mean, by the mean of the pristine covariance and that of the
  image. That of the image is the mean over its patches, weighted by the logistic function of the standardised sharpness.

Not found were the photos behind the authors' statistics: the code reads at most 1,000 files of a folder ``div500``.

What is ours: all that follows the network is in float64, with a Cholesky factor in place of a general solver; statistics are
kept in 16 bits; and besides the paper's network there is EfficientNet-Lite2, which comes from PyPI. What each of the authors'
choices buys with that one, ``benchmarks.studies.mdfs`` measures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import EfficientNet_B7_Weights, efficientnet_b7
from tqdm import tqdm

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import whole_file
from grepq_metric.images import find_images, read_image
from grepq_metric.pathways.efficientnet import EfficientNetLite
from grepq_metric.training.semantic import PACKAGE, imagenet_backbone
from grepq_metric.weights import load_tensors, read_tensors

STATISTICS = Path(__file__).with_name("mdfs-lite.safetensors")
"""Those of ``mdfs-lite``, of the photos that `benchmarks.pristine` names."""
STAGES = 5
LEAST_SIDE = 64
"""Pixels that an image must have along each side: 4 cells of the coarsest map, in which there are 2 x 2 patches."""
TINY = 1e-12
"""Where windows are constant, lengths and deviations by which is divided are 0 without it."""


class Lite2(nn.Module):
    """The first five stages of EfficientNet-Lite2, without values.

    Attributes:
        channels: of the maps of each stage.
    """

    channels = (16, 24, 48, 88, 120)

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.network = EfficientNetLite("tf_efficientnet_lite2")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images ``(N, 3, H, W)`` in [0, 1] -> maps ``(N, c, h, w)`` of each stage."""
        x, maps = 2 * x - 1, []
        for _, steps in zip(range(STAGES), self.network.steps(), strict=False):
            for step in steps:
                x = step.run(x)
            maps.append(x)
        return maps


class B7(nn.Module):
    """The first five stages of torchvision's EfficientNet-B7, without values.

    Attributes:
        channels: of the maps of each stage.
    """

    channels = (32, 48, 80, 160, 224)
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.network = efficientnet_b7()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images ``(N, 3, H, W)`` in [0, 1] -> maps ``(N, c, h, w)`` of each stage."""
        stem, *stages = self.network.features[: STAGES + 1]
        x, maps = stem((x - self.mean) / self.std), []
        for stage in stages:
            x = stage(x)
            maps.append(x)
        return maps


Backbone = Lite2 | B7


@dataclass(frozen=True)
class Choices:
    """What variants of the metric differ in; as they stand here, they are the authors'.

    Attributes:
        stages: of the network, 0 to 4, that are used.
        cells: along a patch, an odd number; 0: as many as the authors take.
        unit: whether the features of each stage have length 1.
        sharp: whether pristine statistics are of sharp patches only.
        weighted: whether sharper patches of an image count more.
        own: weight of the image's own covariance in the matrix by which distances are measured, below 1.
        each: whether distances are those of patches, and not that of their mean, as NIQE's is.
    """

    stages: tuple[int, ...] = tuple(range(STAGES))
    cells: int = 0
    unit: bool = True
    sharp: bool = True
    weighted: bool = True
    own: float = 0.5
    each: bool = True


AUTHORS = Choices()


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of patch features, as a file keeps them: 90 kB for 296 features.

    The covariance is kept as its Cholesky factor, each row divided by the feature's deviation: however that is rounded, the
    covariance stays positive definite.

    Attributes:
        mean: ``(C,)`` float32.
        scale: ``(C,)`` float32, the deviations.
        lower: ``(C * (C + 1) / 2,)`` float16, the rows of the factor one after the other.

    Raises:
        WeightsError: they are something else.
    """

    mean: Tensor
    scale: Tensor
    lower: Tensor

    def __post_init__(self) -> None:
        width = len(self.mean)
        shapes = {"mean": (width,), "scale": (width,), "lower": (width * (width + 1) // 2,)}
        for name, value in self.tensors().items():
            shape = shapes[name]
            if value.shape != shape or not value.is_floating_point() or not value.isfinite().all():
                raise WeightsError(f"{name} of pristine statistics: expected finite numbers of shape {shape}")
        if not (self.factor().diagonal() > 0).all():
            raise WeightsError("lower of pristine statistics: expected positive numbers on the factor's diagonal")

    def factor(self) -> Tensor:
        """``(C, C)`` float64, lower triangle."""
        width = len(self.mean)
        factor = torch.zeros(width, width, dtype=torch.float64)
        factor[tuple(torch.tril_indices(width, width))] = self.lower.double()
        return factor * self.scale.double().unsqueeze(1)

    @cached_property
    def covariance(self) -> Tensor:
        """``(C, C)`` float64."""
        factor = self.factor()
        return factor @ factor.mT

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds, by name."""
        return {"mean": self.mean, "scale": self.scale, "lower": self.lower}

    def sha256(self) -> str:
        """Of all values."""
        return hashlib.sha256(b"".join(value.numpy().tobytes() for value in self.tensors().values())).hexdigest()


class Sums:
    """Number, sum and products of patch features, of which statistics are made."""

    def __init__(self) -> None:
        self.count, self.total, self.products = 0, torch.zeros(1), torch.zeros(1, 1)

    def add(self, features: Tensor) -> None:
        """Take in features ``(P, C)`` float64."""
        self.count += len(features)
        self.total = self.total + features.sum(0)
        self.products = self.products + features.mT @ features

    def gaussian(self) -> Gaussian:
        """The statistics of all features.

        Raises:
            InputError: there are no more patches than features, or features depend on one another.
        """
        width = len(self.total)
        if self.count <= width:
            raise InputError(f"pristine statistics need more than {width} patches, got {self.count}: give more photos")
        mean = self.total / self.count
        covariance = (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise InputError("the covariance of the pristine patches has no inverse: give photos that differ more")
        scale = covariance.diagonal().sqrt()
        lower = (factor / scale.unsqueeze(1))[tuple(torch.tril_indices(width, width))]
        return Gaussian(mean.float(), scale.float(), lower.half())


def read_statistics(path: Path) -> Gaussian:
    """Statistics that `write_statistics` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no pristine statistics at {path}")
    tensors = read_tensors(path)
    if set(tensors) != {"mean", "scale", "lower"}:
        raise WeightsError(f"{path} holds {', '.join(sorted(tensors)[:3]) or 'nothing'}, expected mean, scale and lower")
    return Gaussian(**tensors)


def write_statistics(statistics: Gaussian, path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: it can't be written.
    """
    with whole_file(path) as part:
        save_file(statistics.tensors(), part)


@torch.inference_mode()
def aligned_maps(backbone: Backbone, x: Tensor) -> Tensor:
    """Maps of all stages of images, brought to the size of the fourth: ``(N, 3, H, W)`` in [0, 1] -> ``(N, C, h, w)``.

    Raises:
        InputError: a side is below `LEAST_SIDE` pixels.
    """
    if min(x.shape[-2:]) < LEAST_SIDE:
        raise InputError(f"MDFS takes sides of {LEAST_SIDE} pixels or more, got {x.shape[-1]}x{x.shape[-2]}")
    maps = backbone(x)
    for i in range(STAGES - 2):
        for _ in range(STAGES - 2 - i):
            maps[i] = _windowed(F.pad(maps[i], (1, 1, 1, 1), "reflect"), 3, 2)
    return torch.cat(maps, 1)


@dataclass(frozen=True)
class Patches:
    """The patches of an image.

    Attributes:
        features: ``(P, C)`` float64.
        sharpness: ``(P,)`` float64.
    """

    features: Tensor
    sharpness: Tensor

    @classmethod
    def of(cls, maps: Tensor, cells: int = 0) -> Patches:
        """From maps ``(C, h, w)`` of `aligned_maps`, in windows of so many cells or, for 0, those of the authors."""
        values, shorter = maps.double().unsqueeze(0), min(maps.shape[-2:])
        side = min(cells or max(3, shorter // 32 * 2 + 1), (shorter - 1) // 2 * 2 + 1)
        means, squares = (_windowed(v, side, side // 2)[0].flatten(1).T for v in (values, values.square()))
        return cls(means, (squares - means.square()).clamp_min(0).sqrt().mean(1))

    def chosen(self, channels: Sequence[int], choices: Choices) -> Patches:
        """The same patches with features of some stages; `channels` are those of all."""
        stages = self.features.split(list(channels), 1)
        kept = [F.normalize(stages[i], dim=1, eps=TINY) if choices.unit else stages[i] for i in choices.stages]
        return Patches(torch.cat(kept, 1), self.sharpness)

    def pristine(self, choices: Choices) -> Tensor:
        """Features ``(P, C)`` of those that pristine statistics are made of."""
        return self.features[self.sharpness > self.sharpness.mean()] if choices.sharp else self.features


def distance(patches: Patches, pristine: Gaussian, choices: Choices = AUTHORS) -> float:
    """Distance of the patches of an image, two or more, from pristine ones: 0 or more."""
    features, sharpness = patches.features, patches.sharpness
    matrix = torch.lerp(pristine.covariance, torch.cov(features.T), choices.own)
    spread = (sharpness - sharpness.mean()) / (sharpness.std() + TINY)
    weights = torch.sigmoid(spread) if choices.weighted else torch.ones_like(spread)
    weights = weights / weights.sum()
    if not choices.each:
        features, weights = (weights @ features).unsqueeze(0), weights.new_ones(1)
    away = (features - pristine.mean.double()).mT
    lengths = torch.linalg.solve_triangular(torch.linalg.cholesky(matrix), away, upper=False).square().sum(0).sqrt()
    return float(weights @ lengths)


def patches_of(backbone: Backbone, x: Tensor, choices: Choices = AUTHORS) -> Patches:
    """The patches of one image ``(1, 3, H, W)`` in [0, 1]; errors as in `aligned_maps`."""
    return Patches.of(aligned_maps(backbone, x)[0].cpu(), choices.cells).chosen(backbone.channels, choices)


class MDFS:
    """The metric: a network, and statistics of pristine photos.

    Args:
        backbone: with values.
        pristine: statistics of its features.
        choices: see `Choices`.

    Raises:
        WeightsError: the statistics are of other features.
    """

    def __init__(self, backbone: Backbone, pristine: Gaussian, choices: Choices = AUTHORS) -> None:
        width = sum(backbone.channels[i] for i in choices.stages)
        if len(pristine.mean) != width:
            raise WeightsError(f"pristine statistics of {len(pristine.mean)} features, expected {width}")
        self.backbone, self.pristine, self.choices = backbone, pristine, choices

    def __call__(self, x: Tensor) -> Tensor:
        """Distances of images ``(N, 3, H, W)`` in [0, 1] -> ``(N,)`` float64, 0 or more; one image after the other.

        Raises:
            InputError: a side is below `LEAST_SIDE` pixels.
        """
        return torch.tensor([self._one(image) for image in x.split(1)], dtype=torch.float64)

    def _one(self, x: Tensor) -> float:
        patches = patches_of(self.backbone, x, self.choices)
        return distance(patches, self.pristine, self.choices)


def fit_pristine(backbone: Backbone, photos: Iterable[Tensor], choices: Choices = AUTHORS) -> Gaussian:
    """Statistics of pristine photos ``(3, H, W)`` in [0, 1].

    Raises:
        InputError: a photo is too small, or all have too few patches.
    """
    sums = Sums()
    for photo in photos:
        sums.add(patches_of(backbone, photo.unsqueeze(0), choices).pristine(choices))
    return sums.gaussian()


def fit_folder(folder: Path, backbone: Backbone, choices: Choices = AUTHORS, every: int = 1) -> Gaussian:
    """Statistics of the photos in a folder, or of one in `every`; a second a photo or less.

    Raises:
        FileNotFoundError: the folder holds no photos.
        InputError: as in `fit_pristine`.
    """
    files = sorted(find_images(folder))[::every]
    if not files:
        raise FileNotFoundError(f"no photos in {folder}")
    return fit_pristine(backbone, map(read_image, tqdm(files, desc="pristine", unit="photo", disable=None)), choices)


def lite2() -> Lite2:
    """EfficientNet-Lite2 with the values of the package `grepq_metric.training.semantic.PACKAGE`.

    Raises:
        InputError: the package is not installed.
        WeightsError: it is another one.
    """
    backbone = Lite2()
    load_tensors(backbone.network, imagenet_backbone(), PACKAGE)
    return backbone.eval().requires_grad_(False)


def b7(file: Path | None = None) -> B7:
    """EfficientNet-B7 with torchvision's values.

    Args:
        file: safetensors, or torchvision's own; None: where torchvision keeps what it has downloaded.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it holds something else, or torchvision has downloaded none.
    """
    url = EfficientNet_B7_Weights.IMAGENET1K_V1.url
    path = file or Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if file is None and not path.is_file():
        raise WeightsError(f"torchvision's EfficientNet-B7 is not here: fetch {url}, and name the file by weights=FILE")
    if not path.is_file():
        raise FileNotFoundError(f"no weights of EfficientNet-B7 at {path}")
    backbone = B7()
    load_tensors(backbone.network, read_tensors(path), path)
    return backbone.eval().requires_grad_(False)


def backbone_of(name: str, weights: Path | None = None) -> Backbone:
    """The network of ``mdfs-lite`` or, with a file of weights or without, of ``mdfs``; errors as in `lite2` and `b7`."""
    return lite2() if name == "mdfs-lite" else b7(weights)


def open_mdfs(name: str, weights: str = "", pristine: str = "", device: str = "cpu") -> MDFS:
    """The metric by its name.

    Args:
        name: ``mdfs`` or ``mdfs-lite``.
        weights: file of EfficientNet-B7's values, see `b7`.
        pristine: folder of photos or file of statistics; ``mdfs-lite`` has some of its own.
        device: of the network.

    Raises:
        ValueError: ``mdfs`` without pristine statistics.
        FileNotFoundError, InputError, WeightsError: see `b7`, `lite2`, `fit_folder` and `read_statistics`.
    """
    backbone = backbone_of(name, Path(weights) if weights else None).to(device)
    source = Path(pristine) if pristine else STATISTICS
    if not pristine and name != "mdfs-lite":
        raise ValueError(f"{name} needs undistorted photos or their statistics: {name}:pristine=FOLDER_OR_FILE")
    return MDFS(backbone, fit_folder(source, backbone) if source.is_dir() else read_statistics(source))


def _windowed(maps: Tensor, side: int, stride: int) -> Tensor:
    """Means of windows, by a Gaussian whose deviation is a third of the side: ``(N, C, H, W)`` -> ``(N, C, h, w)``."""
    line = torch.exp(-((torch.arange(side, dtype=torch.float64) - side // 2) * 3 / side).square() / 2)
    window = (torch.outer(line, line) / line.sum().square()).to(maps).expand(maps.shape[1], 1, side, side)
    return F.conv2d(maps, window, stride=stride, groups=maps.shape[1])
