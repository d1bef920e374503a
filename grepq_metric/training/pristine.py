"""Selection of pristine patches and their statistics (the paper's zero-shot prediction)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from tqdm import tqdm

from grepq_metric.errors import InputError
from grepq_metric.model import GRepQ
from grepq_metric.pathways.base import check_number
from grepq_metric.training.photos import PhotoList


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
        size = self.patch_size
        if min(image.shape[1:]) < size:
            return image.new_empty(0, 3, size, size)
        patches = image.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).flatten(0, 1)
        sharp = sharpness(patches)
        patches = patches[sharp > self.sharpness * sharp.max()]
        if not len(patches):
            return patches
        colourful = colourfulness(patches)
        return patches[colourful > self.colourfulness * colourful.max()]


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

    Returns:
        Why photos were passed over, each with its name.

    Raises:
        InputError: the model has no low-level pathway, or there are fewer than two patches.
    """
    if model.low is None:
        raise InputError(f"{model.name} has no low-level pathway, and so no pristine statistics")
    skipped: list[str] = []

    def patches() -> Iterator[Tensor]:
        for i in tqdm(range(len(photos)), desc="pristine", unit="photo", disable=None):
            try:
                image = photos.image(i)
            except ValueError as error:
                skipped.append(str(error))
                continue
            yield selection(image)

    count = model.low.fit_pristine(patches())
    model.provenance["pristine"] = {**photos.identity(), "skipped": len(skipped), "patches": count, **asdict(selection)}
    return skipped
