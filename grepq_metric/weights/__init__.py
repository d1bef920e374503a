"""Weights: the table of built-in names, folders on disk, the Hugging Face Hub, and the CLIP-based weights assembled here."""

from __future__ import annotations

import difflib
import errno
import hashlib
import inspect
import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grepq_metric.errors import InputError, WeightsError

CONFIG = "config.json"
TENSORS = "model.safetensors"
CARD = "README.md"
CARD_MARK = "<!-- Written by grepq-metric, which replaces this file: remove this line to keep your changes. -->"
CLIP_REPOSITORY = "timm/resnet50_clip.openai"
CLIP_FILE = "open_clip_model.safetensors"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
ADVICE = "Set HF_ENDPOINT to a mirror, pass a weights folder, or use grepq-ll, which needs no network."


@dataclass(frozen=True)
class BuiltIn:
    """One built-in name: what it is made of and under which terms."""

    name: str
    pathways: tuple[str, ...]
    source: str
    licence: str
    needs_hub: bool


BUILT_IN = {
    entry.name: entry
    for entry in (
        BuiltIn("grepq-ll", ("low",), "low-level encoder trained by this project, in the package", "MIT", False),
        BuiltIn("grepq-hl", ("high",), f"OpenAI CLIP RN50 from the Hub, {CLIP_REPOSITORY}", "MIT (CLIP)", True),
        BuiltIn("grepq", ("low", "high"), "grepq-ll joined with grepq-hl", "MIT; MIT (CLIP)", True),
    )
}


def locate(cls, weights: str | Path, hub: dict) -> Path:
    """The folder or safetensors file of `weights`, downloaded and assembled where needed. Errors as in `from_pretrained`."""
    name = str(weights)
    if name in BUILT_IN:
        return _assemble(cls, BUILT_IN[name], hub) if BUILT_IN[name].needs_hub else packaged_folder()
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if isinstance(weights, Path) or path.suffix == ".safetensors" or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no weights at {path}")
    if not REPOSITORY.fullmatch(name):
        close = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"unknown weights {name!r}: expected one of {', '.join(BUILT_IN)}, a folder, a safetensors file or a Hub "
            f"repository user/name{hint}"
        )
    config = _verified(hub_file(name, CONFIG, hub), f"{CONFIG} of {name}")
    # By the snapshot's commit, so that both files are of one revision.
    return _verified(hub_file(name, TENSORS, {**hub, "revision": config.parent.name}), f"{TENSORS} of {name}")


def packaged_folder() -> Path:
    """The folder of ``grepq-ll`` inside this package."""
    return Path(str(files("grepq_metric") / "assets" / "grepq-ll"))


def load(cls, location: Path, options: Mapping):
    """Build a model of class `cls` from a weights folder or file."""
    file = location / TENSORS if location.is_dir() else location
    config_file = file.with_name(CONFIG)
    for path in (file, config_file):
        if not path.exists():
            raise FileNotFoundError(f"no {path.name} in {path.parent}: a weights folder holds {CONFIG} and {TENSORS}")
    parameters = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        known = {key: value for key, value in config.items() if key in parameters}
        if "pathways" not in known:
            raise KeyError("pathways")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{config_file} is not a config of GRepQ weights: {error!r}") from error
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}, expected some of {parameters}")
    try:
        model = cls(**{**known, **options})
    except ValueError as error:
        if options:
            raise
        raise WeightsError(f"{config_file} is not a config of GRepQ weights: {error}") from error
    absent = sorted(set(model.pathways) - set(known["pathways"]))
    if absent:
        raise InputError(f"{file.parent} has the pathways {known['pathways']}, and not {absent[0]!r}")
    tensors = {k: v for k, v in read_tensors(file).items() if k.split(".")[0] not in {"low", "high"} - {*model.pathways}}
    load_tensors(model, tensors, file)
    return model


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy tensors into a module after checking that names, shapes and values are right.

    Raises:
        WeightsError: a tensor is missing, foreign, of another shape or holds NaN or infinity; the message names it.
    """
    odd = sorted(str(key) for key, value in tensors.items() if not isinstance(value, Tensor))
    if odd:
        raise WeightsError(f"{source} does not fit: it holds {len(odd)} entries that are no tensors ({', '.join(odd[:3])})")
    expected = module.state_dict()
    problems = {
        "missing": sorted(set(expected) - set(tensors)),
        "foreign": sorted(set(tensors) - set(expected)),
        "of another shape": sorted(k for k in set(expected) & set(tensors) if expected[k].shape != tensors[k].shape),
        "with NaN or infinity": sorted(k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()),
    }
    found = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})" for what, keys in problems.items() if keys
    ]
    if found:
        raise WeightsError(f"{source} does not fit: tensors {'; '.join(found)}")
    module.load_state_dict(dict(tensors))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a torch pickle of a state dict without running code from it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or truncated ({error}): delete it and fetch it again") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} is damaged or holds more than tensors, and is not loaded: {error}") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, expected a dictionary of tensors")
    return state


def save(write: Callable[[Path], object], folder: str | Path) -> None:
    """Have `write` fill a staging folder, then move its files into `folder`; a model card that is not ours stays.

    Raises:
        WeightsError: the folder can't be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
            write(Path(staging))
            for file in (TENSORS, CONFIG, CARD):
                if file != CARD or not (folder / CARD).exists() or CARD_MARK in (folder / CARD).read_text(errors="replace"):
                    os.replace(Path(staging) / file, folder / file)
    except (OSError, SafetensorError) as error:
        raise _disk_error(folder, error) from error


def save_tensors(model, path: Path) -> None:
    """Write a model's tensors in its storage format; the pristine statistics and text vectors keep their precision."""
    exact = ("low.pristine_mean", "low.pristine_cov", "high.text_features")
    storage = getattr(torch, model.storage)
    tensors = {}
    for key, value in model.state_dict().items():
        if value.is_floating_point() and key not in exact:
            value = value.to(storage)
            if not value.isfinite().all():
                raise WeightsError(f"{key} does not fit into {model.storage}")
        tensors[key] = value.cpu().contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it private, but an installed package or a shared folder is read by others


def hub_file(repository: str, file: str, hub: dict) -> Path:
    """Download one file with the Hub client, or find it in its cache.

    Raises:
        WeightsError: what went wrong, and what to do.
    """
    what = f"{file} of {repository}"
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, **hub))
    except GatedRepoError as error:
        raise WeightsError(f"{repository} is gated: ask for access on its page and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"no repository {repository} on the Hub (or it is private and HF_TOKEN is not set). {ADVICE}"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} has no revision {hub.get('revision')!r}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise WeightsError(f"cannot reach the Hub for {what}, and it is not in the cache. {ADVICE}") from error
    except EntryNotFoundError as error:
        raise WeightsError(f"{repository} has no {file}: it is not a repository of such weights") from error
    except HFValidationError as error:
        raise InputError(f"{repository!r} is not a valid repository name: {error}") from error
    except (OSError, HTTPError, RuntimeError) as error:  # which of them, depends on the client's HTTP library
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_error(Path(huggingface_hub.constants.HF_HUB_CACHE), error) from error
        raise WeightsError(f"the download of {what} failed ({error}). Try again. {ADVICE}") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def clip_checkpoint(source: str, hub: dict) -> tuple[dict[str, Tensor], str]:
    """A whole CLIP RN50 in open_clip's layout, from a file or a Hub repository: its state dict and its SHA-256."""
    path = Path(source).expanduser()
    if path.exists():
        return read_tensors(path), sha256(path)
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors") or not REPOSITORY.fullmatch(source):
        raise FileNotFoundError(f"no CLIP checkpoint at {path}")
    path = hub_file(source, CLIP_FILE, hub)
    return read_tensors(_verified(path, f"{CLIP_FILE} of {source}")), _content_id(path)


def high_level_tensors(
    clip_state: Mapping[str, Tensor], source: str | Path, visual: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Tensors of `HighLevelPathway`: the prompt vectors of a whole CLIP and its image tower, or another tower in its place.

    Raises:
        WeightsError: the text tower is not whole; the message names `source`, where the CLIP is from.
    """
    from grepq_metric.pathways.high import prompt_features

    if visual is None:
        visual = {k.removeprefix("visual."): v for k, v in clip_state.items() if k.startswith("visual.")}
    tensors = {f"visual.{k}": v for k, v in visual.items() if k != "attnpool.positional_embedding"}
    try:
        return {**tensors, "text_features": prompt_features(clip_state)}
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from error


def _assemble(cls, entry: BuiltIn, hub: dict) -> Path:
    """Join CLIP from the Hub with the packaged low-level weights in a folder of the Hub's cache, once."""
    what = f"{CLIP_FILE} of {CLIP_REPOSITORY}"
    clip_file = hub_file(CLIP_REPOSITORY, CLIP_FILE, hub)
    sources = {"clip_sha256": _content_id(clip_file)}
    if "low" in entry.pathways:
        sources["low_sha256"] = sha256(packaged_folder() / TENSORS)
    key = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]
    try:
        parent = huggingface_hub.cached_assets_path("grepq-metric", "assembled", "v1", assets_dir=hub.get("cache_dir"))
    except OSError as error:
        raise _disk_error(Path(huggingface_hub.constants.HF_ASSETS_CACHE), error) from error
    folder = parent / f"{entry.name}-{key}"
    if folder.exists():
        return folder

    state = read_tensors(_verified(clip_file, what))
    provenance = {
        "high": f"OpenAI CLIP RN50, not fine-tuned; {CLIP_REPOSITORY} at {clip_file.parent.name}",
        **sources,
        "assembled": datetime.now(timezone.utc).date().isoformat(),
    }
    model = cls(pathways=entry.pathways, name=entry.name, provenance=provenance)
    load_tensors(model.high, high_level_tensors(state, what), what)
    if model.low is not None:
        packaged = load(cls, packaged_folder(), {})
        model.low, model.provenance["low"] = packaged.low, packaged.provenance
    _publish(model, folder)
    return folder


def _publish(model, folder: Path) -> None:
    """Write a weights folder so that it appears complete or not at all, also when two processes do so at once."""
    staging = None
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        model.save_pretrained(staging)
        staging.chmod(0o755)
        staging.rename(folder)
    except OSError as error:
        if not folder.exists():  # else another process was first with the same content
            raise _disk_error(folder.parent, error) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _content_id(path: Path) -> str:
    """SHA-256 of a file from the Hub: the client names the blob of a large file after the one that the Hub states.

    Where the cache has no links (some Windows systems), there is no such name, and the file is taken as it is.
    """
    blob = path.resolve()
    return blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else sha256(blob)


def _verified(path: Path, what: str) -> Path:
    """Compare a downloaded file with the SHA-256 that the Hub states: the client compares only the size."""
    blob, expected = path.resolve(), _content_id(path)
    actual = sha256(blob)
    if actual != expected:
        for damaged in (path, blob):
            damaged.unlink(missing_ok=True)
        raise WeightsError(
            f"{what} was damaged (SHA-256 {actual}, expected {expected}) and is removed from the cache: try again. {ADVICE}"
        )
    return path


def _disk_error(folder: Path, error: BaseException) -> WeightsError:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    advice = "Free some space" if full else "Check its permissions"
    return WeightsError(f"cannot write to {folder}: {error}. {advice}, or, for downloads, set HF_HOME to another disk.")
