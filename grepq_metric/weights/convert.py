"""The files that GRepQ's authors released -> the config and the tensors of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from grepq_metric.catalog import AUTHORS, AUTHORS_ORIGIN
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256
from grepq_metric.pathways import HighLevelPathway, LowLevelPathway
from grepq_metric.weights.clip import clip_checkpoint, high_level_tensors
from grepq_metric.weights.hub import HubOptions
from grepq_metric.weights.tensors import load_tensors, read_tensors

# The authors hold the network as a module and as a Sequential of its children: the position of each child in the latter.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def convert(
    low: str | Path | None = None,
    high: str | Path | None = None,
    pristine: str | Path | None = None,
    clip: str | None = None,
    name: str = AUTHORS.name,
    hub: HubOptions | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `GRepQ.from_parts` makes a model of, from the authors' files. The pathways are those whose files are given.

    Args:
        low: ``low_level_model_weights.tar``; needs `pristine`.
        high: ``high_level_model_weights.pth``; needs `clip`.
        pristine: ``pristine_patches_096_0.75_0.80.hdf5``.
        clip: a full CLIP RN50 in open_clip's layout, a file or a Hub repository, for the prompt vectors.
        name: name of the weights.
        hub: options of the Hub client.
        facts: more for the record of the weights, such as where the files were fetched.

    Returns:
        The config, and the tensors by name.

    Raises:
        FileNotFoundError: a file is not there.
        InputError: a file is missing that another one needs, or h5py is not installed.
        WeightsError: a file is not what the authors released; the message names the tensors.
    """
    for one, other, names in ((low, pristine, ("low", "pristine")), (high, clip, ("high", "clip"))):
        if (one is None) != (other is None):
            given, missing = names if other is None else names[::-1]
            raise InputError(f"{given} needs {missing} too")
    if low is None and high is None:
        raise InputError("nothing to convert: give low and pristine, high and clip, or all four")
    files = {"low": low, "high": high, "pristine": pristine}
    for path in files.values():
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {path}")
    provenance: dict[str, Any] = {
        "origin": AUTHORS_ORIGIN,
        "converted": datetime.now(timezone.utc).date().isoformat(),
        **{f"{key}_sha256": sha256(path) for key, path in files.items() if path is not None},
        **(facts or {}),
    }
    tensors: dict[str, Tensor] = {}
    if low is not None and pristine is not None:
        pathway = LowLevelPathway()
        load_tensors(pathway.encoder, _low_level_tensors(read_tensors(Path(low)), Path(low)), low)
        provenance["pristine_patches"] = pathway.eval().fit_pristine(_pristine_patches(Path(pristine)))
        tensors |= {f"low.{key}": value for key, value in pathway.state_dict().items()}
    if high is not None and clip is not None:
        clip_state, provenance["clip_sha256"] = clip_checkpoint(clip, hub)
        found = high_level_tensors(clip_state, clip, read_tensors(Path(high)))
        with torch.device("meta"):
            pathway_of_high = HighLevelPathway()
        load_tensors(pathway_of_high, found, high)
        tensors |= {f"high.{key}": value.float() if value.is_floating_point() else value for key, value in found.items()}
    pathways = [key for key in ("low", "high") if files[key] is not None]
    return {"pathways": pathways, "name": name, "provenance": provenance}, tensors


def _low_level_tensors(archive: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """The encoder's tensors under our names, after a check that the two copies in the file agree."""
    try:
        state = archive["model"]["state_dict"]
    except (KeyError, TypeError) as error:
        raise WeightsError(f'{source} has no ["model"]["state_dict"]: it is not low_level_model_weights.tar') from error
    tensors, foreign = {}, []
    for key, value in state.items():
        if key.startswith("encoder.base_model.fc."):
            continue
        if key.startswith("encoder.base_model."):
            tensors["backbone." + key.removeprefix("encoder.base_model.")] = value
        elif key.startswith("head."):
            tensors[key] = value
        elif not key.startswith("encoder.resnet18."):
            foreign.append(key)
    if foreign:
        raise WeightsError(f"{source} holds {len(foreign)} foreign tensors ({', '.join(sorted(foreign)[:3])}, ...)")
    for key, value in state.items():
        if key.startswith("encoder.resnet18."):
            index, _, rest = key.removeprefix("encoder.resnet18.").partition(".")
            twin = tensors.get(f"backbone.{_CHILDREN.get(index)}.{rest}")
            if twin is None or not torch.equal(twin, value):
                raise WeightsError(f"{source}: {key} differs from its copy under encoder.base_model")
    return tensors


def _pristine_patches(path: Path, batch: int = 256) -> Iterator[Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise InputError('reading HDF5 needs h5py: pip install "grepq-metric[convert]"') from error
    try:
        with h5py.File(path) as file:
            data = file["data"]
            if data.ndim != 4 or data.shape[1:] != (3, 96, 96):
                raise WeightsError(f'{path}: "data" has shape {data.shape}, expected (N, 3, 96, 96)')
            for start in tqdm(range(0, len(data), batch), desc="pristine patches", unit="batch", disable=None):
                patches = torch.from_numpy(data[start : start + batch])
                if not (patches.min() >= 0 and patches.max() <= 1):
                    raise WeightsError(f"{path} holds patches outside [0, 1] or NaN")
                yield patches
    except (OSError, KeyError) as error:
        raise WeightsError(f'cannot read "data" from {path}: {error}') from error
