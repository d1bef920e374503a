"""Semantic pathway: moments of the maps of an ImageNet network, and a head that full-reference metrics have taught.

Not in the paper. It stands in where the high-level pathway can't be had: no CLIP, no network, no opinion scores.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grepq_metric.errors import InputError
from grepq_metric.pathways.base import Pathway, check_number, wide
from grepq_metric.pathways.efficientnet import SCALES, EfficientNetLite, Step
from grepq_metric.pathways.folding import Folding, in_graph
from grepq_metric.pathways.tiles import in_tiles

ARCHITECTURE = "tf_efficientnet_lite2"
WINDOW = 3
"""Cells along the side of the neighbourhood that a cell of a map is judged by."""
MEAN, STD = 0.5, 0.5
"""Of the values that the backbone was taught on."""
LARGEST = 3 * 2**20
"""Values of a map that is computed at once on a CPU; elsewhere 64 times as many.

The widest maps of a whole photo would take 350 bytes a pixel. Maps of 12 MB stay near the caches, while those above 32 MB
the C library takes from the system and gives back each time: photos of 24 megapixels took 1.4 times the time.
"""
SMALLEST_VARIANCE = 1e-10
"""Where a map is constant, its deviation has no gradient without it."""


@dataclass(frozen=True)
class SemanticConfig:
    """Constants of the semantic pathway.

    Attributes:
        architecture: name of the backbone, a key of `grepq_metric.pathways.efficientnet.SCALES`.
        hidden: units of the head's hidden layer; 0: the head is linear.

    Raises:
        InputError: a value is none of these.
    """

    architecture: str = ARCHITECTURE
    hidden: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in SCALES:
            raise InputError(f"architecture must be one of {', '.join(SCALES)}, got {self.architecture!r:.80}")
        check_number("hidden", self.hidden, 0, 65536, whole=True)


class SemanticPathway(Pathway):
    """Quality that a head reads from the mean and the deviation of a backbone's maps over the whole image.

    Args:
        config: the architecture and the head's shape.

    Attributes:
        backbone: the network; its maps at the end of each stage are used.
        head: moments ``(N, C)`` -> logit of the quality ``(N, 1)``.
    """

    name: ClassVar[str] = "semantic"
    best: ClassVar[float] = 1.0
    kinds: ClassVar[tuple[str, ...]] = ("semantic",)

    def __init__(self, config: SemanticConfig | None = None) -> None:
        super().__init__(config or SemanticConfig())
        self.backbone = EfficientNetLite(self.config.architecture)
        self._fast = Folding()
        width, hidden = 2 * sum(self.backbone.channels), self.config.hidden
        last = nn.Linear(hidden or width, 1)
        nn.init.constant_(last.bias, torch.nan)  # until weights are loaded
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), last) if hidden else nn.Sequential(last)

    def parts(self, x: Tensor, *, patches: int | None = None, checkpoint: bool = True) -> dict[str, Tensor]:
        """``quality`` of images, ``(N,)``, see `Pathway.parts`; this pathway has no patches and keeps all activations."""
        return {"quality": self.quality(moments(self.maps(x)))}

    def features(self, x: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        """See `Pathway.features`: ``semantic``: mean and standard deviation of the maps, stage by stage, ``(N, C)``."""
        if not {"semantic", "score"}.intersection(kinds):
            return {}
        values = moments(self.maps(x))
        found = {"semantic": values} if "semantic" in kinds else {}
        return found | ({"score": self.quality(values)} if "score" in kinds else {})

    def feature_blocks(self, kind: str) -> tuple[int, ...]:
        """See `Pathway.feature_blocks`: one of each stage."""
        return {"semantic": tuple(2 * count for count in self.backbone.channels)}[kind]

    def maps(self, x: Tensor) -> list[Tensor]:
        """Maps at the end of each stage: ``(N, 3, H, W)`` in [0, 1] -> ``(N, c, h, w)`` each."""
        return stage_maps(self.backbone, self._fast, x)

    def quality(self, features: Tensor) -> Tensor:
        """Q_S of features: ``(N, C)`` -> ``(N,)`` in (0, 1), higher is better."""
        return torch.sigmoid(self.logit(features))

    def logit(self, features: Tensor) -> Tensor:
        """What the head makes of features: ``(N, C)`` -> ``(N,)``, the logit of Q_S."""
        with torch.autocast(features.device.type, enabled=False):
            for layer in self.head:
                if isinstance(layer, nn.Linear):  # in the type of the features, also where the weights are of 16 bits
                    features = F.linear(features, layer.weight.to(features.dtype), layer.bias.to(features.dtype))
                else:
                    features = layer(features)
            return features.squeeze(1)

    def quality_map(self, x: Tensor) -> Tensor:
        """Q_S of each cell of the last stage, judged by its neighbourhood: ``(N, 3, H, W)`` -> ``(N, 1, h, w)`` in (0, 1).

        The moments are those of windows of 3 x 3 cells, 96 pixels, where they lie in the image.
        """
        maps = [wide(stage) for stage in self.maps(x)]
        rows, columns = maps[-1].shape[-2:]
        local = []
        for stage in maps:
            means, squares = (_windows(F.adaptive_avg_pool2d(value, (rows, columns))) for value in (stage, stage.square()))
            local += [means, (squares - means.square()).clamp_min(SMALLEST_VARIANCE).sqrt()]
        joined = torch.cat(local, 1)
        return self.quality(joined.permute(0, 2, 3, 1).flatten(0, 2)).view(len(x), 1, rows, columns)

    def check(self) -> None:
        """See `Pathway.check`: the head has values."""
        if any(bool(value.isnan().any()) for value in self.head.parameters()):
            raise InputError("the model has no weights: load some with GRepQ.from_pretrained")


def stage_maps(backbone: EfficientNetLite, folding: Folding, x: Tensor) -> list[Tensor]:
    """Maps at the end of each stage of a backbone: ``(N, 3, H, W)`` in [0, 1] -> ``(N, c, h, w)`` each.

    Args:
        backbone: the network.
        folding: its quicker copy, where there is one.
        x: the images.
    """
    network, dtype = folding(backbone, x)
    x = _normalised(x, dtype)
    return network(x) if network is backbone else network(x, _in_tiles)


def moments(maps: list[Tensor]) -> Tensor:
    """Mean and standard deviation of maps over the image: ``(N, c, h, w)`` each -> ``(N, 2 * sum of c)``."""
    found = []
    for stage in maps:
        variance, mean = torch.var_mean(wide(stage), (2, 3), correction=0)
        found += [mean, variance.clamp_min(SMALLEST_VARIANCE).sqrt()]
    return torch.cat(found, 1)


def _normalised(x: Tensor, dtype: torch.dtype) -> Tensor:
    # A graph for any size can't prove how such maps lie in memory.
    layout = torch.preserve_format if in_graph() else torch.channels_last
    return ((x - MEAN) / STD).to(dtype, memory_format=layout)


def _in_tiles(step: Step, x: Tensor) -> Tensor:
    """A step of the network, in tiles where its maps would be too large."""
    largest = LARGEST if x.device.type == "cpu" else 64 * LARGEST
    if len(x) * x.shape[-2] * x.shape[-1] * step.width <= largest:
        return step.run(x)
    return in_tiles(x, step.run, step.stride, step.reach, math.isqrt(largest // step.width))


def _windows(cells: Tensor) -> Tensor:
    return F.avg_pool2d(cells, WINDOW, 1, WINDOW // 2, count_include_pad=False)
