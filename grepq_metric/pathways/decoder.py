"""Decoder pathway, of `grepq_metric.models.qfm`: learned queries look at the tokens of a backbone and tell the quality.

QFM-IQM (arXiv 2312.06158) has one decoder layer behind a transformer, as DEIQT has; how it looks in detail is not public. This
is our reading of it, and every choice is named here or in `grepq_metric.training.qfm`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grepq_metric.errors import InputError
from grepq_metric.pathways.base import Pathway, check_number, wide
from grepq_metric.pathways.efficientnet import SCALES, STRIDES, EfficientNetLite
from grepq_metric.pathways.folding import Folding
from grepq_metric.pathways.semantic import ARCHITECTURE, SMALLEST_VARIANCE, WINDOW, stage_maps
from grepq_metric.pathways.timm_backbone import PREFIX, TimmBackbone

MOST = 8.0
"""Standard deviations at which a standardised token is cut off: no photo is to lead far out of what is known."""
_WIDER = 2


@dataclass(frozen=True)
class DecoderConfig:
    """Constants of the decoder pathway.

    Attributes:
        architecture: of the backbone: a key of `grepq_metric.pathways.efficientnet.SCALES`, or ``timm/`` and the name of a
            network of timm.
        stages: how many of the backbone's last maps make the tokens, on the grid of the last one.
        width: of the decoder.
        heads: of its attention; they divide `width`.
        queries: learned ones; each tells a quality, and the mean of their logits counts.
        members: decoders that were trained from different random values, of which the mean logit counts.

    Raises:
        InputError: a value is none of these.
    """

    architecture: str = ARCHITECTURE
    stages: int = 5
    width: int = 128
    heads: int = 4
    queries: int = 6
    members: int = 1

    def __post_init__(self) -> None:
        name = self.architecture
        if not isinstance(name, str) or not (name in SCALES or (name.startswith(PREFIX) and name != PREFIX)):
            raise InputError(f"architecture must be one of {', '.join(SCALES)}, or {PREFIX}NAME, got {name!r:.80}")
        check_number("stages", self.stages, 1, 64, whole=True)
        check_number("width", self.width, 1, 65536, whole=True)
        check_number("heads", self.heads, 1, self.width, whole=True)
        check_number("queries", self.queries, 1, 65536, whole=True)
        check_number("members", self.members, 1, 1024, whole=True)
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, {self.width}, got {self.heads}")


class DecoderPathway(Pathway):
    """Quality that a transformer's decoder reads from the cells of a backbone's maps.

    Args:
        config: the backbone and the decoder's shape.

    Attributes:
        backbone: the network.
        decoders: standardised tokens to logits, see `Decoder`; the members.
        mean: of each channel of a token over the training photos.
        scale: standard deviation of each channel there.
    """

    name: ClassVar[str] = "decoder"
    best: ClassVar[float] = 1.0
    kinds: ClassVar[tuple[str, ...]] = ("decoder",)
    mean: Tensor
    scale: Tensor
    decoders: nn.ModuleList

    def __init__(self, config: DecoderConfig | None = None) -> None:
        super().__init__(config or DecoderConfig())
        architecture = self.config.architecture
        self.backbone: EfficientNetLite | TimmBackbone = (
            TimmBackbone(architecture) if architecture.startswith(PREFIX) else EfficientNetLite(architecture)
        )
        self._fast = Folding()
        channels = self.backbone.channels[-self.config.stages :]
        if len(channels) < self.config.stages:
            raise InputError(f"stages must be {len(channels)} at most with {architecture}, got {self.config.stages}")
        width = 2 * sum(channels) - channels[-1]  # of every stage but the last, the deviation within a cell is a token's, too
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.renew()

    def renew(self, dropout: float = 0.0) -> None:
        """Make all members anew, with random values."""
        self.decoders = nn.ModuleList(Decoder(len(self.mean), self.config, dropout) for _ in range(self.config.members))

    def members(self) -> list[Decoder]:
        """The decoders."""
        return [decoder for decoder in self.decoders if isinstance(decoder, Decoder)]

    def parts(self, x: Tensor, *, patches: int | None = None, checkpoint: bool = True) -> dict[str, Tensor]:
        """``quality`` of images, ``(N,)``, see `Pathway.parts`; this pathway has no patches and keeps all activations."""
        return {"quality": torch.sigmoid(self.logits(self.tokens(x).flatten(2).mT))}

    def features(self, x: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        """See `Pathway.features`: ``decoder``: what the heads are given, mean over the queries, member by member."""
        if not {"decoder", "score"}.intersection(kinds):
            return {}
        read, logits = self.read(self.tokens(x).flatten(2).mT)
        found = {"decoder": read} if "decoder" in kinds else {}
        return found | ({"score": torch.sigmoid(logits)} if "score" in kinds else {})

    def logits(self, tokens: Tensor, outside: Tensor | None = None) -> Tensor:
        """Logits of the quality of tokens, ``(N,)``; arguments as for `read`."""
        return self.read(tokens, outside)[1]

    def read(self, tokens: Tensor, outside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the members make of tokens.

        Args:
            tokens: ``(N, T, C)``, not standardised.
            outside: ``(N, T)``, True for what is no token.

        Returns:
            What the heads are given, mean over the queries, member by member, ``(N, members * width)``, and logits, ``(N,)``.
        """
        tokens = self.standardised(tokens)
        read = [decoder.read(decoder.project(tokens), outside) for decoder in self.members()]
        logits = [decoder.judge(one) for decoder, one in zip(self.members(), read, strict=True)]
        return torch.cat([one.mean(1) for one in read], 1), torch.stack(logits).mean(0)

    def standardised(self, tokens: Tensor) -> Tensor:
        """Tokens ``(N, T, C)`` as the decoders take them."""
        with torch.autocast(tokens.device.type, enabled=False):
            return ((tokens - self.mean) / self.scale).clamp(-MOST, MOST).to(self.mean.dtype)

    def feature_blocks(self, kind: str) -> tuple[int, ...]:
        """See `Pathway.feature_blocks`: one of each member."""
        return {"decoder": (self.config.width,) * self.config.members}[kind]

    @property
    def stride(self) -> int:
        """Pixels of the side of a cell of the last map."""
        return self.backbone.stride if isinstance(self.backbone, TimmBackbone) else STRIDES[-1]

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps of which tokens are made, the coarsest last: ``(N, 3, H, W)`` in [0, 1] -> ``(N, c, h, w)`` each."""
        if isinstance(self.backbone, TimmBackbone):
            return self.backbone(x)[-self.config.stages :]
        return stage_maps(self.backbone, self._fast, x)[-self.config.stages :]

    def tokens(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] -> ``(N, C, h, w)``, a token for each cell of the last map, in float32 at least.

        A token holds the mean of each map in its cell and, but for the last map, which has one value there, the deviation.
        """
        maps = [wide(stage) for stage in self.maps(x)]
        last, found = maps[-1], []
        rows, columns = last.shape[-2:]
        for stage in maps[:-1]:
            mean, square = (F.adaptive_avg_pool2d(value, (rows, columns)) for value in (stage, stage.square()))
            found += [mean, (square - mean.square()).clamp_min(SMALLEST_VARIANCE).sqrt()]
        return torch.cat([*found, last], 1)

    def quality_map(self, x: Tensor) -> Tensor:
        """Quality of each cell, by the tokens of its neighbourhood: ``(N, 3, H, W)`` -> ``(N, 1, h, w)`` in (0, 1).

        The decoder sees windows of 3 x 3 cells, as far as they lie in the image, in place of the whole of it.
        """
        tokens = self.tokens(x)
        count, _, rows, columns = tokens.shape
        outside = F.unfold(tokens.new_ones(1, 1, rows, columns), WINDOW, padding=WINDOW // 2)[0].mT == 0
        windows = F.unfold(tokens, WINDOW, padding=WINDOW // 2).unflatten(1, (-1, WINDOW**2))
        logits = self.logits(windows.permute(0, 3, 2, 1).flatten(0, 1), outside.repeat(count, 1))
        return torch.sigmoid(logits).view(count, 1, rows, columns)

    def check(self) -> None:
        """See `Pathway.check`: the heads have values."""
        if any(bool(decoder.head.bias.isnan().any()) for decoder in self.members()):
            raise InputError("the model has no weights: load some with QFMIQM.from_pretrained")


class Decoder(nn.Module):
    """One layer of a transformer's decoder with learned queries, and a regression head.

    Args:
        channels: of a token.
        config: its shape.
        dropout: in training.
    """

    def __init__(self, channels: int, config: DecoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.queries = nn.Parameter(0.02 * torch.randn(config.queries, config.width))
        self.layer = nn.TransformerDecoderLayer(
            config.width, config.heads, _WIDER * config.width, dropout, batch_first=True, norm_first=True
        )
        self.last_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 1)
        nn.init.constant_(self.head.bias, torch.nan)  # until weights are loaded

    def project(self, tokens: Tensor) -> Tensor:
        """Standardised tokens as the layer takes them: ``(N, T, C)`` -> ``(N, T, width)``."""
        with torch.autocast(tokens.device.type, enabled=False):
            return self.norm(self.embed(tokens))

    def read(self, projected: Tensor, outside: Tensor | None = None) -> Tensor:
        """What each query finds: ``(N, T, width)`` -> ``(N, queries, width)``.

        Args:
            projected: see `project`.
            outside: ``(N, T)``, True for what is no token.
        """
        with torch.autocast(projected.device.type, enabled=False):
            queries = self.queries.expand(len(projected), -1, -1)
            return self.last_norm(self.layer(queries, projected, memory_key_padding_mask=outside))

    def judge(self, read: Tensor) -> Tensor:
        """Logits of the quality of what queries find: ``(N, queries, width)`` -> ``(N,)``."""
        with torch.autocast(read.device.type, enabled=False):
            return wide(self.head(read)).mean((1, 2))
