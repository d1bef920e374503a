"""Images that are given as tensors: what they must be, and how small ones are padded."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grepq_metric.errors import InputError

TOLERANCE = 1e-3
"""How far values may lie outside of [0, 1]: colour conversions overshoot by as much."""
UNDERSHOOT = 0.2
"""How far below 0 interpolation may lead; what lies further down is centred on 0."""


def check_images(x: Any) -> Tensor:
    """Check that `x` is a batch of images, without looking at its values; return it.

    Raises:
        InputError: it is no floating point tensor ``(N, 3, H, W)`` or ``(N, 1, H, W)`` with at least one pixel.
    """
    if not isinstance(x, Tensor):
        raise InputError(
            f"expected a tensor (N, 3, H, W), got {type(x).__name__}; grepq_metric.read_image makes one of a file, "
            "(3, H, W): add .unsqueeze(0)"
        )
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        raise InputError(f"expected a tensor (N, 3, H, W) or (N, 1, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise InputError(f"expected floating point values in [0, 1], got {x.dtype}: convert and divide by 255")
    return x


def likely_scale(least: float, greatest: float) -> str | None:
    """What values outside of [0, 1] probably are, and what to do with them; None for values in [0, 1].

    Args:
        least: least value of a batch.
        greatest: greatest value of a batch.
    """
    if least >= -TOLERANCE and greatest <= 1 + TOLERANCE:
        return None
    if -1 - TOLERANCE <= least < -UNDERSHOOT and greatest <= 1 + TOLERANCE:
        return "they look like [-1, 1]: pass (x + 1) / 2"
    if least >= -TOLERANCE and 2 < greatest <= 255 + TOLERANCE:
        return "they look like [0, 255]: divide by 255"
    if least >= -TOLERANCE and 255 < greatest <= 65535 + TOLERANCE:
        return "they look like [0, 65535]: divide by 65535"
    return "clamp a slight overshoot to [0, 1]; larger values are another scale, or normalised by a mean and a deviation"


def check_range(x: Tensor) -> None:
    """Check that all values lie in [0, 1], but for `TOLERANCE`.

    Raises:
        InputError: there is NaN, infinity or another scale; the message names the range and the likely scale.
    """
    least, greatest = (value.item() for value in x.detach().aminmax())
    if least != least or greatest != greatest:
        raise InputError("expected values in [0, 1], got nan")
    scale = likely_scale(least, greatest)
    if scale is not None:
        raise InputError(f"expected values in [0, 1], got {least:g} to {greatest:g}: {scale}")


def pad_to(x: Tensor, size: int) -> Tensor:
    """Pad ``(N, 3, H, W)`` symmetrically to at least `size` on each side.

    Mirrors the image where it is large enough to be mirrored, and repeats its edge where it is not.
    """
    for dim in (-1, -2):
        missing = max(size - x.shape[dim], 0)
        before, after = missing // 2, missing - missing // 2
        if missing:
            pad = [before, after, 0, 0] if dim == -1 else [0, 0, before, after]
            x = F.pad(x, pad, mode="reflect" if after < x.shape[dim] else "replicate")
    return x


def reduce_to(x: Tensor, longest: int) -> Tensor:
    """Reduce ``(N, C, H, W)`` so that its longer side has at most `longest` pixels, and the other one in proportion.

    Bicubic with antialiasing, as Pillow's ``resize``, clamped to [0, 1]; 16-bit floats become float32. A smaller image stays
    as it is.
    """
    height, width = x.shape[-2:]
    if max(height, width) <= longest:
        return x
    size = [max(round(side * longest / max(height, width)), 1) for side in (height, width)]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.interpolate(wide, size, mode="bicubic", antialias=True).clamp(0, 1)


def result_type(x: Tensor) -> torch.dtype:
    """Type of results for images `x`: float32, or float64 for float64 images."""
    return torch.promote_types(x.dtype, torch.float32)


def scaled(x: Any, data_range: float) -> Tensor:
    """Images in [0, `data_range`], floating point or integers, as floating point ones in [0, 1].

    Raises:
        InputError: `x` is no tensor of numbers.
    """
    if not isinstance(x, Tensor) or x.dtype == torch.bool or x.is_complex():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"expected a tensor (N, 3, H, W) of numbers in [0, {data_range:g}], got {kind}")
    return x / data_range


def check_data_range(data_range: float) -> None:
    """Check the largest value of images that are to be divided by it.

    Raises:
        InputError: it is no positive number.
    """
    if isinstance(data_range, bool) or not isinstance(data_range, (int, float)) or not 0 < data_range < float("inf"):
        raise InputError(f"data_range must be positive, got {data_range}")
