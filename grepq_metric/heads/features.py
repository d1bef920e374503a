"""Frozen features of photo files, kept on disk by the files' content."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
from tqdm import tqdm

from grepq_metric.images import decode_image, read_ahead, read_bytes
from grepq_metric.model import GRepQ


def default_cache() -> Path:
    """Where features are kept: with the downloads of the Hub client, see ``HF_HOME``."""
    return huggingface_hub.cached_assets_path("grepq-metric", "features", "v1")


def photo_features(
    model: GRepQ, paths: Sequence[str | Path], kind: str = "image", cache: Path | None = None, progress: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """Features of photo files, see `GRepQ.features`.

    Args:
        model: whose features.
        paths: photo files.
        kind: ``image`` or ``patches``.
        cache: folder where features are kept, keyed by the file's content, the weights' id and the kind; None: nowhere. A
            file that is in it is not decoded.
        progress: show a progress bar.

    Returns:
        ``(N, C)`` float32, a row for each path, and why a photo can't be used, by its position; its row is NaN.

    Raises:
        OSError: the cache can't be written; what it holds stays.
        ValueError: the kind is unknown or the weights have no such features.
    """
    folder = None if cache is None else Path(cache) / f"{model.weights_id}-{kind}"
    device = next(model.parameters()).device

    def read(path):
        data = read_bytes(path)
        kept = folder and folder / (name := hashlib.sha256(data).hexdigest())[:2] / f"{name}.npy"
        features = _load(kept) if kept else None
        return kept, features, decode_image(data, path) if features is None else None

    rows, problems = [], {}
    photos = tqdm(read_ahead(paths, 3, read), "features", len(paths), unit="photo", disable=None if progress else True)
    with torch.inference_mode():
        for i, (_, found) in enumerate(photos):
            if isinstance(found, Exception):
                problems[i] = str(found) or repr(found)
                rows.append(None)
            else:
                kept, features, image = found
                if features is None:
                    features = model.features(image.unsqueeze(0).to(device), kind)[0].float().cpu().numpy()
                    if kept:
                        _store(kept, features)
                rows.append(features)
    width = next((len(row) for row in rows if row is not None), 0)
    return np.stack([np.full(width, np.nan, np.float32) if row is None else row for row in rows]), problems


def _load(path: Path) -> np.ndarray | None:
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):  # not there, or damaged: made anew
        return None


def store_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy`` file that several processes may write at once: only a finished one ever gets the name.

    Raises:
        OSError: it can't be written; nothing is left behind.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            np.save(part, array)
        except OSError:
            os.unlink(part.name)
            raise
    os.replace(part.name, path)


def _store(path: Path, features: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store_array(path, features)
    except OSError as error:
        raise OSError(f"cannot keep features in {path.parent}: {error}. Free some space, or use no cache") from error
