"""Do weights that come out of a training tell distorted photos from undistorted ones at all? A quick look, no benchmark."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from grepq_metric.errors import InputError
from grepq_metric.models import QualityModel
from grepq_metric.training.distortions import DISTORTIONS
from grepq_metric.training.photos import PhotoList

PHOTOS, SIDE = 4, 192
"""Photos that are looked at, spread over the list, and the side of the part from their middle in pixels."""
TYPES = ("gaussian_blur", "white_noise", "jpeg")
LEVELS = (1, 3, 5)
LEAST_SRCC, LEAST_DROP = 0.3, 0.01


@dataclass(frozen=True)
class Sanity:
    """How scores follow synthetic distortions of a few training photos.

    Attributes:
        photos: how many were looked at.
        srcc: mean over photos and types of distortion of the SRCC between score and mildness; 1: a worse version always scores
            lower.
        drop: mean of how much lower the severest version scores than the photo itself.
    """

    photos: int
    srcc: float
    drop: float

    @property
    def doubt(self) -> str | None:
        """What is wrong with the weights, or None."""
        if self.srcc >= LEAST_SRCC and self.drop >= LEAST_DROP:
            return None
        return (
            f"these weights hardly tell severely distorted photos from undistorted ones: on {self.photos} training photos the "
            f"score falls by {self.drop:.3f} under severe {', '.join(TYPES)} (SRCC with the severity {self.srcc:.2f}). More "
            "steps or more photos may help"
        )

    def record(self) -> dict[str, object]:
        """For the record of the weights."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


@torch.inference_mode()
def look(model: QualityModel, photos: PhotoList) -> Sanity | None:
    """Score a few of the training photos and distorted versions of them.

    Args:
        model: with pristine statistics.
        photos: of which the first usable ones of `PHOTOS` equal parts are taken.

    Returns:
        What was found; None if no photo is usable.
    """
    orders: list[float] = []
    drops: list[float] = []
    seen = 0
    for image in _some(photos):
        seen += 1
        versions = [DISTORTIONS[name](image, level, seed=seen) for name in TYPES for level in LEVELS]
        x = torch.from_numpy(np.stack([image, *versions])).permute(0, 3, 1, 2).to(model.device) / 255
        itself, *others = model(x).double().flatten().tolist()
        for start in range(0, len(others), len(LEVELS)):
            scores = [itself, *others[start : start + len(LEVELS)]]
            orders.append(float(spearmanr(scores, range(len(scores), 0, -1)).statistic) if len({*scores}) > 1 else 0.0)
            drops.append(scores[0] - scores[-1])
    return Sanity(seen, float(np.mean(orders)), float(np.mean(drops))) if seen else None


@torch.inference_mode()
def severe_scores(model: QualityModel, photo: Tensor) -> dict[str, float]:
    """Scores of a photo, ``(3, H, W)`` in [0, 1], as ``itself``, and of its severest version by each of `TYPES`."""
    image = (photo * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    versions = {"itself": image, **{name: DISTORTIONS[name](image, max(LEVELS), seed=0) for name in TYPES}}
    x = torch.from_numpy(np.stack([*versions.values()])).permute(0, 3, 1, 2).to(model.device) / 255
    return dict(zip(versions, model(x).double().flatten().tolist(), strict=True))


def examine(model: QualityModel, photos: PhotoList) -> None:
    """Note in the model's provenance how it tells distortions of training photos, and warn where it hardly does."""
    found = look(model, photos)
    if found is None:
        return
    model.provenance["sanity"] = found.record()
    if found.doubt:
        warnings.warn(found.doubt, stacklevel=2)


def _some(photos: PhotoList) -> Iterator[np.ndarray]:
    """Middles of a few photos as ``(H, W, 3)`` uint8."""
    bounds = np.linspace(0, len(photos), min(PHOTOS, len(photos)) + 1).astype(int)
    for start, end in pairwise(bounds.tolist()):
        for i in range(start, min(end, start + 5)):  # of many damaged ones not all are tried
            try:
                image = photos.image(i)
            except InputError:
                continue
            top, left = (max((side - SIDE) // 2, 0) for side in image.shape[1:])
            part = image[:, top : top + SIDE, left : left + SIDE]
            yield np.ascontiguousarray((part * 255).round().byte().permute(1, 2, 0).numpy())
            break
