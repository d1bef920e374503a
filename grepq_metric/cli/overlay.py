"""The distance map drawn over a photo."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from grepq_metric.errors import InputError
from grepq_metric.model import GRepQ

WORST = 6
"""Distance of the strongest tint, as a multiple of the typical distance of a pristine patch."""
OPACITY = 0.55
"""Of the strongest tint: the photo stays visible under it."""
LEGEND = 36
"""Height of the legend in pixels."""
CAPTIONS = (
    "distance to pristine photos: no tint = as near as theirs, 2 = twice as far, ...",
    "distance to pristine photos (1 = as near as theirs)",
    "distance to pristine (1 = near)",
    "distance",
)
"""What the legend says, the longest that fits."""
_FONT, _SCALE, _INK = cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40)


def draw(model: GRepQ, x: Tensor) -> np.ndarray:
    """Blend the map of ``(1, 3, H, W)`` RGB in [0, 1] over it: ``(H + LEGEND, W, 3)`` uint8 in BGR.

    The photo stays as it is where a patch is as near to the pristine statistics as patches of pristine photos are (root mean
    square), and turns yellow, then red, up to `WORST` times that: one scale for all photos, which the legend shows.
    """
    low = model.low
    if low is None:
        raise InputError(f"{model.name} has no low-level pathway, and so no map")
    size, stride = low.config.patch_size, low.config.patch_stride
    distance, best = model.distance_map(x)[0, 0].cpu().numpy().astype(np.float32), low.pristine_distance()
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


def _tint(picture: np.ndarray, level: np.ndarray) -> np.ndarray:
    colours = cv2.applyColorMap((255 * (1 - level)).astype(np.uint8), cv2.COLORMAP_AUTUMN)
    opacity = OPACITY * np.sqrt(level)[..., None]
    return ((1 - opacity) * picture + opacity * colours).round().astype(np.uint8)


def _legend(width: int) -> np.ndarray:
    level = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (LEGEND, width))
    bar = _tint(np.full((LEGEND, width, 3), 235, np.uint8), level)
    if width >= 90:
        for times in range(1, WORST + 1):
            text = f"{times}+" if times == WORST else str(times)
            at = round((width - 1) * (times - 1) / (WORST - 1))
            cv2.line(bar, (at, LEGEND - 4), (at, LEGEND), _INK)
            _write(bar, text, min(max(at - _length(text) // 2, 2), width - _length(text) - 2), LEGEND - 6)
    for caption in CAPTIONS:
        if _length(caption) + 8 <= width:
            _write(bar, caption, 4, 13)
            break
    return bar


def _length(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0])


def _write(picture: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(picture, text, (x, y), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
