"""Image files to tensors."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grepq_metric.errors import InputError

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "gif", "tif", "tiff", "webp", "avif", "jp2", "j2k"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
)
"""File name endings, in lower case, that a folder search takes for photos."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find_images(folder: str | Path, recursive: bool = False, extensions: frozenset[str] = EXTENSIONS) -> Iterator[Path]:
    """Photos in a folder by their file name ending, sorted by name, without hidden files and folders.

    Raises:
        FileNotFoundError: `folder` does not exist.
        NotADirectoryError: `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"not a folder: {folder}")
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if recursive and path.is_dir() and not path.is_symlink():
            yield from find_images(path, recursive, extensions)
        elif path.suffix.lower() in extensions and path.is_file():
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
    return decode_image(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """The bytes of an image file. Errors as in `read_image`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected an image file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error


def read_ahead(
    paths: Iterable[str | Path], ahead: int, read: Callable[[str | Path], Any] = read_image
) -> Iterator[tuple[str | Path, Any]]:
    """Paths with what `read` makes of them, up to `ahead` in advance in threads; a failure comes as its exception.

    With `ahead` 1, a photo comes before the next path is asked for.
    """

    def attempt(path):
        try:
            return read(path)
        except (OSError, ValueError, MemoryError) as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        waiting: deque = deque()
        for path in paths:
            waiting.append((path, pool.submit(attempt, path)))
            if len(waiting) == ahead:
                path, future = waiting.popleft()
                yield path, future.result()
        while waiting:
            path, future = waiting.popleft()
            yield path, future.result()


def decode_image(data: bytes, name: str | Path) -> Tensor:
    """The content of an image file as a tensor, as `read_image` returns it; `name` is for messages.

    Raises:
        ValueError: it is not an image, is damaged or is in a format that Pillow does not read.
    """
    try:
        array = _deep_png(data)
        if array is None:
            array = _read_with_pillow(data)
    except Exception as error:  # the many decoders raise what they like, from struct.error to cv2.error
        raise InputError(f"cannot read {name} as an image: {error}") from error
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise InputError(
            f"{name} holds values from {array.min():g} to {array.max():g}, expected an 8- or 16-bit image or 0 to 1"
        )
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _read_with_pillow(data: bytes) -> np.ndarray:
    # Never by name: Pillow maps an uncompressed TIFF of a given name into memory, and then mixes up the sides of a turned one.
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # turns a TIFF upright, and removes the tag
        # Not ImageOps.exif_transpose: it rewrites the whole EXIF block, and fails on an odd tag that does not matter here.
        image = image.transpose(_UPRIGHT[turn]) if (turn := image.getexif().get(0x0112)) in _UPRIGHT else image
        if image.mode.startswith("I;16") or image.mode == "I":
            return np.asarray(image, np.float32) / 65535
        if image.mode == "F":
            return np.asarray(image, np.float32)
        return np.asarray(image.convert("RGB"), np.float32) / 255


def _deep_png(data: bytes) -> np.ndarray | None:
    """A 16-bit PNG as float RGB, or None for any other file: Pillow would cut RGB down to 8 bits."""
    if not data.startswith(b"\x89PNG") or data[24:25] != b"\x10":  # the bit depth in the IHDR chunk, which is always first
        return None
    # IMREAD_ANYDEPTH keeps 16 bits, IMREAD_COLOR makes three channels and applies the orientation.
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if array is None:
        raise InputError("damaged 16-bit PNG")
    return array[..., ::-1].astype(np.float32) / 65535
