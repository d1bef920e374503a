"""The weights and the model that a command's options ask for."""

from __future__ import annotations

from typing import Any

from grepq_metric import catalog, models
from grepq_metric.devices import usable_device
from grepq_metric.errors import InputError


def chosen(metric: str | None, weights: str | None) -> tuple[str | None, dict[str, Any]]:
    """What --metric and --weights ask for: the weights, None where neither is given, and options of `GRepQ.from_pretrained`.

    Raises:
        InputError: there is no such metric.
    """
    entry = None if metric is None else catalog.find(metric)
    if metric is not None and entry is None:
        raise InputError(f"unknown metric {metric!r}, expected one of {', '.join(catalog.known_names())}")
    if entry is not None and weights is not None:
        return weights, {"pathways": entry.pathways}
    return metric if weights is None else weights, {}


def load_model(metric: str | None, weights: str | None, device: str | None) -> models.QualityModel:
    """The model that --metric and --weights ask for, on --device.

    Raises:
        InputError: an option names what is not there, or a device that can't be used.
    """
    name, options = chosen(metric, weights)
    where = usable_device(device)
    return models.load_model(catalog.DEFAULT if name is None else name, **options).to(where)
