"""Metrics with random weights: what they cost is what trained ones cost, and what they say means nothing.

Where this project is built, nothing can be downloaded. These metrics are for timings alone, and no name under which the
harness scores anything leads here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from grepq_metric import GRepQ

Metric = Callable[[Tensor], Tensor]
"""Images ``(N, 3, H, W)`` in [0, 1] -> a number for each."""


def grepq(pathways: list[str], **options: Any) -> GRepQ:
    """The model of some of the paper's pathways: the packaged low-level one, and CLIP's image tower with random values.

    Args:
        pathways: see `GRepQ`.
        options: of `GRepQ`.
    """
    model = GRepQ(pathways, name="untrained", dense="low" in pathways, **options).requires_grad_(False)
    packaged = GRepQ.from_pretrained("grepq-ll")
    if model.low is not None and packaged.low is not None:
        model.low.load_state_dict(packaged.low.state_dict())
    if model.high is not None:
        nn.init.normal_(model.high.text_features)
    return model


def clipiqa() -> Metric:
    """CLIP-IQA of pyiqa, on CLIP RN50."""
    from pyiqa.archs import clip_model, clipiqa_arch

    made = clip_model.CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12)
    with patch.object(clipiqa_arch, "load", lambda *_: made):
        return _still(clipiqa_arch.CLIPIQA())


def arniqa() -> Metric:
    """ARNIQA of pyiqa, on ResNet-50."""
    import torchvision.models
    from pyiqa.archs import arniqa_arch

    plain = torchvision.models.resnet50
    encoder = nn.Sequential(*list(plain().children())[:-1])
    state = {f"model.{key}": value for key, value in encoder.state_dict().items()}
    with (
        patch.object(torchvision.models, "resnet50", lambda **_: plain()),
        patch.object(torch.hub, "load_state_dict_from_url", lambda *_, **__: state),
        patch.object(arniqa_arch, "load_file_from_url", lambda *_, **__: ""),
        patch.object(torch.jit, "load", lambda *_, **__: nn.Linear(2 * 2048, 1)),
    ):
        return _still(arniqa_arch.ARNIQA())


def topiq_nr() -> Metric:
    """TOPIQ of pyiqa, on ResNet-50."""
    from pyiqa.archs.topiq_arch import CFANet

    options = {"semantic_model_name": "resnet50", "model_name": "cfanet_nr_koniq_res50", "use_ref": False}
    return _still(CFANet(**options, pretrained=False, backbone_pretrain=False))


def musiq() -> Metric:
    """MUSIQ of pyiqa."""
    from pyiqa.archs.musiq_arch import MUSIQ

    return _still(MUSIQ(pretrained=False))


def niqe() -> Metric:
    """NIQE of pyiqa, with the statistics of no photo."""
    import scipy.io
    from pyiqa.archs.niqe_arch import NIQE

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "niqe.mat"
        scipy.io.savemat(path, {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
        return _still(NIQE(pretrained_model_path=str(path)))


def brisque() -> Metric:
    """BRISQUE of pyiqa, with as many support vectors as it has."""
    from pyiqa.archs.brisque_arch import BRISQUE

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "brisque.pt"
        torch.save((torch.rand(774, 1), torch.rand(774, 36)), path)
        return _still(BRISQUE(pretrained_model_path=str(path)))


def piqe() -> Metric:
    """PIQE of pyiqa, which has no weights."""
    from pyiqa.archs.piqe_arch import PIQE

    return _still(PIQE())


PEERS: dict[str, Callable[[], Metric]] = {
    "clipiqa": clipiqa,
    "arniqa": arniqa,
    "topiq_nr": topiq_nr,
    "musiq": musiq,
    "niqe": niqe,
    "brisque": brisque,
    "piqe": piqe,
}
"""By pyiqa's names."""


def _still(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)
