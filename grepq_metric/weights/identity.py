"""The identity of weights: a name and a hash of everything that enters a score."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grepq_metric.errors import InputError

CONSTANTS = ("patch_size", "patch_stride", "ridge", "distance_scale", "logit_scale")
"""Constants of a config that enter a score."""
SHAPES = ("semantic", "decoder")
"""What a config says of networks: two with the same tensors may differ in what they do with them."""
DENSE = "low.dense."
"""How the names of tensors begin that only the dense mode needs; in its id they have a hash of their own."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: Any) -> str:
    """A name of weights, which also names folders and is printed.

    Raises:
        InputError: it is empty, longer than 100 characters, or holds anything but letters, digits, dot, underscore and hyphen.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"the name of weights must be letters, digits, '.', '_' and '-', 100 at most, the first no sign, got {name!r:.120}"
        )
    return name


def weights_id(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Name of the weights, a hash of their values (as float32) and of the constants that enter a score, and cheaper modes.

    Args:
        config: the content of ``config.json``, with all of `CONSTANTS` and `SHAPES` that the model has.
        tensors: the state dict of the whole model.

    Returns:
        For example ``grepq-ll-8690ed2c``, and ``grepq-ll-8690ed2c+bf16+dense-0123abcd+1024px`` in bfloat16, dense and at
        1,024 pixels.
    """
    digest, dense = hashlib.sha256(), hashlib.sha256()
    for key in (key for key in CONSTANTS if key in config):
        digest.update(f"{key}={_digits(config[key])};".encode())
    for key in (key for key in SHAPES if key in config):
        digest.update(f"{key}={json.dumps(config[key], sort_keys=True)};".encode())
    for key, value in sorted(tensors.items()):
        if value.is_floating_point():
            for part in (key.encode(), value.detach().to("cpu", torch.float32).contiguous().numpy().data):
                (dense if key.startswith(DENSE) else digest).update(part)
    precision, resolution = config.get("precision", "fp32"), config.get("resolution")
    modes = [] if precision == "fp32" else [precision]
    modes += [f"dense-{dense.hexdigest()[:8]}"] if config.get("speed") == "dense" else []
    modes += [] if resolution is None else [f"{resolution}px"]
    return "+".join([f"{config['name']}-{digest.hexdigest()[:8]}", *modes])


def _digits(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
