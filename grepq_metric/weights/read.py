"""What weights hold, wherever they are: built-in names, folders, the Hub, and what is assembled from CLIP."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

import huggingface_hub.constants
from torch import Tensor

from grepq_metric import catalog
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256
from grepq_metric.pathways import LowLevelConfig
from grepq_metric.weights import card
from grepq_metric.weights.authors import read_converted
from grepq_metric.weights.clip import high_level_tensors, pinned_clip
from grepq_metric.weights.folder import CONFIG, TENSORS, read_config, read_folder, write_folder
from grepq_metric.weights.hub import REPOSITORY, HubOptions, fetch, remove_from_cache
from grepq_metric.weights.identity import weights_id
from grepq_metric.weights.tensors import read_tensors

LOGIT_SCALE = 10.0
"""Of the high-level pathway that is assembled from CLIP (method, section 2)."""


def read_weights(weights: str | Path, hub: HubOptions) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Find and read weights, downloaded and assembled where needed. Errors as in `from_pretrained`.

    Returns:
        The config, the tensors by name, and the file that they are from; of several files, the first.
    """
    if not isinstance(weights, (str, Path)) or not str(weights).strip():
        raise InputError(f"expected the name, folder or Hub repository of weights, got {weights!r}")
    name = str(weights)
    entry = catalog.find(weights) if isinstance(weights, str) else None
    if entry is None:
        return _with_backbone(*read_folder(_located(weights, hub)))
    if hub.revision is not None and (entry.clip is None or name == entry.tag):
        raise InputError(f"{name} has one revision for ever, expected no revision, got {hub.revision!r}")
    if entry.released is not None:
        return read_converted()
    if entry.hub:
        return _with_backbone(*read_folder(_pinned(entry.hub, hub)))
    return _with_backbone(*_joined(entry)) if entry.clip is None else read_folder(_assembled(entry, entry.clip, hub))


def packaged_backbone(tag: str) -> dict[str, Tensor]:
    """Values of the backbone of the semantic pathway of built-in weights, by the names of its tensors.

    Raises:
        WeightsError: this release has no such weights.
    """
    entry = catalog.find(tag) if tag in catalog.backbones() else None
    if entry is None:
        raise WeightsError(f"this release has no backbone {tag!r:.80}, expected one of {', '.join(catalog.backbones())}")
    own = "semantic.backbone."
    return {key.removeprefix(own): value for key, value in _joined(entry)[1].items() if key.startswith(own)}


def _with_backbone(
    config: dict[str, Any], tensors: dict[str, Tensor], file: Path
) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """The content of a folder that names built-in weights for its backbone, with the values of that."""
    tag = config.get("backbone")
    if tag is None:
        return config, tensors, file
    try:
        found = packaged_backbone(tag)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    return config, {**tensors, **{f"decoder.backbone.{key}": value for key, value in found.items()}}, file


def packaged_folder(name: str) -> Path:
    """A folder of weights inside this package."""
    return Path(str(files("grepq_metric") / "assets" / name))


def _located(weights: str | Path, hub: HubOptions) -> Path:
    """The folder or safetensors file of weights that have no built-in name, downloaded where needed."""
    name, path = str(weights), Path(weights).expanduser()
    if path.exists():
        return path
    if isinstance(weights, Path) or path.suffix == ".safetensors" or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no weights at {path}")
    if not REPOSITORY.fullmatch(name):
        raise InputError(_unknown(name))
    config = fetch(name, CONFIG, hub)
    try:
        read_config(config)
    except WeightsError as error:
        remove_from_cache(config)  # or a captive portal's page would stay in there for ever
        raise WeightsError(f"{error}. It is removed from the cache: try again, or look at the repository") from error
    # By the snapshot's commit, so that both files are of one revision.
    return fetch(name, TENSORS, replace(hub, revision=config.parent.name))


def _pinned(files: Sequence[catalog.HubFile], hub: HubOptions) -> Path:
    """The last of some files of one commit of a Hub repository, by their hashes; the others lie beside it."""
    return [fetch(file.repository, file.name, replace(hub, revision=file.revision), file.sha256) for file in files][-1]


def _unknown(name: str) -> str:
    tags = [entry.tag for entry in catalog.ENTRIES]
    if name.rpartition(".")[0] in catalog.names():
        return f"unknown tag {name!r}: this release knows {', '.join(tags)}"
    names = catalog.known_names()
    close = difflib.get_close_matches(name, names + tags, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"unknown weights {name!r}: expected one of {', '.join(names)}, a folder, a safetensors file or a Hub "
        f"repository user/name{hint}"
    )


def _joined(entry: catalog.Entry) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """The packaged parts of an entry as one: its constants, else those of its first part. Returns as `read_weights`."""
    found = [read_folder(packaged_folder(part.folder)) for part in entry.packaged]
    if len(entry.pathways) == 1:
        return found[0]
    config: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for part, values, _ in reversed(found):
        config |= part
        tensors |= values
    config |= entry.constants
    provenance = {pathway: part["provenance"] for pathway, (part, _, _) in zip(entry.pathways, found, strict=False)}
    config |= {"pathways": list(entry.pathways), "name": entry.name, "provenance": provenance}
    return config, tensors, found[0][2]


def _assembled(entry: catalog.Entry, clip: catalog.HubFile, hub: HubOptions) -> Path:
    """Join CLIP from the Hub with packaged weights in a folder of the Hub's cache, once.

    What the catalog pins is known by its hashes: once it is assembled, neither the Hub is asked nor the file hashed again.
    """
    what = f"{clip.name} of {clip.repository}"
    sources = {f"{pathway}_sha256": part.sha256 for pathway, part in zip(entry.pathways, entry.packaged, strict=False)}
    file = None
    if hub.revision is not None:
        file = fetch(clip.repository, clip.name, hub)
        clip = replace(clip, revision=hub.revision, sha256=sha256(file))
    sources["clip_sha256"] = clip.sha256
    key = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]
    try:
        parent = huggingface_hub.cached_assets_path("grepq-metric", "assembled", "v2", assets_dir=hub.cache_dir)
        folder = parent / f"{entry.name}-{key}"
        if not folder.exists() or hub.force_download:
            if file is None:
                file = pinned_clip(clip, hub)
            _assemble(entry, file, what, sources, folder)
    except OSError as error:
        assets = huggingface_hub.constants.HF_ASSETS_CACHE
        raise WeightsError(f"cannot write {assets}: {error}; check it, or set HF_HOME to another disk") from error
    return folder


def _assemble(entry: catalog.Entry, file: Path, what: str, sources: dict[str, str], folder: Path) -> None:
    provenance: dict[str, Any] = {
        "high": f"{catalog.PLAIN_CLIP}, so not as in the paper; {what} at {file.parent.name}",
        **sources,
        "assembled": datetime.now(timezone.utc).date().isoformat(),
    }
    config: dict[str, Any] = asdict(LowLevelConfig())
    tensors: dict[str, Tensor] = {}
    if entry.packaged:
        joined, tensors, _ = _joined(entry)
        config |= joined
        provenance |= joined["provenance"]
    config |= {"logit_scale": LOGIT_SCALE}
    high = high_level_tensors(read_tensors(file), what)
    tensors = {
        **tensors,
        **{f"high.{key}": value.float() if value.is_floating_point() else value for key, value in high.items()},
    }
    config |= {"pathways": list(entry.pathways), "name": entry.name, "storage": "float32", "provenance": provenance}
    facts = card.card_facts("GRepQ", weights_id(config, tensors), entry.pathways, provenance)
    text = huggingface_hub.ModelCard.from_template(
        huggingface_hub.ModelCardData(license="mit", library_name="grepq-metric"), template_str=card.TEMPLATE, **facts
    )
    try:
        write_folder(folder, config, tensors, str(text))
    except WeightsError as error:
        raise WeightsError(f"{error}; or set HF_HOME to another disk") from error
