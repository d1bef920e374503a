"""Rows of results as text, in the formats that people and programs read, and the file that they go to."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from grepq_metric import catalog
from grepq_metric.cli.photos import identity
from grepq_metric.errors import InputError
from grepq_metric.files import disk_error, whole_file
from grepq_metric.tables import FACTS, path_cell, text_cell

Value: TypeAlias = str | int | float | None
Row: TypeAlias = Mapping[str, Value]
SCORES = ("score", "low", "semantic", "high", "mos", "mos_low", "mos_high", "percentile", "points", *FACTS)
"""Columns of real numbers, which are written with six significant digits: a photo's score is known no better."""
PERCENT = ("percentile", "points")
"""Of these, those from 0 to 100, of which people read one decimal."""
REMARKS = ("kept", "facts", "map", "warning", "error")
"""Columns of text that only some rows have; people read them behind the path."""
PATHS = ("path", "map")
"""Columns of text that name files."""
SIZES = ("width", "height")
"""Columns of whole numbers."""


class Format(str, Enum):
    """How results are written."""

    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"


SUFFIXES = {
    ".txt": Format.table,
    ".csv": Format.csv,
    ".json": Format.json,
    ".jsonl": Format.jsonl,
    ".parquet": Format.parquet,
    "": Format.table,
}


def format_for(output: Path | None, given: Format | None) -> Format:
    """The format that is asked for, or the one that the name of the output implies.

    Raises:
        InputError: the name's ending says nothing, or Parquet is to go to standard output.
    """
    if given is not None:
        if given is Format.parquet and (output is None or not is_regular(output)):
            raise InputError("Parquet is no text, and goes to a file alone: name one with --output")
        return given
    if output is None:
        return Format.table
    suffix = output.suffix.lower()
    if suffix in SUFFIXES or not is_regular(output):
        return SUFFIXES.get(suffix, Format.table)
    known = ", ".join(name for name in SUFFIXES if name)
    raise InputError(f"{output} does not say which format is wanted: expected {known}, or --format")


def one_line(text: object) -> str:
    """Text without what would break a line or drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def as_text(name: str) -> str:
    """A file name as Parquet, which holds valid text alone, has it: other bytes are escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


class TableWriter:
    """Columns for people; the path comes behind the numbers, since it has no fixed width, and remarks behind the path."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self.numbers = [name for name in columns if name in SCORES or name in SIZES]

    def start(self) -> str:
        """What comes before the first row."""
        return " ".join(f"{name:>{_width(name)}}" for name in self.numbers) + "  path\n"

    def row(self, row: Row) -> str:
        """One result."""
        cells = []
        for name in self.numbers:
            value = row[name]
            kind = ".1f" if name in PERCENT else "#.3g" if name in FACTS else "#.6g" if name in SCORES else ""
            text = "-" if value is None else f"{value:{kind}}"
            cells.append(f"{text:>{_width(name)}}")
        remarks = [f"  {name}: {one_line(row[name])}" for name in REMARKS if row.get(name)]
        return f"{' '.join(cells)}  {one_line(row['path'])}{''.join(remarks)}\n"

    def end(self) -> str:
        """What comes after the last row."""
        return ""


class CsvWriter:
    """Comma-separated values with a header; an absent value is empty, and no cell is a formula to a spreadsheet."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    def start(self) -> str:
        """The header."""
        return self._line(self.columns)

    def row(self, row: Row) -> str:
        """One result."""
        return self._line([self._cell(name, row[name]) for name in self.columns])

    def end(self) -> str:
        """Nothing."""
        return ""

    @staticmethod
    def _cell(name: str, value: Value) -> Value:
        if isinstance(value, str):
            return path_cell(value) if name in PATHS else text_cell(value)
        return _rounded(name, value)

    def _line(self, values: Sequence[Value]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(values)  # with its own end of lines, by which it quotes either of these in a name
        return text.getvalue().removesuffix("\r\n") + "\n"


class JsonlWriter:
    """One JSON object a line."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    def start(self) -> str:
        """Nothing."""
        return ""

    def row(self, row: Row) -> str:
        """One result."""
        return self._object(row) + "\n"

    def end(self) -> str:
        """Nothing."""
        return ""

    def _object(self, row: Row) -> str:
        return json.dumps({name: _rounded(name, row[name]) for name in self.columns}, allow_nan=False)


class JsonWriter(JsonlWriter):
    """One JSON array, written element by element."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__(columns)
        self.separator = ""

    def start(self) -> str:
        """Open the array."""
        return "["

    def row(self, row: Row) -> str:
        """One result."""
        text = f"{self.separator}\n{self._object(row)}"
        self.separator = ","
        return text

    def end(self) -> str:
        """Close the array."""
        return "\n]\n"


WRITERS: dict[Format, type[TableWriter] | type[CsvWriter] | type[JsonlWriter]] = {
    Format.table: TableWriter,
    Format.csv: CsvWriter,
    Format.json: JsonWriter,
    Format.jsonl: JsonlWriter,
    Format.parquet: JsonlWriter,  # of the journal
}


class Results:
    """Where rows go: a file or standard output. Each is there, whole, as soon as `row` returns.

    The file is made with the first row. An existing one is never touched without `overwrite`. Rows of a Parquet file, which
    can't be appended to, are kept in its `rows_file` until the end.

    Args:
        output: the file; None: standard output.
        format: how rows are written.
        columns: of a row, in order.
        overwrite: replace an existing file; see `refuse_existing` for what must be checked first.
    """

    def __init__(self, output: Path | None, format: Format, columns: Sequence[str], overwrite: bool = False) -> None:
        self.output, self.format, self.overwrite = output, format, overwrite
        self.writer = WRITERS[format](columns)
        self.started = False
        self._rows = rows_file(output, format) if output is not None else None
        self._file: io.FileIO | None = None
        self._whole = 0

    def take_over(self, rows: Iterable[Row]) -> None:
        """Begin with rows of an earlier run, which may come from the file that they are written to.

        Raises:
            OSError: they can't be written; the file is as it was.
        """
        assert self._rows is not None
        with whole_file(self._rows) as part, part.open("wb") as stream:
            stream.write(_encoded(self.writer.start()))
            for row in rows:
                stream.write(_encoded(self.writer.row(row)))
            self._whole = stream.tell()
        self._file = io.FileIO(self._rows, "a")
        self.started = True

    def row(self, row: Row) -> None:
        """Write one result.

        Raises:
            OSError: it can't be written; the message names the file, which ends with the last whole row.
        """
        self._write(self.writer.row(row))

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            # After a failure to write, there is no sense in another try.
            if self.started and not isinstance(error, OSError):
                self._write(self.writer.end())
        finally:
            if self._file is not None:
                self._file.close()
        if self.started and self.format is Format.parquet and not isinstance(error, OSError):
            self._convert()

    def _convert(self) -> None:
        from grepq_metric.cli.parquet import write_parquet

        if self.output is None or self._rows is None:
            return
        try:
            write_parquet(self.output, self.writer.columns, read_rows(self._rows, Format.jsonl, self.writer.columns))
        except OSError as error:
            told = f"{error.strerror or error}; the rows are kept in {self._rows}, and --resume goes on with them"
            raise OSError(error.errno or errno.EIO, told) from error
        self._rows.unlink()

    def _write(self, text: str) -> None:
        try:
            if not self.started:
                self._open()
                text = self.writer.start() + text
                self.started = True
            if self._file is None:
                sys.stdout.write(text)
                sys.stdout.flush()
                return
            data = memoryview(_encoded(text))
            while data:
                data = data[self._file.write(data) :]
            self._whole = self._file.tell() if self._file.seekable() else 0
        except OSError as error:
            if self._file is not None and self._file.seekable():
                self._file.truncate(self._whole)
            if error.errno in (errno.EPIPE, errno.EEXIST):
                raise
            raise disk_error(self.output or "standard output", error) from error

    def _open(self) -> None:
        if self._rows is not None:
            fresh = not self.overwrite and is_regular(self._rows)
            self._file = io.FileIO(self._rows, "x" if fresh else "w")
        elif hasattr(sys.stdout, "reconfigure"):  # file names need not be valid text, and are no matter of the locale
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def rows_file(output: Path, format: Format) -> Path:
    """The file that rows are appended to: the output itself; of a Parquet file JSON lines beside it, until the run ends."""
    return output.with_name(f"{output.name}.rows.jsonl") if format is Format.parquet else output


def read_rows(path: Path, format: Format, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a file that `Results` wrote, also where the run was killed: a torn last row is left out.

    Raises:
        InputError: it is damaged, or has other columns.
    """
    if format is Format.parquet:
        from grepq_metric.cli.parquet import read_parquet

        yield from read_parquet(path, columns)
        return
    # Only a line feed ends a line: file names hold other breaks.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        yield from (_read_csv if format is Format.csv else _read_json)(_whole_lines(stream), path, columns)


def _whole_lines(stream: Iterable[str]) -> Iterator[str]:
    """Lines, without a last one that is torn."""
    return (line for line in stream if line.endswith("\n"))


def _read_csv(lines: Iterator[str], path: Path, columns: Sequence[str]) -> Iterator[Row]:
    records = _records(csv.reader(lines), path)
    _, header = next(records, (0, None))
    if header is not None and header != list(columns):
        raise InputError(f"{path} has the columns {','.join(header):.200}, expected {','.join(columns)}")
    torn = False
    for number, record in records:
        if torn:
            raise InputError(f"{path} is damaged before line {number}: expected {len(columns)} values in each row")
        torn = len(record) != len(columns)  # within quotes, if nothing follows
        if not torn:
            try:
                yield {name: _parsed(name, text) for name, text in zip(columns, record, strict=True)}
            except ValueError as error:
                raise InputError(f"{path} is damaged at line {number}: {error}") from error


def _records(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise InputError(f"{path} is damaged at line {reader.line_num}: {error}") from error


def _read_json(lines: Iterator[str], path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        text = line.strip().rstrip(",")
        if text in ("", "[", "]"):
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged at line {number}: {error}") from error
        if not isinstance(row, dict) or list(row) != list(columns):
            raise InputError(f"{path} has a row of other columns at line {number}, expected {','.join(columns)}")
        yield row


def _parsed(name: str, text: str) -> Value:
    if not text:
        return None
    return float(text) if name in SCORES else int(text) if name in SIZES else text


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def refuse_existing(
    target: Path,
    option: str,
    inputs: Collection[object],
    overwrite: bool,
    instead: str = "choose another name, or --overwrite to replace it",
) -> None:
    """Check that writing `target` destroys nothing.

    Args:
        target: the file to be written.
        option: that names it, for the message.
        inputs: the `identity` of every file that the command reads.
        overwrite: whether files that are no inputs may be replaced.
        instead: what can be done where they may not.

    Raises:
        FileExistsError: it is an input, or exists without `overwrite`.
        IsADirectoryError: it is a folder.
    """
    if not os.path.lexists(target):
        return
    if target.is_dir():
        raise IsADirectoryError(f"{option} {target} is a folder, expected a file")
    if not is_regular(target):
        return
    if identity(target) in inputs:
        raise FileExistsError(f"{option} {target} is one of the inputs, which are never overwritten")
    if not overwrite:
        raise FileExistsError(f"{option} {target} exists: {instead}")


def input_identities(photos: Iterable[str], head: Path | None, weights: str | None) -> set[object]:
    """The `identity` of every file that a command reads."""
    files: list[str | Path] = list(photos)
    if head is not None:
        files.append(head)
    if weights is not None and os.path.exists(weights):
        folder = Path(weights)
        files.extend(folder.iterdir() if folder.is_dir() else [folder])
    return {identity(file) for file in files}


def refuse_weights_folder(folder: Path, option: str, overwrite: bool, own: str | None = None) -> None:
    """Check that weights can be written to `folder`, destroy nothing there, and will be found there.

    Args:
        folder: the weights folder to be written.
        option: that names it, for the message.
        overwrite: whether weights that it holds may be replaced.
        own: the built-in name whose weights the command makes.

    Raises:
        FileExistsError: it holds files that would be replaced, and `overwrite` is not set.
        InputError: its path is a built-in name, which --weights would load in its place.
        NotADirectoryError: it is a file.
    """
    if str(folder) != own and catalog.find(str(folder)) is not None:
        raise InputError(f"{option} {folder} is the name of built-in weights: choose another folder")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{option} {folder} is a file, expected a folder")
    from grepq_metric.weights import CONFIG, TENSORS

    there = next((folder / name for name in (TENSORS, CONFIG) if (folder / name).exists()), None)
    if there is not None and not overwrite:
        raise FileExistsError(f"{there} exists: choose another {option}, or replace the weights with --overwrite")


def is_regular(path: Path) -> bool:
    """Whether it is a file, or not there yet: no device such as /dev/null and no pipe, which hold nothing to be lost."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _width(name: str) -> int:
    return max(8 if name in SCORES else 6, len(name))


def _rounded(name: str, value: Value) -> Value:
    return float(f"{value:.6g}") if name in SCORES and value is not None else value
