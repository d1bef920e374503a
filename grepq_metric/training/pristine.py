"""Selection of pristine patches and their statistics (the paper's zero-shot prediction)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from tqdm import tqdm

from grepq_metric.errors import InputError
from grepq_metric.models import GRepQ
from grepq_metric.pathways.base import check_number
from grepq_metric.pathways.low import CELL, CHANNELS, FEATURES
from grepq_metric.training.photos import PhotoList

OTHERS = 16
"""Patches of each photo, beside the pristine ones, from which the dense mode is learned."""


@dataclass(frozen=True)
class Selection:
    """Which patches of a photo count as pristine, relative to the photo's own best patch.

    Attributes:
        patch_size: side of the non-overlapping square patches in pixels.
        sharpness: a patch is kept if it is sharper than this share of the sharpest one,
        colourfulness: and, among those, more colourful than this share of the most colourful one.
    """

    patch_size: int = 96
    sharpness: float = 0.75
    colourfulness: float = 0.80

    def __post_init__(self) -> None:
        check_number("patch_size", self.patch_size, 8, 4096, whole=True)
        for name in ("sharpness", "colourfulness"):
            check_number(name, getattr(self, name), 0, 1)
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")

    def __call__(self, image: Tensor) -> Tensor:
        """Pristine patches of ``(3, H, W)`` RGB in [0, 1]: ``(P, 3, size, size)``; P is 0 for a small or a grey photo."""
        return cut(image, self.places(image), self.patch_size)

    def places(self, image: Tensor) -> Tensor:
        """Their top left pixels, ``(P, 2)``: row and column."""
        size = self.patch_size
        if min(image.shape[1:]) < size:
            return torch.empty(0, 2, dtype=torch.int64)
        patches = image.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4)
        places = torch.cartesian_prod(*(size * torch.arange(count) for count in patches.shape[:2]))
        patches = patches.flatten(0, 1)
        sharp = sharpness(patches)
        kept = sharp > self.sharpness * sharp.max()
        patches, places = patches[kept], places[kept]
        if not len(patches):
            return places
        colourful = colourfulness(patches)
        return places[colourful > self.colourfulness * colourful.max()]


def cut(image: Tensor, places: Tensor, size: int) -> Tensor:
    """Patches of ``(3, H, W)`` at `places` ``(P, 2)``, their top left pixels: ``(P, 3, size, size)``."""
    patches = [image[:, row : row + size, column : column + size] for row, column in places.tolist()]
    return torch.stack(patches) if patches else image.new_empty(0, 3, size, size)


def sharpness(patches: Tensor) -> Tensor:
    """Sum over a grey patch of its local standard deviation in a 7x7 Gaussian window: ``(P, 3, H, W)`` -> ``(P,)``."""
    grey = TF.rgb_to_grayscale(patches).double()
    mean, mean_square = (TF.gaussian_blur(v, [7, 7], [7 / 6, 7 / 6]) for v in (grey, grey.square()))
    return (mean_square - mean.square()).clamp_min(0).sqrt().sum((1, 2, 3))


def colourfulness(patches: Tensor) -> Tensor:
    """Hasler and Suesstrunk's colourfulness without their factor of 0.3: ``(P, 3, H, W)`` RGB -> ``(P,)``."""
    r, g, b = patches.double().flatten(2).unbind(1)
    opponents = torch.stack([(r - g).abs(), (0.5 * (r + g) - b).abs()])
    std, mean = opponents.std(-1, correction=0), opponents.mean(-1)
    return std.square().sum(0).sqrt() + mean.square().sum(0).sqrt()


def set_pristine_statistics(model: GRepQ, photos: PhotoList, selection: Selection) -> list[str]:
    """Select pristine patches of `photos` and write their statistics and origin into a model, on the model's device.

    Where the patches lie on the grid of the score, the model is given a dense mode as well, which reads the features of
    patches from a map of the whole photo: learned at the pristine patches and at `OTHERS` other places of each photo.

    Returns:
        Why photos were passed over, each with its name.

    Raises:
        InputError: the model has no low-level pathway, or there are fewer than two patches.
    """
    if model.low is None:
        raise InputError(f"{model.name} has no low-level pathway, and so no pristine statistics")
    low, skipped = model.low, []
    size, stride = low.config.patch_size, low.config.patch_stride
    dense = selection.patch_size == size and size % stride == 0 and stride % (CELL // 2) == 0
    features, windows, other_features, other_windows = ([torch.empty(0, width)] for width in (FEATURES, CHANNELS) * 2)
    for i in tqdm(range(len(photos)), desc="pristine", unit="photo", disable=None):
        try:
            image = photos.image(i)
        except ValueError as error:
            skipped.append(str(error))
            continue
        places = selection.places(image)
        features.append(low.encode(cut(image, places, selection.patch_size)).float().cpu())
        if dense and len(places):
            others = _others(image, size, stride, i)
            other_features.append(low.encode(cut(image, others, size)).float().cpu())
            with torch.inference_mode():
                grid = low.windows(low.like_weights(image.unsqueeze(0)))[0].float().cpu()
            windows.append(grid[tuple((places // stride).T)])
            other_windows.append(grid[tuple((others // stride).T)])
    found = torch.cat(features)
    low.set_statistics(found)
    if dense:
        own = torch.cat(windows)
        low.fit_dense(torch.cat([own, *other_windows]), torch.cat([found, *other_features]), own)
    else:
        low.drop_dense()
    model.provenance["pristine"] = {**photos.identity(), "skipped": len(skipped), "patches": len(found), **asdict(selection)}
    return skipped


def _others(image: Tensor, size: int, stride: int, seed: int) -> Tensor:
    """`OTHERS` places on the grid of a photo's patches, drawn at random."""
    counts = [(length - size) // stride + 1 for length in image.shape[1:]]
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([stride * torch.randint(count, (OTHERS,), generator=generator) for count in counts], 1)
