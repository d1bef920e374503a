"""Small upright JPEGs of photos, written once and kept as long as the photo does not change."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection
from pathlib import Path

from PIL import Image, ImageOps

from grepq_metric.errors import InputError
from grepq_metric.files import whole_file
from grepq_metric.images import MAX_PIXELS, PixelLimitError, decode_image, image_header, read_bytes

THUMB, PREVIEW = 256, 1024
"""Long sides in pixels."""
QUALITY = 82
_DIGITS = 24
_BOMB = 80_000_000  # pixels; Pillow warns of more


def small(path: str | Path, side: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A photo as RGB, upright, its longer side at most `side`; of one that lacks a part, what can be read.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it can't be read, or has more than `max_pixels`.
    """
    data = read_bytes(path)
    header = image_header(data, path)
    if header.width * header.height > max_pixels:
        raise PixelLimitError(f"{path} has {header.width} x {header.height} pixels, more than the limit of {max_pixels}")
    pixels = header.width * header.height
    if header.format in ("JPEG", "MPO") and pixels < _BOMB:  # which can be decoded at a fraction of its size
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.draft("RGB", (2 * side, 2 * side))
                turned = ImageOps.exif_transpose(image).convert("RGB")
            turned.thumbnail((side, side), Image.Resampling.LANCZOS)
            return turned
        except Exception:  # of whatever kind: decoding it whole tells what is wrong, if it is more than an odd tag
            pass
    values = decode_image(data, path, max_pixels, damages=[])
    whole = Image.fromarray((values.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))
    whole.thumbnail((side, side), Image.Resampling.LANCZOS)
    return whole


def jpeg(image: Image.Image) -> bytes:
    """A picture as the content of a JPEG file."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


class Pictures:
    """A folder of small pictures.

    Args:
        folder: which is made.
        side: the longer side of each, at most.

    Raises:
        OSError: the folder can't be made.
    """

    def __init__(self, folder: Path, side: int) -> None:
        self.folder, self.side = folder, side
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, photo: str | Path) -> str:
        """Write the picture of a photo, unless it is there; gives its file name. May be called in threads.

        Raises:
            FileNotFoundError: there is no such photo.
            InputError: it can't be read.
            OSError: the picture can't be written.
        """
        try:
            found = os.stat(photo)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no such file: {photo}") from error
        except (OSError, ValueError) as error:  # such as a name that is too long, or holds a NUL byte
            raise InputError(f"cannot read {photo}: {getattr(error, 'strerror', None) or error}") from error
        told = os.fsencode(f"{os.path.realpath(photo)}\0{found.st_size}\0{found.st_mtime_ns}\0{self.side}")
        name = f"{hashlib.sha256(told).hexdigest()[:_DIGITS]}.jpg"
        if not (self.folder / name).exists():
            data = jpeg(small(photo, self.side))
            with whole_file(self.folder / name) as part:
                part.write_bytes(data)
        return name

    def forget(self, kept: Collection[str]) -> None:
        """Remove pictures that a page shows no more; files that are not named as `write` does stay."""
        for file in self.folder.glob("*.jpg"):
            stem = file.stem
            if file.name not in kept and len(stem) == _DIGITS and not set(stem) - set("0123456789abcdef"):
                file.unlink()


def unreadable(error: Exception) -> str:
    """Why a photo has no picture, in a line."""
    if isinstance(error, (InputError, FileNotFoundError)):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
