"""Whole CLIP checkpoints -> tensors of the high-level pathway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from grepq_metric.catalog import CLIP_RN50, HubFile
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256
from grepq_metric.pathways.high import prompt_features
from grepq_metric.weights.hub import REPOSITORY, HubOptions, fetch
from grepq_metric.weights.tensors import read_tensors


def clip_checkpoint(source: str, hub: HubOptions | None = None) -> tuple[dict[str, Tensor], str]:
    """A whole CLIP ResNet in open_clip's layout.

    Args:
        source: a file, or a Hub repository ``user/name`` that holds ``open_clip_model.safetensors``.
        hub: options of the Hub client.

    Returns:
        Its state dict, and the SHA-256 of the file.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file is damaged, or the repository can't be had.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if path.suffix in (".pt", ".pth", ".bin", ".safetensors") or not REPOSITORY.fullmatch(source):
            raise FileNotFoundError(f"no CLIP checkpoint at {path}")
        path = fetch(source, CLIP_RN50.name, hub or HubOptions())
    return read_tensors(path), sha256(path)


def pinned_clip(clip: HubFile, hub: HubOptions | None = None) -> Path:
    """The file of a CLIP that the catalog pins, from the Hub or its cache. Raises as `fetch`."""
    return fetch(clip.repository, clip.name, replace(hub or HubOptions(), revision=clip.revision), expected=clip.sha256)


def high_level_tensors(
    clip_state: Mapping[str, Tensor], source: str | Path, visual: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Tensors of `HighLevelPathway`: the prompt vectors of a whole CLIP and its image tower, or another tower in its place.

    Args:
        clip_state: state dict of the whole CLIP, as `clip_checkpoint` reads it.
        source: where it is from, for messages.
        visual: state dict of the other tower, in OpenAI's names.

    Raises:
        WeightsError: the text tower is not whole.
    """
    if visual is None:
        visual = {k.removeprefix("visual."): v for k, v in clip_state.items() if k.startswith("visual.")}
    tensors = {f"visual.{k}": v for k, v in visual.items() if k != "attnpool.positional_embedding"}
    try:
        return {**tensors, "text_features": prompt_features(clip_state)}
    except InputError as error:
        raise WeightsError(f"{source}: {error}") from error
