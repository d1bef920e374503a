"""The map of a photo drawn over it: where it is good and where bad."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from grepq_metric.errors import InputError
from grepq_metric.models import GRepQ, QualityModel

FARTHEST = 6
"""Distance of the strongest tint, as a multiple of the typical distance of a pristine patch."""
CLEAR, WORST = 0.8, 0.2
"""Quality without a tint, and that of the strongest one."""
OPACITY = 0.3
"""Of the strongest tint: the photo stays visible under it."""
LEGEND = 36
"""Height of the legend in pixels."""
_FONT, _SCALE, _INK = cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40)


@dataclass(frozen=True)
class Layer:
    """A map as it is drawn.

    Attributes:
        level: ``(h, w)`` float32; 0: no tint, 1: the strongest; what lies beyond is cut off.
        size: side of what an element of it judges, in pixels.
        stride: distance between neighbouring elements in pixels.
        ticks: of the legend, from no tint to the strongest one.
        captions: what the legend says, the longest that fits.
    """

    level: np.ndarray
    size: int
    stride: int
    ticks: tuple[str, ...]
    captions: tuple[str, ...]


def draw(model: QualityModel, x: Tensor) -> np.ndarray:
    """Blend the map of ``(1, 3, H, W)`` RGB in [0, 1] over it: ``(H + LEGEND, W, 3)`` uint8 in BGR.

    The photo stays as it is where it is good, and turns yellow, then red, where it is bad, with a contour at each tick of the
    legend. It is one scale for all photos,
    which the legend shows: the quality of each place from `CLEAR` to `WORST`; of the low-level pathway alone the distance,
    from the typical one of patches of pristine photos (root mean square) to `FARTHEST` times that.
    """
    layer = _distance(model, x) if isinstance(model, GRepQ) and model.semantic is None else _quality(model, x)
    photo = np.ascontiguousarray((x[0].flip(0).permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))
    height, width = photo.shape[:2]
    # A small photo was padded on both sides; element (i, j) is centred at (i, j) * stride + size / 2 of the padded photo.
    shift_y, shift_x = (max(model.least_side - side, 0) // 2 for side in (height, width))
    column, row = np.meshgrid(
        (np.arange(width, dtype=np.float32) + shift_x - layer.size / 2) / layer.stride,
        (np.arange(height, dtype=np.float32) + shift_y - layer.size / 2) / layer.stride,
    )
    column = column.clip(0, layer.level.shape[1] - 1)
    row = row.clip(0, layer.level.shape[0] - 1)
    smooth = cv2.remap(layer.level, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.vstack([_lines(_tint(photo, smooth.clip(0, 1)), smooth, len(layer.ticks)), _legend(width, layer)])


def _quality(model: QualityModel, x: Tensor) -> Layer:
    quality = model.quality_map(x)[0, 0].cpu().numpy().astype(np.float32)
    return Layer(
        level=(CLEAR - quality) / (CLEAR - WORST),
        size=model.cell,
        stride=model.cell,
        ticks=tuple(f"{tick:g}" for tick in np.linspace(CLEAR, WORST, 4).round(1)),
        captions=(
            f"quality of each place, from 0 to 1: no tint = {CLEAR:g} or better, red = {WORST:g} or worse",
            f"quality of each place (red = {WORST:g} or worse)",
            "quality (1 = best)",
            "quality",
        ),
    )


def _distance(model: GRepQ, x: Tensor) -> Layer:
    low = model.low
    if low is None:
        raise InputError(f"{model.name} has neither the semantic nor the low-level pathway, and so no map")
    distance = model.distance_map(x)[0, 0].cpu().numpy().astype(np.float32)
    return Layer(
        level=(distance / low.pristine_distance() - 1).astype(np.float32) / (FARTHEST - 1),
        size=low.config.patch_size,
        stride=low.config.patch_stride,
        ticks=(*map(str, range(1, FARTHEST)), f"{FARTHEST}+"),
        captions=(
            "distance to pristine photos: no tint = as near as theirs, 2 = twice as far, ...",
            "distance to pristine photos (1 = as near as theirs)",
            "distance to pristine (1 = near)",
            "distance",
        ),
    )


def _tint(picture: np.ndarray, level: np.ndarray) -> np.ndarray:
    colours = cv2.applyColorMap((255 * (1 - level)).astype(np.uint8), cv2.COLORMAP_AUTUMN)
    opacity = OPACITY * np.sqrt(level)[..., None]
    return ((1 - opacity) * picture + opacity * colours).round().astype(np.uint8)


def _lines(picture: np.ndarray, level: np.ndarray, ticks: int) -> np.ndarray:
    """Draw the contour of each tick of the legend: the places beyond are worse; a dark edge makes it seen on any photo."""
    contours = [
        (_colour(bound), cv2.findContours((level >= bound).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0])
        for bound in np.linspace(0, 1, ticks)[1:]
    ]
    for _, lines in contours:
        cv2.drawContours(picture, lines, -1, _INK, 4, cv2.LINE_AA)
    for colour, lines in contours:
        cv2.drawContours(picture, lines, -1, colour, 2, cv2.LINE_AA)
    return picture


def _colour(level: float) -> tuple[int, ...]:
    found = cv2.applyColorMap(np.array([[255 * (1 - level)]]).astype(np.uint8), cv2.COLORMAP_AUTUMN)
    return tuple(map(int, found[0, 0]))


def _legend(width: int, layer: Layer) -> np.ndarray:
    level = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (LEGEND, width))
    bar = _tint(np.full((LEGEND, width, 3), 235, np.uint8), level)
    if width > sum(_length(text) + 8 for text in layer.ticks):
        for i, text in enumerate(layer.ticks):
            at = round((width - 1) * i / (len(layer.ticks) - 1))
            cv2.line(bar, (at, LEGEND - 4), (at, LEGEND), _INK)
            _write(bar, text, min(max(at - _length(text) // 2, 2), width - _length(text) - 2), LEGEND - 6)
    for caption in layer.captions:
        if _length(caption) + 8 <= width:
            _write(bar, caption, 4, 13)
            break
    return bar


def _length(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0])


def _write(picture: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(picture, text, (x, y), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
