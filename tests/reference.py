"""The method's formulas in plain PyTorch, written from the papers and not from the package: what fidelity is tested against.

All of it is differentiable, and float64 where its tensors are. `w` is always the state dict of a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from grepq_metric import GRepQ
    from grepq_metric.pathways import DecoderPathway, LowLevelPathway, SemanticPathway

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def batch_norm(x: Tensor, w: Mapping[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    """Batch normalisation with running statistics."""
    shape = (1, -1, 1, 1)
    scale = w[f"{name}.weight"] / torch.sqrt(w[f"{name}.running_var"] + eps)
    return (x - w[f"{name}.running_mean"].view(shape)) * scale.view(shape) + w[f"{name}.bias"].view(shape)


def reference_encoder(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """ResNet-18 and its head, written from He et al.'s table: ``(N, 3, H, W)`` -> ``(N, 128)``."""
    x = F.relu(batch_norm(F.conv2d(x, w["backbone.conv1.weight"], stride=2, padding=3), w, "backbone.bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"backbone.layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(batch_norm(F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1), w, f"{name}.bn1"))
            y = batch_norm(F.conv2d(y, w[f"{name}.conv2.weight"], padding=1), w, f"{name}.bn2")
            if f"{name}.downsample.0.weight" in w:
                x = batch_norm(F.conv2d(x, w[f"{name}.downsample.0.weight"], stride=stride), w, f"{name}.downsample.1")
            x = F.relu(x + y)
    x = x.mean((2, 3))
    x = F.relu(x @ w["head.0.weight"].T + w["head.0.bias"])
    return x @ w["head.2.weight"].T + w["head.2.bias"]


def encoder_values(low: LowLevelPathway) -> dict[str, Tensor]:
    """Values of the encoder of a low-level pathway in float64."""
    return {k: v.double() for k, v in low.encoder.state_dict().items()}


def reference_patches(image: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """Features of patches of 96 pixels, 48 apart: ``(1, 3, H, W)`` -> ``(P, 128)``."""
    _, _, height, width = image.shape
    return torch.cat(
        [
            reference_encoder(image[..., top : top + 96, left : left + 96], w)
            for top in range(0, height - 95, 48)
            for left in range(0, width - 95, 48)
        ]
    )


def reference_distance(image: Tensor, w: Mapping[str, Tensor], mean_p: Tensor, cov_p: Tensor) -> Tensor:
    """NIQE's distance on learned features, patch by patch, with an explicit inverse: a scalar."""
    z = reference_patches(image, w)
    mean = z.mean(0)
    cov = torch.stack([torch.outer(v - mean, v - mean) for v in z]).sum(0) / max(len(z) - 1, 1)
    delta = mean_p - mean
    inverse = torch.linalg.inv((cov_p + cov) / 2 + 0.001 * torch.eye(128, dtype=torch.float64))
    return torch.sqrt(delta @ inverse @ delta)


def reference_low(low: LowLevelPathway, image: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and Q_L of one image from the formulas, in float64, with the values of a pathway."""
    d = reference_distance(image.double(), encoder_values(low), low.pristine_mean, low.pristine_cov)
    return d, 1 - 1 / (1 + torch.exp(-d / low.config.distance_scale))


def reference_clip(image: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """CLIP's modified ResNet-50 and its attention pool without positional embedding: ``(1, 3, H, W)`` -> ``(1024,)``."""
    x = (image - torch.tensor(CLIP_MEAN).double().view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).double().view(1, 3, 1, 1)
    for i, stride in ((1, 2), (2, 1), (3, 1)):
        x = F.relu(batch_norm(F.conv2d(x, w[f"conv{i}.weight"], stride=stride, padding=1), w, f"bn{i}"))
    x = F.avg_pool2d(x, 2)
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(batch_norm(F.conv2d(x, w[f"{name}.conv1.weight"]), w, f"{name}.bn1"))
            y = F.relu(batch_norm(F.conv2d(y, w[f"{name}.conv2.weight"], padding=1), w, f"{name}.bn2"))
            y = batch_norm(F.conv2d(F.avg_pool2d(y, stride), w[f"{name}.conv3.weight"]), w, f"{name}.bn3")
            if f"{name}.downsample.0.weight" in w:
                shortcut = F.conv2d(F.avg_pool2d(x, stride), w[f"{name}.downsample.0.weight"])
                x = batch_norm(shortcut, w, f"{name}.downsample.1")
            x = F.relu(x + y)
    tokens = x[0].flatten(1).T
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens])
    q, k, v = (tokens @ w[f"attnpool.{p}_proj.weight"].T + w[f"attnpool.{p}_proj.bias"] for p in "qkv")
    heads = []
    for head in range(32):
        part = slice(64 * head, 64 * head + 64)
        attention = torch.softmax(q[0, part] @ k[:, part].T / math.sqrt(64), dim=0)
        heads.append(attention @ v[:, part])
    return torch.cat(heads) @ w["attnpool.c_proj.weight"].T + w["attnpool.c_proj.bias"]


EFFICIENTNET_LITE = ((1, 1), (6, 2), (6, 2), (6, 2), (6, 1), (6, 2), (6, 1))
"""Of each group of blocks: by how much it widens its input, and the stride of its first block."""
STAGE_ENDS = (0, 1, 2, 4, 6)
"""Groups after which the resolution is halved, or the network ends."""


def same_convolution(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution with TensorFlow's padding: ceil(side / stride) outputs, and the odd pixel at the right and the bottom."""
    kernel, padding = weight.shape[-1], []
    for side in (x.shape[3], x.shape[2]):
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        padding += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)


def reference_maps(image: Tensor, w: Mapping[str, Tensor]) -> list[Tensor]:
    """Maps of EfficientNet-Lite (Tan and Le's blocks, ReLU6, no squeeze-and-excitation) at the end of each stage."""

    def norm(x: Tensor, name: str, active: bool = True) -> Tensor:
        x = batch_norm(x, w, name, eps=1e-3)
        return x.clamp(0, 6) if active else x

    x = norm(same_convolution((image - 0.5) / 0.5, w["conv_stem.weight"], 2), "bn1")
    maps = []
    for group, (widening, stride) in enumerate(EFFICIENTNET_LITE):
        for block in range(len({k.split(".")[2] for k in w if k.startswith(f"blocks.{group}.")})):
            name, step, y, number = f"blocks.{group}.{block}", stride if block == 0 else 1, x, 1
            if widening > 1:
                y = norm(F.conv2d(y, w[f"{name}.conv_pw.weight"]), f"{name}.bn1")
                number = 2
            y = norm(same_convolution(y, w[f"{name}.conv_dw.weight"], step, groups=y.shape[1]), f"{name}.bn{number}")
            last = w[f"{name}.conv_pwl.weight" if widening > 1 else f"{name}.conv_pw.weight"]
            y = norm(F.conv2d(y, last), f"{name}.bn{number + 1}", active=False)
            x = x + y if step == 1 and x.shape == y.shape else y
        if group in STAGE_ENDS:
            maps.append(x)
    return maps


def reference_moments(image: Tensor, semantic: SemanticPathway) -> Tensor:
    """Mean and standard deviation of each map of one image, with the values of a pathway, in float64: ``(C,)``."""
    w = {k: v.double() for k, v in semantic.backbone.state_dict().items()}
    numbers = [x[0].flatten(1) for x in reference_maps(image.double(), w)]
    return torch.cat([part for x in numbers for part in (x.mean(1), x.var(1, correction=0).clamp_min(1e-10).sqrt())])


def reference_semantic(semantic: SemanticPathway, image: Tensor) -> Tensor:
    """Q_S of one image from the formulas, in float64, with the values of a pathway whose head is linear."""
    w = {k: v.double() for k, v in semantic.head.state_dict().items()}
    assert set(w) == {"0.weight", "0.bias"}
    return 1 / (1 + torch.exp(-(w["0.weight"][0] @ reference_moments(image, semantic) + w["0.bias"][0])))


def reference_decoder(pathway: DecoderPathway, image: Tensor) -> Tensor:
    """Q of one image from the formulas, in float64, with the values of a pathway on EfficientNet-Lite."""
    w = {k: v.double() for k, v in pathway.state_dict().items()}
    backbone = {k.removeprefix("backbone."): v for k, v in w.items() if k.startswith("backbone.")}
    maps = reference_maps(image.double(), backbone)
    rows, columns = maps[-1].shape[-2:]
    tokens = []
    for i in range(rows):
        for j in range(columns):
            token = []
            for x in maps[:-1]:
                height, width = x.shape[-2:]
                top, bottom = i * height // rows, math.ceil((i + 1) * height / rows)
                left, right = j * width // columns, math.ceil((j + 1) * width / columns)
                cell = x[0, :, top:bottom, left:right].flatten(1)
                token += [cell.mean(1), cell.var(1, correction=0).clamp_min(1e-10).sqrt()]
            tokens.append(torch.cat([*token, maps[-1][0, :, i, j]]))
    z = ((torch.stack(tokens) - w["mean"]) / w["scale"]).clamp(-8, 8)
    logits = [
        _member(pathway, {k.removeprefix(f"decoders.{m}."): v for k, v in w.items()}, z) for m in range(len(pathway.decoders))
    ]
    return 1 / (1 + torch.exp(-torch.stack(logits).mean()))


def _member(pathway: DecoderPathway, w: Mapping[str, Tensor], z: Tensor) -> Tensor:
    width, heads = pathway.config.width, pathway.config.heads

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attention(x: Tensor, y: Tensor, name: str) -> Tensor:
        weights, biases = w[f"{name}.in_proj_weight"].chunk(3), w[f"{name}.in_proj_bias"].chunk(3)
        q, k, v = (part @ weight.T + bias for part, weight, bias in zip((x, y, y), weights, biases, strict=True))
        side, found = width // heads, []
        for head in range(heads):
            part = slice(head * side, (head + 1) * side)
            found.append(torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(side), dim=1) @ v[:, part])
        return linear(torch.cat(found, 1), f"{name}.out_proj")

    memory, x = norm(linear(z, "embed"), "norm"), w["queries"]
    own = norm(x, "layer.norm1")
    x = x + attention(own, own, "layer.self_attn")
    x = x + attention(norm(x, "layer.norm2"), memory, "layer.multihead_attn")
    x = x + linear(linear(norm(x, "layer.norm3"), "layer.linear1").clamp_min(0), "layer.linear2")
    return linear(norm(x, "last_norm"), "head").mean()


def reference_score(model: GRepQ, image: Tensor) -> Tensor:
    """The score of one image from the formulas: the sum of what its pathways give, without the high-level one."""
    assert model.high is None
    score = torch.zeros((), dtype=torch.float64)
    if model.low is not None:
        score = score + reference_low(model.low, image)[1]
    if model.semantic is not None:
        score = score + reference_semantic(model.semantic, image)
    return score


def reference(model: GRepQ, image: Tensor) -> dict[str, Tensor]:
    """All numbers of one image from the formulas, in float64, with the values of a model of the paper's two pathways."""
    image = image.double()
    assert model.low is not None
    assert model.high is not None
    d, q_low = reference_low(model.low, image)
    g = reference_clip(image, {k: v.double() for k, v in model.high.visual.state_dict().items()})
    good, bad = (F.cosine_similarity(g, t.double(), dim=0) for t in model.high.text_features)
    q_high = 1 / (1 + torch.exp(-10 * (good - bad)))
    features = torch.cat([g, reference_encoder(image, encoder_values(model.low))[0]])
    return {"distance": d, "low": q_low, "high": q_high, "score": q_low + q_high, "features": features}
