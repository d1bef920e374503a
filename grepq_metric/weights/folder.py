"""A weights folder: ``config.json``, ``model.safetensors`` and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import whole_folder
from grepq_metric.weights.card import CARD_MARK
from grepq_metric.weights.identity import check_name
from grepq_metric.weights.tensors import read_tensors

CONFIG = "config.json"
TENSORS = "model.safetensors"
CARD = "README.md"
MOST_CONFIG = 1 << 20
"""Bytes of a config that are read at most; real ones have a few thousand."""
_EXACT = (
    *("low.pristine_", "low.dense.pristine_", "semantic.head.", "high.text_features"),
    *("decoder.mean", "decoder.scale"),
)
"""How the names of tensors begin that keep their precision on disk."""


def read_folder(location: Path) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Read a weights folder, or the safetensors file in one.

    Returns:
        The config, the tensors by name, and the safetensors file.

    Raises:
        FileNotFoundError: one of the two files is not there.
        WeightsError: one of them is damaged or something else.
    """
    file = location / TENSORS if location.is_dir() else location
    config_file = file.with_name(CONFIG)
    for path in (file, config_file):
        if not path.exists():
            raise FileNotFoundError(f"no {path.name} in {path.parent}: a weights folder holds {CONFIG} and {TENSORS}")
    return read_config(config_file), read_tensors(file), file


def read_config(path: Path) -> dict[str, Any]:
    """Read and check ``config.json``, but for the ranges of its constants.

    Raises:
        WeightsError: it is no config of GRepQ weights; the message says what is wrong.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_CONFIG + 1)
        if len(data) > MOST_CONFIG:
            raise InputError(f"it has more than {MOST_CONFIG} bytes")
        config = json.loads(data.decode("utf-8"))
        if not isinstance(config, dict) or "pathways" not in config:
            raise InputError("it names no pathways")
        pathways, provenance = config["pathways"], config.get("provenance", {})
        if not isinstance(pathways, list) or not all(isinstance(p, str) for p in pathways):
            raise InputError(f"pathways must be a list of names, got {pathways!r:.80}")
        if not isinstance(provenance, dict):
            raise InputError(f"provenance must be a table of facts, got {provenance!r:.80}")
        check_name(config.get("name", "grepq"))
    except (ValueError, RecursionError, OSError) as error:  # of JSON and of UTF-8, too
        raise WeightsError(f"{path} is not a config of GRepQ weights: {error}") from error
    return config


def write_folder(folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    """Write a weights folder, whole or not at all. A model card that somebody else wrote stays.

    Args:
        folder: where to; what is there is replaced only after all has been written.
        config: the content of ``config.json``; its ``storage`` is the floating-point type on disk. Pristine statistics,
            heads and text vectors keep their precision.
        tensors: by name.
        card: the model card.

    Raises:
        WeightsError: a value does not fit into the type, or the folder can't be written; what was there stays.
    """
    folder = Path(folder)
    storage = getattr(torch, config["storage"])
    stored = {}
    for key, value in tensors.items():
        if value.is_floating_point() and not key.startswith(_EXACT):
            value = value.to(storage)
            if not value.isfinite().all():
                raise WeightsError(f"{key} does not fit into {config['storage']}")
        stored[key] = value.detach().cpu().contiguous()
    try:
        with whole_folder(folder) as staging:
            save_file(stored, staging / TENSORS, metadata={"format": "pt"})
            (staging / TENSORS).chmod(0o644)  # safetensors makes it private, but an installed package is read by others
            (staging / CONFIG).write_text(json.dumps(config, sort_keys=True, indent=2))
            own = folder / CARD
            if not own.exists() or CARD_MARK in own.read_text(encoding="utf-8", errors="replace"):
                (staging / CARD).write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        message = str(error) if str(folder) in str(error) else f"cannot write {folder}: {error}"
        raise WeightsError(message) from error
