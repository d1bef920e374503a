"""Maps of large images, tile by tile: less memory, and faster where tiles fit the caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor


def in_tiles(
    x: Tensor, network: Callable[[Tensor], list[Tensor]], strides: Sequence[int], reach: int, side: int
) -> list[Tensor]:
    """What a convolutional network makes of images, computed for one tile of an image after the other.

    Args:
        x: ``(N, C, H, W)``.
        network: to maps ``(N, c, ceil(H / stride), ceil(W / stride))``. Its padding may be TensorFlow's, which depends on
            whether sides are odd: the tiles have sides that are as odd as those of the image at each stride.
        strides: of the maps, each a multiple of the one before.
        reach: rows and columns on each side that an output sees.
        side: of a tile without what is computed twice.

    Returns:
        The maps, equal to those of whole images.
    """
    count, _, height, width = x.shape
    maps: list[Tensor] = []
    spans = list(product(_spans(height, side, reach, strides[-1]), _spans(width, side, reach, strides[-1])))
    for i, (rows, columns) in product(range(count), spans):
        parts = network(x[i : i + 1, :, rows.seen, columns.seen])
        if not maps:  # filled tile by tile: joining tiles at the end would need the memory of all twice
            sizes = ((count, part.shape[1], -(-height // s), -(-width // s)) for part, s in zip(parts, strides, strict=True))
            maps = [
                torch.empty(size, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
                for part, size in zip(parts, sizes, strict=True)
            ]
        for whole, part, stride in zip(maps, parts, strides, strict=True):
            whole[i, :, rows.at(stride), columns.at(stride)] = part[0, :, rows.inside(stride), columns.inside(stride)]
    return maps


@dataclass(frozen=True)
class _Span:
    """Rows (or columns) of a tile, `start` to `end`, and those that it sees, `top` to `bottom`."""

    start: int
    end: int
    top: int
    bottom: int

    @property
    def seen(self) -> slice:
        return slice(self.top, self.bottom)

    def at(self, stride: int) -> slice:
        """Of its output in a map."""
        return slice(self.start // stride, -(-self.end // stride))

    def inside(self, stride: int) -> slice:
        """Of its output in what the network makes of what it sees."""
        at, before = self.at(stride), self.top // stride
        return slice(at.start - before, at.stop - before)


def _spans(length: int, side: int, reach: int, unit: int) -> Iterator[_Span]:
    """Spans of about `side` that cover a length; what they see begins and ends at multiples of `unit` from either end."""
    step, margin = max(side // unit, 1) * unit, -(-reach // unit) * unit
    for start in range(0, length, step):
        end = min(start + step, length)
        bottom = min(end + margin, length)
        yield _Span(start, end, max(start - margin, 0), bottom + (length - bottom) % unit)
