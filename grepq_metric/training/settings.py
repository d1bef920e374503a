"""Checks of the numbers that a run is set up with: ``nan``, ``inf`` and 1.5 photos are refused before anything is computed."""

from __future__ import annotations

import math

from grepq_metric.errors import InputError


def check_whole(name: str, value: object, least: int) -> None:
    """Raise an InputError unless `value` is a whole number (an int, no bool) of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")


def check_number(name: str, value: object, least: float = 0.0, above: bool = False) -> None:
    """Raise an InputError unless `value` is a finite number of `least` or more; with `above`, more than `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    if value < least or (above and value == least):
        raise InputError(f"{name} must be {'above' if above else 'at least'} {least:g}, got {value}")
