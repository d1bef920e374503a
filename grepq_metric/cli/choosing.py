"""What is made of all rows together: their order, the worst and the best, and which photos are kept."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from grepq_metric.cli.photos import identity
from grepq_metric.cli.writers import SCORES, Row, one_line, refuse_existing
from grepq_metric.errors import InputError
from grepq_metric.files import move_file, whole_file
from grepq_metric.tables import FACTS, path_cell

KEPT = {True: "yes", False: "no", None: None}
"""In the column ``kept``; None: the photo has no value."""
MOVED = "moved.csv"
"""In the folder of moved photos: where each came from."""
REJECTED = 3
"""Exit status where a photo was not kept."""


class Order(str, Enum):
    """Of rows."""

    best = "best"
    worst = "worst"


@dataclass(frozen=True)
class Choice:
    """What a user asked for.

    Attributes:
        order: of all rows, the best or the worst first; None: as they come.
        worst: number of rows with the lowest scores that are shown.
        best: number of those with the highest.
        keep_above: photos are kept whose value is this or more; None: nothing is asked.
        by: column of that value, and of the order; None: ``points`` for `keep_above`, or ``mos``; else the first column.
        list_rejects: file to write the paths of photos that are not kept to.
        move_rejects: folder to move them to.
        apply: move them indeed.
        overwrite: replace `list_rejects`.
    """

    order: Order | None = None
    worst: int | None = None
    best: int | None = None
    keep_above: float | None = None
    by: str | None = None
    list_rejects: Path | None = None
    move_rejects: Path | None = None
    apply: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.best is not None and self.worst is not None:
            raise InputError("--best and --worst show one end of the order: give one of them")
        if self.order is not None and (self.best or self.worst):
            raise InputError("--best and --worst have an order of their own: leave out --sort")
        if self.keep_above is None and (self.list_rejects or self.move_rejects):
            raise InputError("--list-rejects and --move-rejects are about what --keep-above rejects: give it")
        if self.keep_above is not None and not math.isfinite(self.keep_above):
            raise InputError(f"--keep-above must be a finite number, got {self.keep_above}")
        if self.apply and self.move_rejects is None:
            raise InputError("--apply moves photos: it goes with --move-rejects")
        if self.by is not None and self.by not in SCORES:
            raise InputError(f"--by must be one of {', '.join(SCORES)}, got {self.by}")

    @property
    def sorts(self) -> bool:
        """Whether rows are wanted in an order, and so are known at the end alone."""
        return self.order is not None or self.best is not None or self.worst is not None

    def extras(self, head: Path | None) -> tuple[str, ...]:
        """Of `Scorer`, that the choice needs."""
        if (by := self.column(head)) is None:
            return ()
        return ("facts",) if by in FACTS else (by,) if by in ("points", "percentile") else ()

    def column(self, head: Path | None) -> str | None:
        """Whose values photos are kept by; None: none are."""
        if self.keep_above is None:
            return self.by
        return self.by or ("points" if head is None else "mos")

    def check(self, columns: Sequence[str], photos: Iterable[str]) -> None:
        """Check that the column is there, and that nothing is destroyed.

        Raises:
            InputError: rows have no such column.
            FileExistsError: the list exists, or is a photo.
            NotADirectoryError: a file is in the folder's place.
        """
        if self.by is not None and self.by not in columns:
            raise InputError(f"--by {self.by}: rows have the columns {', '.join(n for n in columns if n in SCORES)}")
        if self.list_rejects is not None:
            refuse_existing(self.list_rejects, "--list-rejects", {identity(photo) for photo in photos}, self.overwrite)
        if self.move_rejects is not None and self.move_rejects.exists() and not self.move_rejects.is_dir():
            raise NotADirectoryError(f"--move-rejects {self.move_rejects} is a file, expected a folder")


class Choosing:
    """Rows as they come, and what is to be done with them.

    Args:
        choice: what is asked for.
        column: whose values decide.
    """

    def __init__(self, choice: Choice, column: str) -> None:
        self.choice, self.column = choice, column
        self.rows: list[Row] = []
        self.rejects: list[str] = []
        self.kept = 0

    def add(self, row: Row) -> Row:
        """Take a row, and say in it whether its photo is kept, if that is asked."""
        if self.choice.keep_above is not None:
            value = row.get(self.column)
            kept = None if value is None or row.get("error") else float(value) >= self.choice.keep_above
            row = {**row, "kept": KEPT[kept]}
            self.kept += kept is True
            if kept is False:
                self.rejects.append(str(row["path"]))
        if self.choice.sorts:
            self.rows.append(row)
        return row

    def ordered(self) -> list[Row]:
        """All rows in the order that is asked for; those without a value come last."""
        best_first = self.choice.order is Order.best or self.choice.best is not None
        known = [row for row in self.rows if row.get(self.column) is not None]
        known.sort(key=lambda row: float(row[self.column] or 0), reverse=best_first)
        return known + [row for row in self.rows if row.get(self.column) is None]

    def shown(self) -> list[Row]:
        """Those of them that `--worst` or `--best` shows, else all."""
        number = self.choice.best or self.choice.worst
        return self.ordered() if number is None else self.ordered()[:number]

    def finish(self) -> list[str]:
        """Write the list of rejected photos, move them if that is asked for, and tell what was done.

        Raises:
            OSError: a file can't be written or moved; what was moved before is recorded.
        """
        choice, number = self.choice, len(self.rejects)
        if choice.keep_above is None:
            return []
        told = [f"{self.kept} kept, {number} rejected: {self.column} below {choice.keep_above:g}"]
        if choice.list_rejects is not None:
            with whole_file(choice.list_rejects) as part, part.open("w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.writelines(f"{path_cell(path)}\n" for path in self.rejects)
            told.append(f"rejected photos are listed in {choice.list_rejects}")
        if choice.move_rejects is not None and not choice.apply:
            told.append(f"--apply would move {number} {_photos(number)} to {choice.move_rejects}; nothing was moved")
        elif choice.move_rejects is not None:
            told += move(self.rejects, choice.move_rejects)
        return told


def move(photos: Collection[str], folder: Path) -> list[str]:
    """Move photos to a folder, in which each keeps its path below what all have in common; nothing there is replaced.

    Each move is recorded in ``moved.csv`` in that folder, before it is made.

    Args:
        photos: paths.
        folder: made if it is not there.

    Returns:
        What was done, a line each; photos that could not be moved are named.
    """
    if not photos:
        return []
    places = {photo: os.path.abspath(photo) for photo in photos}
    common = os.path.commonpath([os.path.dirname(place) for place in places.values()])
    folder.mkdir(parents=True, exist_ok=True)
    moved, problems, record = 0, [], folder / MOVED
    with record.open("a+", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        stream.seek(0)
        recorded = [tuple(row) for row in csv.reader(stream)]
        writer = csv.writer(stream)
        if not recorded:
            writer.writerow(["from", "to"])
        for photo, place in places.items():
            target = _free(folder / os.path.relpath(place, common))
            if not os.path.isfile(place):
                problems.append(f"{photo} is no file, and was not moved")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            step = (place, os.path.abspath(target))
            if step not in recorded[-1:]:  # of a run that was killed before it moved the photo
                writer.writerow(step)
                stream.flush()
            move_file(place, target)
            moved += 1
    return [f"{moved} {_photos(moved)} moved to {folder}, as {record} records", *map(one_line, problems)]


def _free(path: Path) -> Path:
    """A path at which nothing is: with a number where it is taken."""
    number, free = 1, path
    while os.path.lexists(free) or free.name == MOVED:
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _photos(number: int) -> str:
    return "photo" if number == 1 else "photos"
