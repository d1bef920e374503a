"""How far a run is: a bar on a terminal, and a line every half a minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
EVERY = 30.0
"""Seconds between two lines."""


def track(
    items: Sequence[Item], what: str, done: int = 0, stream: TextIO | None = None, every: float = EVERY
) -> Iterator[Item]:
    """The items, with their progress on `stream`.

    Args:
        items: what is still to do.
        what: is done, for the reader.
        done: how many were done before.
        stream: by default standard error.
        every: seconds between two lines, where `stream` is no terminal.
    """
    stream = stream or sys.stderr
    total = done + len(items)
    if stream.isatty():
        yield from tqdm(items, what, total=total, initial=done, unit="image", file=stream)
        return
    began = told = time.monotonic()
    for count, item in enumerate(items):
        now = time.monotonic()
        if now - told >= every:
            pace = (now - began) / count if count else 0.0
            left = pace * (len(items) - count)
            print(
                f"{what}: {done + count} of {total} images, {pace:.2g} s/image, {left / 60:.0f} min left",
                file=stream,
                flush=True,
            )
            told = now
        yield item
