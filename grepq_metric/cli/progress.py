"""How far a command is: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

SECONDS = 10.0
"""Between two lines in a log."""
TRIAL, LONG = 5.0, 60.0
"""Seconds after which it is told how long a run will take, where that is more than so many seconds."""


class Progress:
    """Counts photos, and tells on standard error.

    Args:
        total: how many there will be; None: not known.
    """

    def __init__(self, total: int | None) -> None:
        from tqdm import tqdm

        self.total, self.done, self.failed = total, 0, 0
        self._began = self._told = time.monotonic()
        self._estimated = total is None
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit="photo", leave=False) if on_terminal else None

    def advance(self, failed: bool) -> None:
        """One more is done."""
        self.done += 1
        self.failed += failed
        if not self._estimated and (seconds := time.monotonic() - self._began) >= TRIAL:
            self._estimated = True
            self._estimate(seconds)
        if self._bar is not None:
            self._bar.update()
        elif (now := time.monotonic()) - self._told >= SECONDS:
            self._told = now
            typer.echo(self._line(now - self._began), err=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Without the bar, so that results can be written to the same terminal."""
        if self._bar is None:
            yield
        else:
            with self._bar.external_write_mode(file=sys.stdout or sys.stderr):
                yield

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _estimate(self, seconds: float) -> None:
        left = seconds / self.done * ((self.total or 0) - self.done)
        if seconds + left > LONG:
            with self.paused():
                typer.echo(f"{self.total} photos will take about {_duration(seconds + left)}", err=True)

    def _line(self, seconds: float) -> str:
        rate = self.done / seconds
        text = f"{self.done} of {self.total} photos" if self.total else f"{self.done} photos"
        text += f", {self.failed} failed" if self.failed else ""
        text += f", {rate:.2g} photos/s" if rate < 10 else f", {rate:.0f} photos/s"
        if self.total:
            text += f", about {_duration((self.total - self.done) / rate)} left"
        return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
