"""Photos that two collections share under different names."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from grepq_metric.training.photos import PhotoList

THUMBNAIL = 16


def near_duplicates(photos: list[Path], contents: PhotoList, threshold: float = 0.99) -> dict[int, str]:
    """Photos that show the same as one of `contents`, whatever their names, sizes and compression.

    Args:
        photos: image files.
        contents: photos to look among.
        threshold: grey thumbnails of 16x16 pixels that correlate above it show the same.

    Returns:
        By position in `photos`, the name of the photo of `contents` that is most alike.
    """
    others = (contents.read(i) for i in tqdm(range(len(contents)), desc="near duplicates", disable=None))
    correlation = _thumbnails(path.read_bytes() for path in photos) @ _thumbnails(others).T
    return {i: Path(contents.name(int(row.argmax()))).name for i, row in enumerate(correlation) if row.max() > threshold}


def _thumbnails(files: Iterable[bytes]) -> np.ndarray:
    """``(N, 256)`` of length 1 around a mean of 0, so that their products are correlations."""
    size = (THUMBNAIL, THUMBNAIL)
    grey = [Image.open(io.BytesIO(file)).convert("L").resize(size, Image.Resampling.BOX) for file in files]
    values = np.stack([np.asarray(image, float).ravel() for image in grey])
    values -= values.mean(1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
