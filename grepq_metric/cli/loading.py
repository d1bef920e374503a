"""The model that a command's options ask for."""

from __future__ import annotations

from grepq_metric import catalog
from grepq_metric.devices import usable_device
from grepq_metric.errors import InputError
from grepq_metric.model import GRepQ


def load_model(metric: str | None, weights: str | None, device: str | None) -> GRepQ:
    """The model that --metric and --weights ask for, on --device.

    Raises:
        InputError: an option names what is not there, or a device that can't be used.
    """
    entry = None if metric is None else catalog.find(metric)
    if metric is not None and entry is None:
        raise InputError(f"unknown metric {metric!r}, expected one of {', '.join(catalog.names())}")
    where = usable_device(device)
    if entry is not None and weights is not None:
        return GRepQ.from_pretrained(weights, pathways=entry.pathways).to(where)
    return GRepQ.from_pretrained(weights if weights is not None else metric or catalog.DEFAULT).to(where)
