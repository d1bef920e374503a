"""The quality map drawn over a photo."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

WORST = 4
"""Distance of the strongest tint, as a multiple of the typical distance of a pristine patch."""
LEGEND = 22
"""Height of the legend in pixels."""


def draw(model, x: Tensor) -> np.ndarray:
    """Blend the map of ``(1, 3, H, W)`` RGB in [0, 1] over it: ``(H + LEGEND, W, 3)`` uint8 in BGR.

    The photo stays as it is where a patch is as near to the pristine statistics as pristine patches are (root mean square),
    and turns yellow, then red, up to `WORST` times that: one scale for all photos.
    """
    size, stride = model.low.config.patch_size, model.low.config.patch_stride
    best = _pristine_distance(model.low)
    distance = model.distance_map(x)[0, 0].cpu().numpy().astype(np.float32)
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
    level = ((smooth / best - 1) / (WORST - 1)).clip(0, 1)
    return np.vstack([_tint(photo, level), _legend(width)])


def _pristine_distance(low) -> float:
    """Root mean square of the distances of single pristine patches: sqrt(tr((Sigma_p / 2 + ridge I)^-1 Sigma_p))."""
    cov = low.pristine_cov
    pooled = cov / 2 + low.config.ridge * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
    return torch.linalg.solve(pooled, cov).trace().sqrt().item()


def _tint(picture: np.ndarray, level: np.ndarray) -> np.ndarray:
    colours = cv2.applyColorMap((255 * (1 - level)).astype(np.uint8), cv2.COLORMAP_AUTUMN)
    opacity = 0.65 * np.sqrt(level)[..., None]
    return ((1 - opacity) * picture + opacity * colours).round().astype(np.uint8)


def _legend(width: int) -> np.ndarray:
    level = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (LEGEND, width))
    bar = _tint(np.full((LEGEND, width, 3), 235, np.uint8), level)
    if width >= 240:
        for text, place in (("as pristine", 4), (f"{WORST} times as far", width - 116)):
            cv2.putText(bar, text, (place, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return bar
