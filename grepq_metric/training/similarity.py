"""FSIM between all versions of one content, and the contrastive weights made of it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pyiqa.archs.fsim_arch import _phase_congruency
from pyiqa.archs.func_util import gradient_map, similarity_map
from pyiqa.utils.color_util import rgb2yiq
from torch import Tensor


@torch.inference_mode()
def pairwise_fsim(versions: Tensor, chromatic: bool = False) -> Tensor:
    """FSIM between every two versions of one content.

    Equals ``pyiqa.archs.fsim_arch.fsim`` on each pair, but computes the phase congruency, nearly all of the cost, once for
    each version and not once for each pair.

    Args:
        versions: ``(D, 3, H, W)`` RGB in [0, 1].
        chromatic: FSIMc, which also compares the chroma channels.

    Returns:
        ``(D, D)`` symmetric similarities, 1 on the diagonal.
    """
    x = versions * 255
    x = F.avg_pool2d(x, max(1, round(min(x.shape[-2:]) / 256)))
    yiq = rgb2yiq(x)
    scharr = torch.tensor([[[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]]) / 16
    gradient = gradient_map(yiq[:, :1], torch.stack([scharr, scharr.mT]))
    congruency = _phase_congruency(yiq[:, :1])
    similarity = torch.ones(len(x), len(x))
    for k in range(len(x) - 1):
        rest = slice(k + 1, None)
        importance = torch.maximum(congruency[k : k + 1], congruency[rest])
        local = importance * similarity_map(congruency[k : k + 1], congruency[rest], 0.85)
        local = local * similarity_map(gradient[k : k + 1], gradient[rest], 160)
        if chromatic:
            chroma = similarity_map(yiq[k : k + 1, 1:], yiq[rest, 1:], torch.tensor([200.0, 200.0]).view(1, 2, 1, 1))
            local = local * chroma.prod(1, keepdim=True).abs() ** 0.03
        value = local.sum((1, 2, 3)) / importance.sum((1, 2, 3))
        similarity[k, rest] = similarity[rest, k] = value
    return similarity


def contrastive_weights(similarity: Tensor | np.ndarray, power: float = 1.0):
    """Weights a = (2 - 2 / (1 + s^2))^power of FSIM values s, in [0, 1] for s in [0, 1].

    The paper's have a power of 1 (low-level pathway); a larger one tells apart versions that FSIM finds alike.
    """
    return (2 - 2 / (1 + similarity**2)) ** power
