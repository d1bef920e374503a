"""Image files to tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "gif", "tif", "tiff", "webp", "avif", "jp2", "j2k"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
)
"""File name endings, in lower case, that a folder search takes for photos."""


def find_images(folder: str | Path, recursive: bool = False) -> Iterator[Path]:
    """Photos in a folder by their file name ending, sorted by name, without hidden files.

    Raises:
        FileNotFoundError: `folder` does not exist.
        NotADirectoryError: `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"not a folder: {folder}")
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file():
            yield path


def read_image(path: str | Path) -> Tensor:
    """Read a photo as RGB, upright.

    The EXIF orientation is applied; grey becomes three equal channels; transparency is dropped, as pyiqa does; 16-bit
    files keep their precision; of an animation or a multi-page file the first image is read.

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image, is damaged or is in a format that Pillow does not read; the message names it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected an image file")
    try:
        with Image.open(path) as image:
            array = _deep_png(path) if image.format == "PNG" else None
            if array is None:
                if image.mode.startswith("I;16") or image.mode == "I":
                    array = np.asarray(image, np.float32) / 65535
                elif image.mode == "F":
                    array = np.asarray(image, np.float32)
                else:
                    array = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float32) / 255
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read {path} as an image: {error}") from error
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"{path} holds values from {array.min():g} to {array.max():g}, expected an 8- or 16-bit image or 0 to 1"
        )
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _deep_png(path: Path) -> np.ndarray | None:
    """A 16-bit PNG as float RGB, or None for another bit depth: Pillow would cut RGB down to 8 bits."""
    data = path.read_bytes()
    if data[24] != 16:  # the bit depth in the IHDR chunk, which is always first
        return None
    # IMREAD_ANYDEPTH keeps 16 bits, IMREAD_COLOR makes three channels and applies the orientation.
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if array is None:
        raise ValueError("damaged 16-bit PNG")
    return array[..., ::-1].astype(np.float32) / 65535
