"""Maps of large images, tile by tile: less memory, and faster where tiles fit the caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor


def in_tiles(x: Tensor, network: Callable[[Tensor], Tensor], stride: int, reach: int, side: int) -> Tensor:
    """The map that a convolutional network makes of images, computed for one tile of an image after the other.

    Args:
        x: ``(N, C, H, W)``.
        network: to a map ``(N, c, ceil(H / stride), ceil(W / stride))``. Its padding may be TensorFlow's, which depends on
            whether sides are odd: the tiles have sides that are as odd as those of the image.
        stride: of the map.
        reach: rows and columns on each side that an output sees.
        side: largest of a tile, without what is computed twice.

    Returns:
        The map, equal to that of whole images.
    """
    count, _, height, width = x.shape
    whole: Tensor | None = None
    spans = list(product(_spans(height, side, reach, stride), _spans(width, side, reach, stride)))
    for i, (rows, columns) in product(range(count), spans):
        part = network(x[i : i + 1, :, rows.seen, columns.seen])
        if whole is None:  # filled tile by tile: joining tiles at the end would need the memory of all twice
            size = (count, part.shape[1], -(-height // stride), -(-width // stride))
            whole = torch.empty(size, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
        whole[i, :, rows.at(stride), columns.at(stride)] = part[0, :, rows.inside(stride), columns.inside(stride)]
    assert whole is not None  # images have pixels
    return whole


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
    """Spans of equal length that cover a length; what they see begins and ends at multiples of `unit` from either end."""
    units = -(-length // unit)
    step = -(-units // -(-length // side)) * unit
    margin = -(-reach // unit) * unit
    for start in range(0, length, step):
        end = min(start + step, length)
        bottom = min(end + margin, length)
        yield _Span(start, end, max(start - margin, 0), bottom + (length - bottom) % unit)
