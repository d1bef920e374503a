"""High-level pathway: CLIP's RN50 image tower read through two text prompts.

Method: GRepQ (WACV 2024, https://arxiv.org/abs/2312.04838).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from grepq_metric.errors import InputError

RN50 = {"layers": [3, 4, 6, 3], "width": 64, "output_dim": 1024}
"""Shape of the image tower of CLIP RN50: blocks of each stage, channels of the first, length of an embedding."""
PROMPTS = ("A good photo.", "A bad photo.")
"""The two prompts, in the order of the weights' text vectors."""
ARCHITECTURE = "RN50-quickgelu"
"""OpenAI's CLIP RN50 in open_clip's naming: its text tower uses QuickGELU."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class HighLevelPathway(nn.Module):
    """CLIP RN50's image tower g and the vectors of `PROMPTS` (the paper's high-level pathway).

    The attention pool works without its positional embedding, so that any image size will do, and with the mean token as
    its only query, since no other output is used.

    Args:
        logit_scale: multiple of the difference of cosines before the sigmoid.
        image_tower: shape of the tower, by default `RN50`; `image_tower_of` reads another one's from its weights.

    Attributes:
        text_features: ``(2, 1024)`` vectors of the good and the bad prompt.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, logit_scale: float = 10.0, image_tower: Mapping | None = None) -> None:
        super().__init__()
        if not logit_scale > 0:
            raise InputError(f"logit_scale must be positive, got {logit_scale}")
        shape = dict(image_tower or RN50)
        if set(shape) != set(RN50) or len(shape["layers"]) != 4:
            raise InputError(f"image_tower must be like {RN50}, got {image_tower}")
        self.logit_scale, self.image_tower = logit_scale, shape
        heads = shape["width"] // 2  # 64 of the 32 * width channels of the last stage for each
        self.visual = ModifiedResNet(**shape, heads=heads, image_size=224)
        del self.visual.attnpool.positional_embedding
        self.register_buffer("text_features", torch.full((2, shape["output_dim"]), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        """Embed images: ``(N, 3, H, W)`` RGB in [0, 1], sides of 32 pixels or more -> ``(N, 1024)``, not normalised."""
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        trunk = self.visual
        x = trunk.stem((x - mean) / std)
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            x = stage(x)
        return self._attention_pool(x)

    def _attention_pool(self, x: Tensor) -> Tensor:
        pool = self.visual.attnpool
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
            return torch.sigmoid(self.logit_scale * (good - bad))


def image_tower_of(visual: Mapping[str, Tensor]) -> dict:
    """Shape of an image tower, from its state dict in OpenAI's names.

    Raises:
        ValueError: it is no `ModifiedResNet`.
    """
    try:
        blocks = [{k.split(".")[1] for k in visual if k.startswith(f"layer{stage}.")} for stage in (1, 2, 3, 4)]
        return {
            "layers": [len(stage) for stage in blocks],
            "width": len(visual["layer1.0.conv1.weight"]),
            "output_dim": len(visual["attnpool.c_proj.weight"]),
        }
    except KeyError as error:
        raise InputError(f"not the image tower of a CLIP ResNet: {error} is missing") from error


@torch.inference_mode()
def prompt_features(clip_state: Mapping[str, Tensor]) -> Tensor:
    """Vectors of `PROMPTS`, from the state dict of a whole CLIP in open_clip's layout, with the text tower of OpenAI's CLIPs.

    Returns:
        ``(2, 1024)`` float32 unit vectors, for RN50.

    Raises:
        ValueError: tensors of the text tower are missing or of another shape.
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
