"""CSV files that users write, read strictly: opinion scores, and scores that were computed elsewhere."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(nan|inf|infinity)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        where: file and line, for messages.
        values: by column.
    """

    where: str
    values: dict[str, str]

    def text(self, column: str) -> str:
        """What stands in the column, without spaces around it; empty where the table has no such column."""
        return (self.values.get(column) or "").strip()

    def number(self, column: str) -> float:
        """The number in the column; it may be nan or infinite.

        Raises:
            ValueError: it is none.
        """
        text = self.values[column]
        if not _NUMBER.fullmatch(text):
            hint = ": write numbers with a decimal point" if re.fullmatch(r"\s*[+-]?\d+,\d+\s*", text) else ""
            raise ValueError(f"{self.where}: expected a number as {column!r}, got {text!r}{hint}")
        return float(text)


def read_sheet(path: Path, needed: tuple[str, ...]) -> list[Line]:
    """Lines of a CSV file in UTF-8 with a header; empty ones are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, lacks a column of `needed`, or a line has more or fewer fields than the header, as one
            with a decimal comma has.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, needed)
            lines = []
            for fields in reader:
                where = f"{path}, line {reader.line_num}"
                if not fields:
                    continue
                if len(fields) != len(header):
                    text = ",".join(fields)[:200]
                    hint = "; is a decimal comma among them?" if len(fields) > len(header) else ""
                    raise ValueError(
                        f"{where}: expected {len(header)} fields as in the header, got {len(fields)}: {text!r}{hint}"
                    )
                lines.append(Line(where, dict(zip(header, fields, strict=True))))
            return lines
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error


def _check_header(path: Path, header: list[str], needed: tuple[str, ...]) -> None:
    for name in needed:
        if name not in header:
            semicolons = len(header) == 1 and ";" in header[0]
            hint = ": separate fields by commas, not semicolons" if semicolons else ""
            raise ValueError(f"{path} has no column {name!r}, it has {header}{hint}")
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"{path} has the column {name!r} twice")
