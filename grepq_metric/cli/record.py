"""What a run was and which photos it scored, beside its output: by this, a later run goes on after it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from grepq_metric import archives
from grepq_metric.cli.writers import Format, Row, as_text, is_regular, read_rows, rows_file
from grepq_metric.errors import InputError
from grepq_metric.files import disk_error, whole_file
from grepq_metric.tables import path_cell

State: TypeAlias = "tuple[int, int]"
"""Of a file: its size in bytes, and its time of modification in nanoseconds."""
KEY = "grepq score"
"""Of the first line, by which a record is known."""


def state_of(path: str) -> State | None:
    """Size and time of a file, or of the archive that it is in; None: there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # also a name with a NUL byte
        within = None if "\0" in path else archives.split(path)
        return None if within is None else state_of(str(within[0]))
    return found.st_size, found.st_mtime_ns


class Record:
    """The file ``OUTPUT.run.jsonl``: facts of the run in its first line, and a photo in each of the others.

    A photo's line ``[path, size, modified]`` is written before its row, so that no row is without one. Of a photo that has
    several, the last one counts.

    Args:
        output: of the run.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.path = output, output.with_name(f"{output.name}.run.jsonl")
        self._file: io.FileIO | None = None
        self._facts: Mapping[str, Any] = {}

    def refuse_foreign(self) -> None:
        """Check that the record's name is free, or has a record.

        Raises:
            FileExistsError: another file has it.
        """
        if self.path.exists() and self._first() is None:
            raise FileExistsError(f"{self.path} is where this run is to be recorded, and holds something else: move it away")

    def begin(self, facts: Mapping[str, Any], states: Mapping[str, State] | None = None) -> None:
        """Take the facts, which are written with the first photo, or now with those of an earlier run.

        Raises:
            OSError: the record can't be written; the message names it.
        """
        self._facts = facts
        if states is not None:
            self._write(states)

    def note(self, path: str, state: State | None) -> None:
        """Write that a photo in this state is about to get a row.

        Raises:
            OSError: it can't be written; the message names it.
        """
        file = self._write({}) if self._file is None else self._file
        data = memoryview((json.dumps([path, *(state or (None, None))]) + "\n").encode())
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            raise disk_error(self.path, error) from error

    def close(self) -> None:
        """Nothing more is noted."""
        if self._file is not None:
            self._file.close()

    def facts(self) -> dict[str, Any]:
        """Facts of the run that is recorded.

        Raises:
            InputError: there is no record, or it is none.
        """
        found = self._first()
        if found is None:
            raise InputError(
                f"{self.output} can't be resumed: {self.path.name}, which says what it was scored with, is not beside it; "
                "choose another --output, or --overwrite to start again"
            )
        return found

    def states(self) -> dict[str, State]:
        """Photos that are recorded, and their files' states when they were scored; torn lines are left out."""
        found: dict[str, State] = {}
        with self.path.open(encoding="utf-8", errors="replace") as stream:
            next(stream, None)
            for line in stream:
                try:
                    path, size, modified = json.loads(line)
                except (ValueError, TypeError):  # a killed run's last line, or what follows on it
                    continue
                found.pop(path, None)
                if size is not None:
                    found[path] = (size, modified)
        return found

    def _write(self, states: Mapping[str, State]) -> io.FileIO:
        with whole_file(self.path) as part, part.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps({KEY: self._facts}) + "\n")
            for path, state in states.items():
                stream.write(json.dumps([path, *state]) + "\n")
        self._file = io.FileIO(self.path, "a")
        return self._file

    def _first(self) -> dict[str, Any] | None:
        try:
            with self.path.open(encoding="utf-8") as stream:
                found = json.loads(next(stream, "null"))
        except (OSError, ValueError):
            return None
        facts = found.get(KEY) if isinstance(found, dict) else None
        return facts if isinstance(facts, dict) else None


class Previous:
    """An earlier run into the same output, which is resumed.

    Args:
        output: that holds its rows.
        format: of the output.

    Raises:
        InputError: what it was scored with is not recorded, or the output is damaged.

    Attributes:
        done: paths of photos that have a score of the file as it is now.
    """

    def __init__(self, output: Path, format: Format) -> None:
        self.record, self.format = Record(output), format
        self._facts = self.record.facts()
        journal = rows_file(output, format)
        # What a run that was killed had taken over from a Parquet file is in its journal as well.
        self.source, self.stored = (journal, Format.jsonl) if journal.exists() and journal != output else (output, format)
        self.columns: list[str] = self._facts["columns"]
        self.states = self.record.states()
        written = path_cell if self.stored is Format.csv else as_text
        self._escaped = {text: path for path in self.states if (text := written(path)) != path}
        self.done = {path for row in self._rows() if row["error"] is None and self._unchanged(path := self._path(row))}

    @classmethod
    def find(cls, output: Path, format: Format) -> Previous | None:
        """The run that left the output; None: there is none."""
        there = output.exists() or rows_file(output, format).exists()
        return cls(output, format) if there else None

    def check(self, facts: Mapping[str, Any]) -> None:
        """Check that this run gives what the earlier one gave.

        Raises:
            InputError: it was of other weights or options; the message says which.
        """
        for name, value in facts.items():
            if (before := self._facts.get(name)) != value:
                raise InputError(
                    f"{self.record.output} can't be resumed: its {name} was {_plain(before)}, and now is {_plain(value)}; "
                    "choose another --output, or --overwrite to start again"
                )

    def kept(self, todo: Iterable[str]) -> Iterator[Row]:
        """Its rows, but for those of photos that are scored now."""
        again = set(todo)
        return (row for row in self._rows() if self._path(row) not in again)

    def _rows(self) -> Iterator[Row]:
        return read_rows(self.source, self.stored, self.columns)

    def _path(self, row: Row) -> str:
        """Of a row's photo, as it is on the disk."""
        path = str(row["path"])
        return self._escaped.get(path, path)

    def _unchanged(self, path: str) -> bool:
        """Whether a photo's file is as it was; one that is gone can't be scored again."""
        now = state_of(path)
        return now is None or now == self.states.get(path)


def facts_of(facts: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """What two runs must share to be one: what `Scorer.facts` says, but for the device, and the columns."""
    return {**{name: value for name, value in facts.items() if name != "device"}, "columns": list(columns)}


def recorded(output: Path | None, format: Format) -> bool:
    """Whether runs into an output are recorded: files that programs read, and no devices."""
    return output is not None and format is not Format.table and is_regular(output)


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
