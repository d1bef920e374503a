"""Sheets of labels: CSV files with a column of photos and one of their MOS."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from grepq_metric.errors import InputError
from grepq_metric.files import whole_file
from grepq_metric.tables import header, path_cell

LARGEST = 1e100
"""No scale of opinions reaches so far, and squares of what is larger overflow."""


@dataclass(frozen=True)
class Labels:
    """Photos and what people think of them.

    Attributes:
        photos: N paths, none twice.
        mos: ``(N,)`` mean opinion scores.
        weights: ``(N,)`` positive weights; None where no column was named.
        unrated: rows whose MOS is empty, which are left out.
        delimiter: what separates the fields of the file.
    """

    photos: list[Path]
    mos: np.ndarray
    weights: np.ndarray | None
    unrated: int
    delimiter: str


def read_labels(
    path: str | Path,
    image_column: str = "image",
    mos_column: str = "mos",
    weight_column: str | None = None,
    root: str | Path | None = None,
) -> Labels:
    """Read a CSV file with a header, in UTF-8, separated by commas, semicolons or tabs; numbers have a decimal point.

    Rows with an empty MOS are left out: they are photos that have not been rated yet.

    Args:
        path: the file.
        image_column: name of the column of photos.
        mos_column: name of the column of mean opinion scores, on any scale, higher is better.
        weight_column: name of a column of positive weights, for example how many people rated the photo.
        root: folder at which relative paths of photos start; None: that of the file.

    Raises:
        FileNotFoundError: there is no such file or `root`.
        ValueError: the file has no such column, a row with fewer or more fields than the header, a value that is no number
            below 1e100, one photo twice (also under two spellings) or no rated row; the message shows the line.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from grepq_metric.heads.labels import read_labels
        >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = path.write_text("image,mos\\nharbour.jpg,4.1\\nnight.jpg,\\n")
        >>> labels = read_labels(path)
        >>> [photo.name for photo in labels.photos], labels.mos.tolist(), labels.unrated
        (['harbour.jpg'], [4.1], 1)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file of labels: {path}")
    root = path.parent if root is None else Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder of photos: {root}")
    columns = [image_column, mos_column, *([] if weight_column is None else [weight_column])]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            sheet = _Sheet(path, stream.read(), columns)
        rows = list(sheet.rows(root))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
    rated = [row for row in rows if row is not None]
    if not rows:
        raise InputError(f"{path} has no rows")
    if not rated:
        raise InputError(f"none of the {len(rows)} rows of {path} is rated: fill in the column {mos_column!r}")
    photos, numbers = [photo for photo, _ in rated], np.array([values for _, values in rated])
    weights = None if weight_column is None else numbers[:, 1]
    return Labels(photos, numbers[:, 0], weights, len(rows) - len(rated), sheet.delimiter)


def write_sheet(sheet: str | Path | TextIO, photos: Sequence[str | Path]) -> None:
    """Write photos with an empty column ``mos``, for people to fill in; `read_labels` reads it.

    Args:
        sheet: a file, in which paths start at its own folder where they can; or a stream, which has no folder: paths in it
            are absolute.
        photos: paths.

    Raises:
        ValueError: the name of a photo is no text in UTF-8.
        OSError: the file can't be written.
    """
    if isinstance(sheet, (str, Path)):
        names = [_seen_from(Path(sheet).parent, Path(photo)) for photo in photos]
        _check_names(names)
        with whole_file(sheet) as part, part.open("w", newline="", encoding="utf-8") as stream:
            _write_rows(stream, names)
    else:
        names = [str(_absolute(Path(photo))) for photo in photos]
        _check_names(names)
        _write_rows(sheet, names)


class RatingSheet:
    """A sheet that is filled in rating by rating: each one is in the file at once, and all else in it stays.

    Args:
        path: a CSV file as `read_labels` takes it; other columns, the delimiter and the order of rows are kept.
        image_column: name of the column of photos.
        mos_column: name of the column to fill in.
        root: folder at which relative paths of photos start; None: that of the file.

    Raises:
        FileNotFoundError: there is no such file or `root`.
        ValueError: as in `read_labels`, but that no row need be rated.

    Attributes:
        photos: paths, none twice.
        ratings: of the photos, as they are written; empty where there is none.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from grepq_metric.heads.labels import RatingSheet
        >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = path.write_text("image;mos;camera\\nharbour.jpg;;phone\\nnight.jpg;4;phone\\n")
        >>> sheet = RatingSheet(path)
        >>> sheet.rate(0, 2)
        >>> path.read_text().splitlines()
        ['image;mos;camera', 'harbour.jpg;2;phone', 'night.jpg;4;phone']
    """

    def __init__(
        self, path: str | Path, image_column: str = "image", mos_column: str = "mos", root: str | Path | None = None
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no such file of labels: {path}")
        root = self.path.parent if root is None else Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder of photos: {root}")
        self._state = self._stat()
        data = self.path.read_bytes()
        self._encoding = "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"
        try:
            text = data.decode(self._encoding)
            sheet = _Sheet(self.path, text, [image_column, mos_column])
            self._rows = [sheet.header, *sheet.reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
        self._delimiter, self._end = sheet.delimiter, "\r\n" if "\r\n" in text else "\n"
        image, self._column = sheet.places
        self._places: list[int] = []
        self.photos: list[Path] = []
        seen: set[str] = set()
        for place, row in enumerate(self._rows[1:], 1):
            if not any(field.strip() for field in row):
                continue
            if len(row) != len(sheet.header):
                raise InputError(f"{path}, row {place}: expected {len(sheet.header)} fields, got {len(row)}")
            if not row[image].strip() or "\0" in row[image]:
                raise InputError(f"{path}, row {place}: expected a photo in column {image_column!r}, got {row[image]!r}")
            key = os.path.normcase(os.path.realpath(root / row[image]))
            if key in seen:
                raise InputError(f"{path} names one photo twice, in row {place} as {row[image]!r}")
            seen.add(key)
            self._places.append(place)
            self.photos.append(root / row[image])
        if not self.photos:
            raise InputError(f"{path} has no rows")

    @property
    def ratings(self) -> list[str]:
        return [self._rows[place][self._column].strip() for place in self._places]

    def rate(self, photo: int, rating: float | None) -> None:
        """Write the rating of a photo by its position; None takes it back.

        Raises:
            InputError: another program has changed the file meanwhile, whose changes would be lost.
            OSError: it can't be written; the message names it.
        """
        if self._stat() != self._state:
            raise InputError(f"{self.path} was changed by another program: start again, so that none of it is lost")
        row = self._rows[self._places[photo]]
        before, row[self._column] = row[self._column], "" if rating is None else f"{rating:g}"
        try:
            with (
                whole_file(self.path.resolve()) as part,  # a link stays one
                part.open("w", newline="", encoding=self._encoding) as stream,
            ):
                csv.writer(stream, delimiter=self._delimiter, lineterminator=self._end).writerows(self._rows)
                shutil.copymode(self.path, part)
        except OSError:
            row[self._column] = before
            raise
        self._state = self._stat()

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns


class _Sheet:
    """A CSV file while it is read."""

    def __init__(self, path: Path, text: str, columns: list[str]) -> None:
        self.path, self.columns = path, columns
        self.delimiter, self.header = header(io.StringIO(text, newline=""), columns)
        if missing := [column for column in columns if column not in self.header]:
            raise InputError(f"{path} has no column {missing[0]!r}, it has {', '.join(map(repr, self.header)) or 'none'}")
        if twice := [column for column in columns if self.header.count(column) > 1]:
            raise InputError(f"{path} has two columns {twice[0]!r}")
        self.places = [self.header.index(column) for column in columns]
        self.reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter)
        next(self.reader)

    def rows(self, root: Path) -> Iterator[tuple[Path, list[float]] | None]:
        """A photo with its numbers for each row, None for one that is not rated."""
        lines: dict[str, tuple[int, str]] = {}
        for fields in self.reader:
            if not any(field.strip() for field in fields):
                continue
            line = self.reader.line_num
            if len(fields) != len(self.header):
                raise InputError(
                    f"{self.path}, line {line}: expected {len(self.header)} fields, got {len(fields)}: "
                    f"{self.delimiter.join(fields)[:200]!r}. Numbers have a decimal point, and quotes enclose a field with a "
                    "separator in it"
                )
            name, *texts = (fields[place] for place in self.places)
            if not name.strip() or "\0" in name:
                raise InputError(f"{self.path}, line {line}: expected a photo in column {self.columns[0]!r}, got {name!r}")
            if not texts[0].strip():
                yield None
                continue
            key = os.path.normcase(os.path.realpath(root / name))
            if key in lines:
                first, spelling = lines[key]
                raise InputError(
                    f"{self.path} names one photo twice, in line {first} as {spelling!r} and in line {line} as {name!r}; "
                    "expected one MOS a photo"
                )
            lines[key] = line, name
            yield root / name, [self._number(text, line, i) for i, text in enumerate(texts, 1)]

    def _number(self, text: str, line: int, column: int) -> float:
        where = f"{self.path}, line {line}: expected a {'positive' if column == 2 else 'finite'} number in column"
        hint = ", with a decimal point" if "," in text else ""
        try:
            value = math.nan if "_" in text else float(text)  # Python takes 1_000 for a number
        except ValueError:
            value = math.nan
        if not abs(value) <= LARGEST or (column == 2 and value <= 0):
            raise InputError(f"{where} {self.columns[column]!r}{hint}, got {text[:80]!r}")
        return value


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the name of {name!r} is no text in UTF-8, and can't stand in a CSV file: rename it") from error


def _write_rows(stream: TextIO, names: Sequence[str]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "mos"])
    writer.writerows([path_cell(name), ""] for name in names)


def _absolute(photo: Path) -> Path:
    return photo.parent.resolve() / photo.name  # a link keeps its own name


def _seen_from(folder: Path, photo: Path) -> str:
    """A path from a folder to a photo; absolute where they have nothing but the root in common."""
    folder, photo = folder.resolve(), _absolute(photo)
    try:
        common = os.path.commonpath([folder, photo.parent])
    except ValueError:  # two drives of Windows
        return str(photo)
    return str(photo) if common == photo.anchor else os.path.relpath(photo, folder)
