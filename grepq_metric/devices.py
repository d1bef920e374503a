"""Torch devices that this package can compute on."""

from __future__ import annotations

import torch

from grepq_metric.errors import InputError


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device that is meant; None: cuda if there is one, else the CPU.

    Raises:
        InputError: it is not there, or has no float64 (as Apple's MPS), which distances need.
    """
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=where, dtype=torch.float64)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"cannot use device {device!r}: {str(error).splitlines()[0]}") from error
    return where
