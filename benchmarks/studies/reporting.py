"""What every study leaves: its figures as JSON, from which README and documentation are filled, and Markdown made of that."""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.harness.machine import command, machine, today
from grepq_metric.files import whole_file

SCHEMA = 1
"""Version of the JSON; it grows when its readers must change."""

Value = str | int | float
Row = dict[str, Value]


@dataclass(frozen=True)
class Report:
    """The figures of a study and how they came about.

    Attributes:
        study: name of its module and its files.
        command: what measured them.
        date: when, ``YYYY-MM-DD``.
        weights: id of the weights that were measured.
        data: what they were measured on: ``name``, ``images`` and, of opinion scores, ``id``.
        rows: figures in full precision; where a study has several tables, each row names its ``table``.
        torch: its version, if known, as are the next two.
        machine: processor, cores and system.
        threads: of torch.
        notes: what a reader must know besides; each ends as a sentence does.

    Raises:
        ValueError: a row holds something other than strings and finite numbers.
    """

    study: str
    command: str
    date: str
    weights: str
    data: Row
    rows: list[Row]
    torch: str | None = None
    machine: str | None = None
    threads: int | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for row in (self.data, *self.rows):
            for key, value in row.items():
                if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
                    raise ValueError(f"{self.study}: {key!r} is {value!r}, expected a string or a finite number")

    def table(self, name: str) -> list[Row]:
        """The rows of one of its tables."""
        return [row for row in self.rows if row["table"] == name]


Markdown = Callable[[Report], list[str]]
"""Lines of Markdown that show a report; what it needs is in there."""


def measured(study: str, weights: str, data: Row, rows: list[Row], notes: Sequence[str] = ()) -> Report:
    """The report of what the running command has just measured.

    Args:
        study: name of the module.
        weights: id of the weights.
        data: see `Report`.
        rows: the figures.
        notes: see `Report`.
    """
    made_by = command(f"benchmarks.studies.{study}")
    return Report(
        study, made_by, today(), weights, data, rows, torch.__version__, machine(), torch.get_num_threads(), list(notes)
    )


def write_report(report: Report, folder: Path, markdown: Markdown) -> None:
    """Write ``STUDY.json`` and ``STUDY.md`` into a folder, and print the latter.

    Raises:
        OSError: they can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {key: value for key, value in vars(report).items() if key != "rows" and value not in (None, [])}
    head = json.dumps({"schema": SCHEMA, **facts}, indent=2, ensure_ascii=False).removesuffix("\n}")
    rows = ",\n".join("    " + json.dumps(row, allow_nan=False, ensure_ascii=False) for row in report.rows)
    with whole_file(folder / f"{report.study}.json") as part:
        part.write_text(f'{head},\n  "rows": [\n{rows}\n  ]\n}}\n', encoding="utf-8")
    text = "\n".join([*markdown(report), "", *footer(report)])
    with whole_file(folder / f"{report.study}.md") as part:
        part.write_text(text + "\n", encoding="utf-8")
    print(text)


def read_report(folder: Path, study: str) -> Report:
    """The report that a study has left in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another schema or another study.
    """
    path = folder / f"{study}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no report at {path}: measure first")
    content = json.loads(path.read_text(encoding="utf-8"))
    schema = content.pop("schema", None)
    if schema != SCHEMA or content.get("study") != study:
        raise ValueError(f"{path} holds {content.get('study')!r} in schema {schema}, expected {study!r} in schema {SCHEMA}")
    return Report(**content)


def footer(report: Report) -> list[str]:
    """How the figures came about, two or more lines of Markdown."""
    images = f"{report.data['name']}, {report.data['images']} images"
    identity = f" ({report.data['id']})" if "id" in report.data else ""
    known = [report.date, report.weights, f"{images}{identity}"]
    known += [f"torch {report.torch}"] if report.torch else []
    known += [f"{report.threads} threads"] if report.threads else []
    known += [report.machine] if report.machine else []
    return [*report.notes, f"{'; '.join(known)}.", f"`{report.command}`"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown, a line a row."""
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(cells)} |" for cells in rows)]


def srcc_cell(row: Row) -> str:
    """SRCC of a row and, where it has one, its interval of 95 %."""
    between = f" ({row['srcc_low']:.3f} to {row['srcc_high']:.3f})" if "srcc_low" in row else ""
    return f"{row['srcc']:.3f}{between}"


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str] = ()) -> None:
    """Write rows that have the same keys as a CSV file, numbers in full precision.

    Args:
        path: the file; its folder is made.
        rows: what to write.
        columns: the keys, which need to be given where there may be no rows.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path, text: Sequence[str] = ()) -> list[Row]:
    """Rows of a CSV file of numbers; the columns named in `text` stay strings.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: a value is no number.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: value if key in text else _number(value) for key, value in row.items()} for row in rows]


def _number(value: str) -> int | float:
    return int(value) if value.lstrip("-").isdecimal() else float(value)


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line that all studies share: ``--out`` and ``--report-only``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--report-only", action="store_true", help="measure nothing: write JSON and Markdown anew from what is in --out"
    )
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, needed: Sequence[str] = ()) -> argparse.Namespace:
    """Parse a command line on which the options `needed` may only be missing with ``--report-only``."""
    given = parser.parse_args(arguments)
    missing = [f"--{name.replace('_', '-')}" for name in needed if not getattr(given, name)]
    if missing and not given.report_only:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return given
