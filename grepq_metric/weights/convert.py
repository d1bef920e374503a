"""The files that GRepQ's authors released -> a weights folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from grepq_metric import weights as weights_files
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.model import GRepQ
from grepq_metric.training.pristine import write_statistics

# The authors hold the network as a module and as a Sequential of its children: the position of each child in the latter.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def convert(
    low: Path | None,
    high: Path | None,
    pristine: Path | None,
    clip: str | None,
    name: str = "grepq-authors",
    hub: dict | None = None,
) -> GRepQ:
    """Build a model from the authors' files. The pathways are those whose files are given.

    Args:
        low: ``low_level_model_weights.tar``; needs `pristine`.
        high: ``high_level_model_weights.pth``; needs `clip`.
        pristine: ``pristine_patches_096_0.75_0.80.hdf5``.
        clip: a full CLIP RN50 in open_clip's layout, a file or a Hub repository, for the prompt vectors.
        name: name of the weights.
        hub: options of the Hub client.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is missing that another one needs.
        WeightsError: a file is not what the authors released; the message names the tensors.
    """
    for first, second in ((("--low", low), ("--pristine", pristine)), (("--high", high), ("--clip", clip))):
        if (first[1] is None) != (second[1] is None):
            given, other = (first, second) if second[1] is None else (second, first)
            raise InputError(f"{given[0]} needs {other[0]} too")
    if low is None and high is None:
        raise InputError("nothing to convert: give --low and --pristine, --high and --clip, or all four")
    files = {"low": low, "high": high, "pristine": pristine}
    for path in files.values():
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {path}")
    provenance = {
        "origin": "converted from the files that GRepQ's authors released (https://github.com/suhas-srinath/GRepQ)",
        "converted": datetime.now(timezone.utc).date().isoformat(),
        **{f"{key}_sha256": weights_files.sha256(Path(path)) for key, path in files.items() if path is not None},
    }
    pathways = [key for key in ("low", "high") if files[key] is not None]
    model = GRepQ(pathways=pathways, name=name, provenance=provenance)
    if low is not None:
        state = weights_files.read_tensors(Path(low))
        weights_files.load_tensors(model.low.encoder, _low_level_tensors(state, low), low)
        model.provenance["pristine_patches"] = write_statistics(model.low, _pristine_patches(Path(pristine)))
    if high is not None:
        clip_state, clip_sha256 = weights_files.clip_checkpoint(clip, hub or {})
        tensors = weights_files.high_level_tensors(clip_state, clip, weights_files.read_tensors(Path(high)))
        weights_files.load_tensors(model.high, tensors, high)
        model.provenance["clip_sha256"] = clip_sha256
    return model


def _low_level_tensors(archive: Mapping, source: Path) -> dict[str, Tensor]:
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
        raise InputError("reading HDF5 needs h5py: pip install grepq-metric[convert]") from error
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
