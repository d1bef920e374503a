"""A folder with one page that shows scored photos, to sort, filter, compare and choose from."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from grepq_metric.errors import InputError
from grepq_metric.files import whole_file
from grepq_metric.images import file_pixels, read_ahead
from grepq_metric.pages.alike import alike, difference_hash
from grepq_metric.pages.pictures import PREVIEW, THUMB, Pictures, unreadable
from grepq_metric.pages.template import page

INDEX = "index.html"
THUMBS, PREVIEWS, MAPS = "thumbs", "previews", "maps"
"""Folders in that of the gallery."""
MARKER = '<meta name="generator" content="grepq gallery">'
"""By which a gallery is known, at the start of its page."""
UNFINISHED = "<!-- unfinished -->"
"""Behind the marker, until all of a gallery is there."""
PREFERRED = ("score", "mos")
"""Columns that the page begins with, where a table has them."""


@dataclass
class Gallery:
    """What was written.

    Attributes:
        page: the file to open.
        photos: how many it shows.
        failed: how many of these have an error in place of a score.
        unseen: photos without a picture, with the reason.
        groups: of near duplicates.
    """

    page: Path
    photos: int = 0
    failed: int = 0
    unseen: dict[str, str] = field(default_factory=dict)
    groups: int = 0


def claim(folder: Path, overwrite: bool, photos: Iterable[str | Path] = ()) -> None:
    """Make a folder for a gallery, and mark it as one.

    Args:
        folder: which must be empty, or a gallery.
        overwrite: whether a finished gallery may be replaced.
        photos: that will be in it; none of them may lie in the folder.

    Raises:
        FileExistsError: there is a gallery, and `overwrite` is not set, or the folder holds something else.
        NotADirectoryError: there is a file in its place.
        InputError: a photo lies in it.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for the gallery")
    state = _state(folder)
    if state == "foreign":
        raise FileExistsError(f"{folder} holds other files than a gallery, which stay: choose an empty or a new folder")
    if state == "finished" and not overwrite:
        raise FileExistsError(f"{folder} holds a gallery: choose another folder, or ask to overwrite it")
    # Pictures that a gallery needs no more are removed from these, which may be links.
    own = {os.path.realpath(place) for place in (folder, *(folder / name for name in (THUMBS, PREVIEWS, MAPS)))}
    for photo in photos:
        place = os.path.realpath(photo)
        if any(parent in own for parent in map(str, Path(place).parents)):
            raise InputError(f"the photo {photo} lies in the gallery's folder {folder}, whose files are replaced")
    folder.mkdir(parents=True, exist_ok=True)
    if state != "finished":
        with whole_file(folder / INDEX) as part:
            part.write_text(f"<!doctype html>\n{MARKER}{UNFINISHED}\n<title>unfinished</title>\n", encoding="utf-8")


def write_gallery(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    root: Path | None = None,
    title: str = "Photos",
    about: str = "",
    previews: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Gallery:
    """Write the page and its pictures to a folder that `claim` made.

    Args:
        folder: where to.
        rows: of a table; ``path`` is the photo, ``map`` a picture to lay over it, ``error`` why there is no score. Columns
            of numbers are those by which photos can be sorted.
        root: folder that relative paths are in; None: the current one.
        title: of the page.
        about: a line below the title.
        previews: also write pictures of 1,024 pixels, so that the large view needs no original.
        advance: called after each photo.

    Raises:
        InputError: a row has no path.
        OSError: something can't be written.
    """
    root = Path() if root is None else root
    for number, row in enumerate(rows, 1):
        if row.get("path") in (None, ""):
            raise InputError(f"row {number} of {len(rows)} has no path")
    paths = [str(row["path"]) for row in rows]
    thumbs = Pictures(folder / THUMBS, THUMB)
    large = Pictures(folder / PREVIEWS, PREVIEW) if previews else None
    maps = Pictures(folder / MAPS, PREVIEW) if any(row.get("map") for row in rows) else None
    done, shown = Gallery(folder / INDEX, len(rows)), []

    def draw(i: int) -> _Shown:
        photo, laid = root / paths[i], rows[i].get("map")
        name = thumbs.write(photo)
        found = _Shown(name, None if large is None else large.write(photo))
        with Image.open(thumbs.folder / name) as image:
            found.aspect, found.bits = image.width / image.height, difference_hash(image)
        if maps is not None and laid:
            try:
                found.map = maps.write(root / str(laid))
            except (InputError, FileNotFoundError) as error:
                found.problem = f"no map: {unreadable(error)}"
        return found

    for i, made in read_ahead(range(len(rows)), 8, draw, size=lambda i: file_pixels(root / paths[i])):
        if isinstance(made, Exception):
            if isinstance(made, OSError) and not isinstance(made, FileNotFoundError):
                raise made
            done.unseen[paths[i]] = unreadable(made)
            made = _Shown(problem=unreadable(made))
        shown.append(made)
        advance()
    groups = alike([one.bits for one in shown])
    done.groups, done.failed = max(groups, default=-1) + 1, sum(bool(row.get("error")) for row in rows)
    figures, texts = columns(rows)
    data = {
        "title": title,
        "about": about,
        "paths": paths,
        "links": [_link(root / path, folder) if one.thumb else None for path, one in zip(paths, shown, strict=True)],
        "numbers": figures,
        "texts": texts,
        "thumbs": [one.thumb for one in shown],
        "previews": [one.preview for one in shown] if previews else None,
        "maps": [one.map for one in shown] if maps is not None else None,
        "aspects": [round(one.aspect, 4) for one in shown],
        "problems": [one.problem for one in shown],
        "alike": groups,
        "first": next((name for name in (*PREFERRED, *figures) if name in figures), None),
    }
    with whole_file(folder / INDEX) as part:
        part.write_text(page("gallery", title, data), encoding="utf-8")
    for pictures, names in ((thumbs, "thumb"), (large, "preview"), (maps, "map")):
        if pictures is not None:
            pictures.forget({getattr(one, names) for one in shown})
    return done


def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[Any]], dict[str, list[str | None]]]:
    """Columns of numbers and columns of text of a table, but for ``path`` and ``map``; those without a value are left out.

    A column is one of numbers if all of its values are; those that are not finite are None.
    """
    figures: dict[str, list[Any]] = {}
    texts: dict[str, list[str | None]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if name in ("path", "map") or all(value is None or value == "" for value in values):
            continue
        if all(value is None or (isinstance(value, numbers.Real) and not isinstance(value, bool)) for value in values):
            figures[name] = [_number(value) for value in values]
        else:
            texts[name] = [None if value is None or value == "" else str(value) for value in values]
    return figures, texts


@dataclass
class _Shown:
    thumb: str | None = None
    preview: str | None = None
    map: str | None = None
    problem: str | None = None
    aspect: float = 4 / 3
    bits: np.ndarray | None = None


def _number(value: Any) -> int | float | None:
    if value is None or not math.isfinite(value):
        return None
    # As the command line writes scores: a photo's is known no better, and the page is a third smaller.
    return int(value) if isinstance(value, numbers.Integral) else float(f"{float(value):.6g}")


def _state(folder: Path) -> str:
    if not folder.exists() or not any(folder.iterdir()):
        return "empty"
    try:
        with (folder / INDEX).open("rb") as stream:
            start = stream.read(1000).decode("utf-8", "replace")
    except OSError:
        return "foreign"
    if MARKER not in start:
        return "foreign"
    return "unfinished" if UNFINISHED in start else "finished"


def _link(photo: Path, folder: Path) -> str:
    """The original as seen from the page: the folder and the photos may be moved together."""
    try:
        seen = os.path.relpath(os.path.abspath(photo), os.path.abspath(folder))
    except ValueError:  # on another drive of Windows
        return Path(os.path.abspath(photo)).as_uri()
    return quote(os.fsencode(seen.replace(os.sep, "/")))  # also of ":", so that no name is taken for a scheme
