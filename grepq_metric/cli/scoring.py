"""What the score command adds to `Scorer`: problems of arguments, maps, and how many processes are worth starting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grepq_metric.cli.maps import write_map
from grepq_metric.cli.record import State
from grepq_metric.cli.sidecars import write_sidecars
from grepq_metric.errors import InputError
from grepq_metric.images import PixelLimitError, file_pixels
from grepq_metric.scoring import Item, Photo, Row, Scorer

LEAST_FOR_PROCESSES = 200
"""Photos from which on several processes are quicker, though they take 4 s to start; by how much:
``python -m benchmarks.studies.throughput``."""
_BYTES_OF_A_PROCESS, _BYTES_OF_A_PIXEL = 700_000_000, 400
_SAMPLE = 50
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of containers


@dataclass(frozen=True)
class PhotoItem(Item):
    """A photo that is named on the command line.

    Attributes:
        state: of its file, before it is read; None: there is no such file.
        problem: why the argument is no photo; None: it may be one.
        map: the file to draw its map in; None: none.
    """

    state: State | None = None
    problem: str | None = None
    map: Path | None = None


class PhotoScorer(Scorer):
    """Scores `PhotoItem`s.

    Args:
        draws: whether rows get maps.
        replace: whether maps may replace files.
        rates: whether stars are written to sidecars of photos.
        arguments: of `Scorer`.
    """

    def __init__(self, *, draws: bool, replace: bool, rates: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.draws, self.replace, self.rates = draws, replace, rates

    def facts(self) -> dict[str, Any]:
        """See `Scorer.facts`.

        Raises:
            InputError: maps are wanted, and the weights have no pathway that draws some.
        """
        found, model = super().facts(), self.model
        if self.draws and model.pathways == ("high",):
            raise InputError(f"--map needs the semantic or the low-level pathway, and {model.weights_id} has neither")
        return found

    def read(self, item: Item) -> Photo:
        """See `Scorer.read`."""
        if isinstance(item, PhotoItem) and item.problem is not None:
            raise InputError(item.problem)
        try:
            return super().read(item)
        except PixelLimitError as error:
            raise InputError(f"{error} (--max-pixels)") from error

    def finish(self, item: Item, x: Tensor, row: Row) -> None:
        """Draw the map, and write the stars."""
        if isinstance(item, PhotoItem) and item.map is not None:
            row["map"] = str(write_map(self.model, x, item.map, self.replace))
        if self.rates and isinstance(percentile := row["percentile"], float):
            try:
                write_sidecars(item.name, percentile)
            except InputError as error:
                row["warning"] = "; ".join(str(text) for text in (row["warning"], error) if text)


def worth_starting(photos: Sequence[str] | None, device: str | None) -> int:
    """How many processes score photos soonest; one where their number is not known.

    On a CPU it is one for each core that torch would use, as far as half of the memory holds them at the largest of the first
    photos.
    """
    if photos is None or len(photos) < LEAST_FOR_PROCESSES:
        return 1
    if (device is None and torch.cuda.is_available()) or device not in (None, "cpu"):
        return 1
    largest = max(file_pixels(path) for path in photos[:_SAMPLE])
    return max(1, min(torch.get_num_threads(), _memory() // 2 // (_BYTES_OF_A_PROCESS + _BYTES_OF_A_PIXEL * largest)))


def _memory() -> int:
    """Bytes of this machine, or of the container that has less; 0 where it is not known."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):  # on Windows
        return 0
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(Path(limit).read_text()))
    return min(found)
