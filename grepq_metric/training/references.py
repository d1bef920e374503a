"""The semantic pathway's teachers: full-reference metrics, which compare a distorted photo with the undistorted one.

Each is turned into a slightness that spreads the distortions that are hardly seen, where metrics crowd near their best value:
what matters to people about photos is mostly there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grepq_metric.errors import InputError

Compare = Callable[[Tensor, Tensor], Tensor]
"""Distorted and undistorted photos ``(N, 3, H, W)`` in [0, 1] -> ``(N,)``."""


@dataclass(frozen=True)
class Teacher:
    """One full-reference metric.

    Attributes:
        name: of the function in piq.
        best: its value for an undistorted photo, and the greatest one if `higher_better`.
        floor: distance to `best` below which differences count little.
        higher_better: whether a higher value is better.
    """

    name: str
    best: float
    floor: float
    higher_better: bool = True

    def slightness(self, value: Tensor) -> Tensor:
        """-log(distance to `best` + `floor`) of values: higher is better, and undistorted photos get -log(`floor`)."""
        distance = (self.best - value) if self.higher_better else (value - self.best)
        return -(distance.clamp_min(0) + self.floor).log()


TEACHERS = (
    Teacher("vsi", 1.0, 3e-4),
    Teacher("gmsd", 0.0, 1e-3, higher_better=False),
    Teacher("mdsi", 0.0, 3e-3, higher_better=False),
    Teacher("haarpsi", 1.0, 3e-3),
    Teacher("dss", 1.0, 3e-3),
)
"""Metrics of different make: saliency and gradients (VSI), gradients alone (GMSD), with chroma (MDSI), wavelets (HaarPSI), DCT
(DSS). No opinion score is used."""


@torch.inference_mode()
def slightness(versions: Tensor) -> Tensor:
    """Slightness of the distortion of versions of a photo, by each of `TEACHERS`.

    Args:
        versions: ``(D, 3, H, W)`` RGB in [0, 1], the undistorted one first.

    Returns:
        ``(D, T)``, higher is better.

    Raises:
        InputError: piq is not installed.
    """
    try:
        import piq
    except ModuleNotFoundError as error:
        raise InputError('the semantic pathway is taught by metrics of piq: pip install "grepq-metric[train]"') from error
    distorted = versions[1:]
    undistorted = versions[:1].expand_as(distorted)
    columns = []
    for teacher in TEACHERS:
        value = getattr(piq, teacher.name)(distorted, undistorted, reduction="none", data_range=1.0)
        best = value.new_full((1,), teacher.best)
        columns.append(teacher.slightness(torch.cat([best, value.flatten()])))
    return torch.stack(columns, 1)
