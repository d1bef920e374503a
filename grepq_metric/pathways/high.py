"""High-level pathway: CLIP's RN50 image tower read through two text prompts.

Method: GRepQ (WACV 2024, https://arxiv.org/abs/2312.04838).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.pathways.base import Pathway, check_number
from grepq_metric.pathways.folding import Folding

PROMPTS = ("A good photo.", "A bad photo.")
"""The two prompts, in the order of the weights' text vectors."""
ARCHITECTURE = "RN50-quickgelu"
"""OpenAI's CLIP RN50 in open_clip's naming: its text tower uses QuickGELU."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageTower:
    """Shape of CLIP's ResNet image tower, by default that of RN50.

    Attributes:
        layers: blocks of each of the four stages.
        width: channels of the first stage, a multiple of 2.
        output_dim: length of an embedding.

    Raises:
        InputError: a value is out of its range.
    """

    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    output_dim: int = 1024

    def __post_init__(self) -> None:
        if not isinstance(self.layers, (list, tuple)) or len(self.layers) != 4:
            raise InputError(f"layers of an image tower must be four numbers of blocks, got {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))
        for blocks in self.layers:
            check_number("layers", blocks, 1, 64, whole=True)
        check_number("width", self.width, 2, 512, whole=True)
        check_number("output_dim", self.output_dim, 1, 8192, whole=True)


@dataclass(frozen=True)
class HighLevelConfig:
    """Constants of the high-level pathway that enter a score.

    Attributes:
        logit_scale: multiple of the difference of cosines before the sigmoid.
        image_tower: shape of the image tower.

    Raises:
        InputError: a value is out of its range.
    """

    logit_scale: float = 10.0
    image_tower: ImageTower = field(default_factory=ImageTower)

    def __post_init__(self) -> None:
        check_number("logit_scale", self.logit_scale, 1e-6, 1e6)


class HighLevelPathway(Pathway):
    """CLIP RN50's image tower g and the vectors of `PROMPTS` (the paper's high-level pathway).

    The attention pool works without its positional embedding, so that any image size will do, and with the mean token as
    its only query, since no other output is used.

    Args:
        config: the constants that enter a score, and the shape of the tower.

    Attributes:
        visual: the image tower.
        text_features: ``(2, 1024)`` vectors of the good and the bad prompt.
    """

    name: ClassVar[str] = "high"
    best: ClassVar[float] = 1.0
    kinds: ClassVar[tuple[str, ...]] = ("clip",)
    text_features: Tensor

    def __init__(self, config: HighLevelConfig | None = None) -> None:
        # Here, since a metric without this pathway need not wait for open_clip.
        from open_clip.modified_resnet import ModifiedResNet

        super().__init__(config or HighLevelConfig())
        tower: ImageTower = self.config.image_tower
        heads = tower.width // 2  # 64 of the 32 * width channels of the last stage for each
        self.visual = ModifiedResNet(list(tower.layers), tower.output_dim, heads, image_size=224, width=tower.width)
        del self.visual.attnpool.positional_embedding
        self._fast = Folding()
        self.register_buffer("text_features", torch.full((2, tower.output_dim), torch.nan))

    def parts(self, x: Tensor, *, patches: int | None = None, checkpoint: bool = True) -> dict[str, Tensor]:
        """``quality`` of images, ``(N,)``, see `Pathway.parts`; this pathway has no patches and keeps all activations."""
        return {"quality": self.quality(self(x))}

    def features(self, x: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        """See `Pathway.features`: ``clip``: CLIP's embedding of the whole image, ``(N, 1024)``."""
        if not {"clip", "score"}.intersection(kinds):
            return {}
        embedding = self(x)
        found = {"clip": embedding} if "clip" in kinds else {}
        return found | ({"score": self.quality(embedding)} if "score" in kinds else {})

    def feature_blocks(self, kind: str) -> tuple[int, ...]:
        """See `Pathway.feature_blocks`."""
        return {"clip": (self.config.image_tower.output_dim,)}[kind]

    def check(self) -> None:
        """See `Pathway.check`: there are vectors of both prompts."""
        if self.text_features.isnan().any():
            raise InputError("the model has no weights: load some with GRepQ.from_pretrained")
        if not bool((self.text_features.norm(dim=1) > 0).all()):
            raise WeightsError("high.text_features holds a vector of length 0, expected two prompt vectors")

    def forward(self, x: Tensor) -> Tensor:
        """Embed images: ``(N, 3, H, W)`` RGB in [0, 1], sides of 32 pixels or more -> ``(N, 1024)``, not normalised."""
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        trunk, dtype = self._fast(self.visual, x)
        x = trunk.stem(((x - mean) / std).to(dtype, memory_format=torch.channels_last))
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            x = stage(x)
        return self._attention_pool(trunk.attnpool, x)

    def _attention_pool(self, pool: Any, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        query = tokens.mean(1, keepdim=True)
        tokens = torch.cat([query, tokens], dim=1)
        q, k, v = (
            proj(t).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for proj, t in ((pool.q_proj, query), (pool.k_proj, tokens), (pool.v_proj, tokens))
        )
        return pool.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))

    def quality(self, embedding: Tensor) -> Tensor:
        """Q_H = sigmoid(10 (cos to the good prompt - cos to the bad one)): ``(N, 1024)`` -> ``(N,)`` in (0, 1)."""
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
            text = F.normalize(self.text_features.to(embedding.dtype), dim=-1)
            good, bad = (F.normalize(embedding, dim=-1) @ text.mT).unbind(-1)
            return torch.sigmoid(self.config.logit_scale * (good - bad))


def image_tower_of(visual: Mapping[str, Tensor]) -> ImageTower:
    """Shape of an image tower, from its state dict in OpenAI's names.

    Raises:
        InputError: it is no `ModifiedResNet`, or larger than any CLIP.
    """
    try:
        blocks = [{k.split(".")[1] for k in visual if k.startswith(f"layer{stage}.")} for stage in (1, 2, 3, 4)]
        return ImageTower(
            layers=tuple(len(stage) for stage in blocks),
            width=len(visual["layer1.0.conv1.weight"]),
            output_dim=len(visual["attnpool.c_proj.weight"]),
        )
    except KeyError as error:
        raise InputError(f"not the image tower of a CLIP ResNet: {error} is missing") from error


@torch.inference_mode()
def prompt_features(clip_state: Mapping[str, Tensor]) -> Tensor:
    """Vectors of `PROMPTS`, from the state dict of a whole CLIP in open_clip's layout, with the text tower of OpenAI's CLIPs.

    Returns:
        ``(2, 1024)`` float32 unit vectors, for RN50.

    Raises:
        InputError: tensors of the text tower are missing or of another shape.
    """
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    text = {key: value for key, value in clip_state.items() if not key.startswith("visual.")}
    try:
        vocabulary, width = text["token_embedding.weight"].shape
        config = CLIPTextCfg(
            context_length=len(text["positional_embedding"]),
            vocab_size=vocabulary,
            width=width,
            heads=max(width // 64, 1),
            layers=len({key.split(".")[2] for key in text if key.startswith("transformer.resblocks.")}),
        )
        size = text["text_projection"].shape[1]
    except KeyError as error:
        raise InputError(f"not a full CLIP checkpoint: {error} is missing") from error
    # The image tower is not used here: the smallest one.
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=16)
    clip = open_clip.CLIP(size, vision, config, quick_gelu=True).eval()
    expected = {key: value for key, value in clip.state_dict().items() if not key.startswith("visual.")}
    missing = sorted(set(expected) - set(text))
    wrong = sorted(key for key in set(expected) & set(text) if expected[key].shape != text[key].shape)
    if missing or wrong:
        raise InputError(f"not a full CLIP checkpoint: missing {missing[:5]}, of another shape {wrong[:5]}")
    clip.load_state_dict({**clip.state_dict(), **text}, strict=False)
    tokenizer = open_clip.get_tokenizer(ARCHITECTURE)
    return clip.encode_text(tokenizer(list(PROMPTS), context_length=config.context_length), normalize=True).clone()
