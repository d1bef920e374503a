"""The metrics for ``torch.hub``: each function returns a module that scores ``(N, 3, H, W)`` RGB in [0, 1] -> ``(N, 1)``.

    metric = torch.hub.load(FOLDER, "grepq_ll", source="local")

FOLDER is a clone or an unpacked source distribution. Its package is the one that is loaded, unless another
``grepq_metric`` is imported already.
"""

from __future__ import annotations

from typing import Any as _Any  # torch.hub lists what is callable and begins with no underscore

import torch

dependencies = ["cv2", "huggingface_hub", "numpy", "open_clip", "PIL", "safetensors", "sklearn", "torch", "torchvision"]
"""Modules that torch.hub looks for before it calls a function; ``pip install FOLDER`` brings them."""


def _load(name: str, **options: _Any) -> torch.nn.Module:
    from grepq_metric import load_model  # not above, where a missing package would be told less clearly than by torch.hub

    return load_model(name, **options)


def grepq_sem(**options: _Any) -> torch.nn.Module:
    """``grepq-sem``, the default: the semantic pathway, ``(N, 1)`` in (0, 1), higher is better. No network.

    Args:
        options: as in `GRepQ.from_pretrained`, for example ``resolution=1024``. Errors, too, are as there.
    """
    return _load("grepq-sem", **options)


def grepq_lite(**options: _Any) -> torch.nn.Module:
    """``grepq-lite``: the low-level and the semantic pathway, ``(N, 1)`` in (0, 1.5), higher is better. No network.

    Args:
        options: as for `grepq_sem`.
    """
    return _load("grepq-lite", **options)


def grepq_ll(**options: _Any) -> torch.nn.Module:
    """``grepq-ll``: the low-level pathway, ``(N, 1)`` in (0, 0.5], higher is better. No network.

    Args:
        options: as for `grepq_sem`.
    """
    return _load("grepq-ll", **options)


def grepq_hl(**options: _Any) -> torch.nn.Module:
    """``grepq-hl``: the high-level pathway, ``(N, 1)`` in (0, 1), higher is better; OpenAI's CLIP, fetched at first use.

    It is not the network that GRepQ's authors fine-tuned, and a warning says so.

    Args:
        options: as for `grepq_sem`.
    """
    return _load("grepq-hl", **options)


def grepq(**options: _Any) -> torch.nn.Module:
    """``grepq``: the low-level and the high-level pathway, ``(N, 1)`` in (0, 1.5), higher is better; see `grepq_hl`.

    Args:
        options: as for `grepq_sem`.
    """
    return _load("grepq", **options)


def grepq_authors(**options: _Any) -> torch.nn.Module:
    """``grepq-authors``: the published method, ``(N, 1)`` in (0, 1.5), higher is better; ``grepq convert`` makes it first.

    Args:
        options: as for `grepq_sem`.
    """
    return _load("grepq-authors", **options)


def qfm_iqm(**options: _Any) -> torch.nn.Module:
    """``qfm-iqm``, our reading of QFM-IQM: ``(N, 1)`` in (0, 1), higher is better. No network.

    Args:
        options: as in `QFMIQM.from_pretrained`. Errors, too, are as there.
    """
    return _load("qfm-iqm", **options)
