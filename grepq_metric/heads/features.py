"""Frozen features of photo files, kept on disk by the files' content."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
from tqdm import tqdm

from grepq_metric.errors import InputError
from grepq_metric.files import disk_error, whole_file
from grepq_metric.images import decode_image, read_ahead, read_bytes
from grepq_metric.models import QualityModel


def default_cache() -> Path:
    """Where features are kept: with the downloads of the Hub client, see ``HF_HOME``."""
    return huggingface_hub.cached_assets_path("grepq-metric", "features", "v1")


def photo_features(
    model: QualityModel,
    paths: Sequence[str | Path],
    kind: str | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, dict[int, str]]:
    """Features of photo files, see `GRepQ.features`.

    Args:
        model: whose features.
        paths: photo files.
        kind: see `GRepQ.feature_kind`.
        cache: folder where features are kept, keyed by the file's content, the weights' id and the kind; None: nowhere. A
            file that is in it is not decoded; what is damaged in it is made anew.
        progress: show a progress bar.

    Returns:
        ``(N, C)`` float32, a row for each path, and why a photo can't be used, by its position; its row is NaN.

    Raises:
        OSError: the cache can't be written; what it holds stays.
        ValueError: the kind is unknown or the weights have no such features.
    """
    kind = model.feature_kind(kind)
    rows = np.full((len(paths), sum(model.feature_blocks(kind))), np.nan, np.float32)
    store = None if cache is None else _Store(Path(cache) / f"{folder_name(model.weights_id)}-{kind}", rows.shape[1])

    def read(path: str) -> tuple[str, np.ndarray | None, torch.Tensor | None]:
        data = read_bytes(path)
        key = hashlib.sha256(data).hexdigest()
        kept = None if store is None else store.load(key)
        return key, kept, decode_image(data, path) if kept is None else None

    problems = {}
    wanted: list[str | None] = [os.fspath(path) for path in paths]
    found = read_ahead(wanted, 3, read)
    shown = tqdm(found, "features", len(paths), unit="photo", disable=None if progress else True)
    for i, (path, result) in enumerate(shown):
        if isinstance(result, Exception):
            problems[i] = str(result) or repr(result)
            continue
        key, kept, image = result
        if image is None:
            rows[i] = kept
            continue
        try:
            rows[i] = _features(model, image, kind, path)
        except (InputError, torch.cuda.OutOfMemoryError) as error:  # the other photos go on
            problems[i] = str(error)
            continue
        if store is not None:
            store.save(key, rows[i])
    return rows, problems


def folder_name(weights_id: str) -> str:
    """A name for a folder within its parent, whatever the id: itself, if it is made of ``A-Z a-z 0-9 . _ -``."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", weights_id).lstrip(".")[-100:]
    return plain if plain and plain == weights_id else f"{plain}-{hashlib.sha256(repr(weights_id).encode()).hexdigest()[:8]}"


class _Store:
    """Features on disk, one ``.npy`` file each.

    All files have the same type and length, and so the same header: a file that is read is compared with it, and not parsed.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self.header = self._encode(np.zeros(width, np.float32))[: -4 * width]

    def load(self, key: str) -> np.ndarray | None:
        """Features, or None where there are none or they are damaged."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        if len(data) != len(self.header) + 4 * self.width or not data.startswith(self.header):
            return None
        values = np.frombuffer(data, np.float32, offset=len(self.header))
        return values if np.isfinite(values).all() else None

    def save(self, key: str, values: np.ndarray) -> None:
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error
        with whole_file(path) as part:
            part.write_bytes(self._encode(values))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

    @staticmethod
    def _encode(values: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.save(stream, values)
        return stream.getvalue()


@torch.inference_mode()
def _features(model: QualityModel, image: torch.Tensor, kind: str, path: str | Path) -> np.ndarray:
    values = model.features(image.unsqueeze(0).to(model.device), kind)[0].float().cpu().numpy()
    if not np.isfinite(values).all():
        raise InputError(f"the features of {path} are not finite")
    return values
