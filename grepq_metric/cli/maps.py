"""Maps as files: which photo's is which, and that none of them replaces what it should not."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from torch import Tensor

from grepq_metric.cli.writers import refuse_existing
from grepq_metric.errors import InputError
from grepq_metric.files import whole_file
from grepq_metric.models import QualityModel

SUFFIX = ".map.png"
_LONGEST = 180  # bytes, of the 255 that most file systems allow


class MapFolder:
    """Names maps.

    Args:
        folder: where they go.
        overwrite: replace existing maps.
    """

    def __init__(self, folder: Path, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def prepare(self, photos: Iterable[str], inputs: Collection[object], instead: str) -> None:
        """Make the folder, and check that maps of these photos destroy nothing; `instead` as in `refuse_existing`.

        Raises:
            FileExistsError: one is an input, or exists without `overwrite`.
            NotADirectoryError: there is a file in the folder's place.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"--map {self.folder} is a file, expected a folder")
        for photo in photos:
            refuse_existing(self.path(photo), "--map", inputs, self.overwrite, instead)
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, photo: str) -> Path:
        """The map of a photo: its path with ``__`` for ``/``, and a number where two paths give one name."""
        if photo not in self._names:
            flat = re.sub(r"^(\.\.?__)+", "", re.sub(r"[\\/:]+", "__", photo)).lstrip("_")
            flat = os.fsencode(flat)[-_LONGEST:].decode("utf-8", "ignore") or "photo"
            name, number = flat, 1
            while name.casefold() in self._taken:  # some file systems do not tell A from a
                number += 1
                name = f"{flat}-{number}"
            self._taken.add(name.casefold())
            self._names[photo] = name
        return self.folder / f"{self._names[photo]}{SUFFIX}"


def write_map(model: QualityModel, x: Tensor, path: Path, overwrite: bool) -> Path:
    """Draw the map of a photo ``(1, 3, H, W)`` and write it as a whole or not at all.

    Raises:
        FileExistsError: it exists without `overwrite`.
        InputError: it can't be encoded.
        OSError: it can't be written; the message names it.
    """
    import cv2

    from grepq_metric.cli.overlay import draw

    refuse_existing(path, "--map", (), overwrite)
    try:
        done, data = cv2.imencode(".png", draw(model, x))
    except cv2.error as error:
        raise InputError(f"cannot draw {path}: OpenCV draws no picture of this size") from error
    if not done:
        raise InputError(f"cannot encode {path}")
    with whole_file(path) as part:
        part.write_bytes(data.tobytes())
    return path
