"""Finished tables of scores: CSV, JSON, JSON lines and Parquet, as `grepq score` and others write them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from grepq_metric.errors import InputError

Row: TypeAlias = "dict[str, str | int | float | None]"
"""Of a table, by column; an empty cell is None."""
SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
"""Endings of files that are read as tables; also folders that hold Parquet files alone are."""
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
FACTS = ("sharpness", "noise", "exposure", "colourfulness", "blocking")
"""Columns of what `grepq_metric.facts` measures, in order."""
TEXTS = ("path", "image", "error", "warning", "map", "kept", "facts", "weights_id")
"""Columns of CSV files that are text, whatever they hold."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # how cells begin that a spreadsheet computes


def is_table(path: str | Path) -> bool:
    """Whether a path is that of a table: a file with one of the `SUFFIXES`, or a folder of Parquet files."""
    path = Path(path)
    return path.suffix.lower() in SUFFIXES if path.is_file() else path.is_dir() and bool(_parts(path))


def read_table(path: str | Path, columns: Collection[str] = ()) -> list[Row]:
    """Read a finished table of scores, whole.

    Numbers of CSV files have a decimal point; a column is one of numbers if all of its cells are, but for `TEXTS`. A last line
    that is torn, of a run that was killed, is an error.

    Args:
        path: a file with one of the `SUFFIXES`, or a folder of Parquet files, such as a run on a cluster leaves.
        columns: that it must have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, has no rows, lacks a column, or its ending is none of the `SUFFIXES`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from grepq_metric.tables import read_table
        >>> path = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> _ = path.write_text("path,score,error\\na.jpg,0.7,\\nb.jpg,,cannot read\\n")
        >>> read_table(path, ["path", "score"])[1]
        {'path': 'b.jpg', 'score': None, 'error': 'cannot read'}
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"no such table: {path}")
    try:
        if path.is_dir() or suffix == ".parquet":
            rows = _parquet(path)
        elif suffix == ".csv":
            rows = _csv(path)
        elif suffix in SUFFIXES:
            rows = _json(path, lines=suffix == ".jsonl")
        else:
            raise InputError(f"{path} is no table: expected a file that ends in {', '.join(SUFFIXES)}")
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not rows:
        raise InputError(f"{path} has no rows")
    there = dict.fromkeys(name for row in rows for name in row)
    if missing := [name for name in columns if name not in there]:
        raise InputError(f"{path} has no column {missing[0]!r}, it has {', '.join(map(repr, there)):.200}")
    return rows


def path_cell(path: str) -> str:
    """A path as a cell of a CSV file: with ``./`` before it, by which it leads where it did, if it would be a formula.

    Examples:
        >>> from grepq_metric.tables import path_cell
        >>> path_cell("=1+1.jpg"), path_cell("1+1.jpg")
        ('./=1+1.jpg', '1+1.jpg')
    """
    return f"./{path}" if path.startswith(_FORMULA) else path


def text_cell(text: str) -> str:
    """Text as a cell of a CSV file: what a spreadsheet would take for a formula has an apostrophe before it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def need_pyarrow() -> ModuleType:
    """pyarrow's module for Parquet.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError('Parquet needs pyarrow: pip install "grepq-metric[parquet]"') from error
    return pyarrow.parquet


def header(lines: Iterable[str], wanted: Collection[str] = ()) -> tuple[str, list[str]]:
    """The delimiter by which the header of a CSV file has the wanted columns, or else the most, and all of its columns."""
    first = next(iter(lines), "")
    found = {d: next(csv.reader([first], delimiter=d), []) for d in DELIMITERS}
    best = max(found, key=lambda delimiter: (len(set(wanted) & set(found[delimiter])), len(found[delimiter])))
    return best, found[best]


def _csv(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        delimiter, names = header(stream)
        stream.seek(0)
        reader = csv.reader(stream, delimiter=delimiter)
        next(reader, None)
        records = []
        for record in reader:
            if not record:
                continue
            if len(record) != len(names):
                raise InputError(
                    f"{path}, line {reader.line_num}: expected {len(names)} fields, got {len(record)}: "
                    f"{delimiter.join(record)[:200]!r}"
                )
            records.append(record)
    columns = (
        [_column(name, values) for name, values in zip(names, zip(*records, strict=True), strict=True)] if records else []
    )
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _column(name: str, cells: Iterable[str]) -> list[Any]:
    cells = list(cells)
    if name not in TEXTS:
        try:
            return [_number(cell) if cell.strip() else None for cell in cells]
        except ValueError:
            pass
    return [cell or None for cell in cells]


def _number(text: str) -> int | float:
    value = math.nan if "_" in text else float(text)  # Python takes 1_000 for a number
    if not math.isfinite(value):
        raise ValueError(text)
    return int(text) if text.strip().lstrip("+-").isdigit() else value


def _json(path: Path, lines: bool) -> list[Row]:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    rows = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is no table: expected {'an object a line' if lines else 'an array of objects'}")
    return rows


def _parquet(path: Path) -> list[Row]:
    parquet = need_pyarrow()
    import pyarrow

    try:
        return [row for part in (_parts(path) if path.is_dir() else [path]) for row in parquet.read_table(part).to_pylist()]
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{path} is damaged or no Parquet file: {error}") from error


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))
