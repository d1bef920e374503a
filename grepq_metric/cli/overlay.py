"""The quality map drawn over a photo."""

from __future__ import annotations

import math

import cv2
import numpy as np
from torch import Tensor

from grepq_metric.low_level import FEATURES

# For one pristine patch the expected squared distance is about 2 * 128: its deviation is measured with half the covariance.
BEST = math.sqrt(2 * FEATURES)
WORST = 4 * BEST


def draw(model, x: Tensor) -> np.ndarray:
    """Blend the map of ``(1, 3, H, W)`` RGB in [0, 1] over it: ``(H + legend, W, 3)`` uint8 in BGR.

    Blue is the distance of an average pristine patch or less (16), red is four times that or more, on one scale for all
    photos and weights.
    """
    size, stride = model.low.patch_size, model.low.patch_stride
    distance = model.quality_map(x)[0, 0].cpu().numpy().astype(np.float32)
    photo = np.ascontiguousarray((x[0].flip(0).permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))
    height, width = photo.shape[:2]
    # A small photo was padded on both sides; patch (i, j) is centred at (i, j) * stride + size / 2 of the padded photo.
    shift_y, shift_x = max(size - height, 0) // 2, max(size - width, 0) // 2
    column, row = np.meshgrid(
        (np.arange(width, dtype=np.float32) + shift_x - size / 2) / stride,
        (np.arange(height, dtype=np.float32) + shift_y - size / 2) / stride,
    )
    column = column.clip(0, distance.shape[1] - 1)
    row = row.clip(0, distance.shape[0] - 1)
    smooth = cv2.remap(distance, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    level = ((smooth - BEST) / (WORST - BEST)).clip(0, 1)
    blended = cv2.addWeighted(photo, 0.55, _colours(level), 0.45, 0)
    return np.vstack([blended, _legend(width)])


def _colours(level: np.ndarray) -> np.ndarray:
    return cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)


def _legend(width: int) -> np.ndarray:
    bar = _colours(np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (22, width)))
    if width >= 200:
        for text, place in ((f"<= {BEST:.0f} pristine", 4), (f">= {WORST:.0f}", width - 50)):
            cv2.putText(bar, text, (place, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return bar
