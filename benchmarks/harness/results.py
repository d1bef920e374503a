"""Result files: typed rows and records with a schema version. They hold names, hashes and scores of metrics; no opinion score.

In ``RESULTS/DATASET/`` lies ``dataset.json`` (`DatasetFacts`), and in ``RESULTS/DATASET/METRIC/``, with a ``.json``
(`ResultRecord`) that is written last beside each:

- ``zero-shot.csv``: `ScoreRow`, a score for each image;
- ``few-labels.csv`` and ``full.csv``: `DrawRow`, how a fitted head agrees with opinion scores, draw by draw;
- ``few-labels.predictions.csv`` and ``full.predictions.csv``: `PredictionRow`, what the heads say of each image;
- ``features.csv``: `FeatureRow`, a cache.

The last two can be made again from a user's copy of the data set, and need not be kept.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from benchmarks.harness.items import PHOTOS
from grepq_metric.files import disk_error, whole_file

SCHEMA = 1
PROTOCOLS = ("zero-shot", "few-labels", "full")
FIGURES = ("srcc", "plcc", "plcc_logistic4", "plcc_logistic5", "plcc_cubic", "krcc", "rmse")
ALL_LABELS = "all"
Cell = str | int | float | None


class _Row(Protocol):
    """A line of a result file."""

    COLUMNS: ClassVar[tuple[str, ...]]

    def cells(self) -> Sequence[Cell]:
        """Its fields."""

    @classmethod
    def read(cls, cells: dict[str, str]) -> _Row:
        """The row of fields by column; ValueError if they are damaged."""


Row = TypeVar("Row", bound=_Row)
Facts = TypeVar("Facts", "DatasetFacts", "ResultRecord")


@dataclass(frozen=True)
class ScoreRow:
    """What a metric says of an image.

    Attributes:
        image: its name.
        value: score; None if it failed.
        seconds: that it took; None if no image was read.
        error: why it failed, or empty.
    """

    image: str
    value: float | None
    seconds: float | None
    error: str = ""
    COLUMNS: ClassVar[tuple[str, ...]] = ("image", "value", "seconds", "error")

    def cells(self) -> Sequence[Cell]:
        return self.image, self.value, self.seconds, self.error

    @classmethod
    def read(cls, cells: dict[str, str]) -> ScoreRow:
        return cls(cells["image"], _number(cells["value"]), _number(cells["seconds"]), cells["error"])


@dataclass(frozen=True)
class FeatureRow:
    """Features of an image, as `ScoreRow`; the value is ``(C,)`` float32."""

    image: str
    value: np.ndarray | None
    seconds: float | None
    error: str = ""
    COLUMNS: ClassVar[tuple[str, ...]] = ("image", "features", "seconds", "error")

    def cells(self) -> Sequence[Cell]:
        text = "" if self.value is None else base64.b64encode(self.value.astype("<f4").tobytes()).decode()
        return self.image, text, self.seconds, self.error

    @classmethod
    def read(cls, cells: dict[str, str]) -> FeatureRow:
        text = cells["features"]
        value = np.frombuffer(base64.b64decode(text, validate=True), "<f4") if text else None
        return cls(cells["image"], value, _number(cells["seconds"]), cells["error"])


@dataclass(frozen=True)
class PredictionRow:
    """What a head that was fitted to `labels` labels in draw number `draw` says of an image."""

    labels: int | str
    draw: int
    image: str
    value: float
    COLUMNS: ClassVar[tuple[str, ...]] = ("labels", "draw", "image", "value")

    def cells(self) -> Sequence[Cell]:
        return self.labels, self.draw, self.image, self.value

    @classmethod
    def read(cls, cells: dict[str, str]) -> PredictionRow:
        return cls(_labels(cells["labels"]), int(cells["draw"]), cells["image"], float(cells["value"]))


@dataclass(frozen=True)
class DrawRow:
    """How the head of one draw agrees with opinion scores.

    Attributes:
        labels: that were asked for, or ``all``.
        draw: its number.
        images: that it was tested on.
        figures: by name, as in `FIGURES`; None where there is none.
        problems: what could not be computed.
    """

    labels: int | str
    draw: int
    images: int
    figures: dict[str, float | None]
    problems: tuple[str, ...] = ()
    COLUMNS: ClassVar[tuple[str, ...]] = ("labels", "draw", "images", *FIGURES, "problems")

    def cells(self) -> Sequence[Cell]:
        return self.labels, self.draw, self.images, *(self.figures[key] for key in FIGURES), "; ".join(self.problems)

    @classmethod
    def read(cls, cells: dict[str, str]) -> DrawRow:
        figures = {key: _number(cells[key]) for key in FIGURES}
        problems = tuple(filter(None, cells["problems"].split("; ")))
        return cls(_labels(cells["labels"]), int(cells["draw"]), int(cells["images"]), figures, problems)


@dataclass(frozen=True)
class DatasetFacts:
    """What is said of a data set beside its results.

    Attributes:
        id: name and a hash of images and opinion scores.
        name: short, for tables.
        title: as in the literature.
        kind: ``authentic``, ``synthetic`` or ``generated``.
        images: their number.
        images_sha256: of names and image files.
        scores_sha256: of names and opinion scores.
        lower_better: a lower opinion score is better.
        mos_range: least and greatest possible opinion score; None: not known.
        licence: terms, in short.
        note: anything else.
        track: one of `benchmarks.harness.items.TRACKS`; a file that names none is of photos.
    """

    id: str
    name: str
    title: str
    kind: str
    images: int
    images_sha256: str
    scores_sha256: str
    lower_better: bool
    mos_range: list[float | None]
    licence: str
    note: str
    track: str = PHOTOS


@dataclass(frozen=True)
class ResultRecord:
    """One metric on one data set by one protocol: what was run, on what, and what it took.

    Attributes:
        dataset: its id.
        dataset_name: short.
        metric: its id.
        metric_name: short.
        mode: ``NR`` or ``FR``.
        lower_better: a lower score is better.
        measured: the images were read here; else the scores were computed elsewhere.
        protocol: one of `PROTOCOLS`, or ``features``.
        images: their number.
        absent: names of images that a partial copy lacks.
        failed: number of images that the metric failed on.
        seconds_per_image: median.
        peak_memory_mib: of the process.
        split: ``official``, or how it was drawn; None: all images.
        median_srcc: by budget of labels.
        made_of: what fitted heads depend on beside the images.
        provenance: what the metric's id stands for.
        command: that made it.
        date: when.
        versions: by package.
        machine: in a few words.
        threads: of torch.
        processes: that shared the images.
    """

    dataset: str
    dataset_name: str
    metric: str
    metric_name: str
    mode: str
    lower_better: bool
    measured: bool
    protocol: str
    images: int
    absent: list[str]
    failed: int
    seconds_per_image: float | None
    peak_memory_mib: float | None
    split: str | None
    median_srcc: dict[str, float]
    made_of: dict[str, Any]
    provenance: dict[str, Any]
    command: str
    date: str
    versions: dict[str, str]
    machine: str
    threads: int
    processes: int


@dataclass
class RowWriter(Generic[Row]):
    """Appends rows to a file, each as soon as it is known, so that a run that is killed keeps them."""

    path: Path
    stream: typing.TextIO = field(repr=False)

    def write(self, row: Row) -> None:
        """Write a row.

        Raises:
            OSError: it can't be written; the message names the file.
        """
        try:
            _writer(self.stream).writerow(row.cells())
            self.stream.flush()
        except OSError as error:
            raise disk_error(self.path, error) from error


@contextmanager
def appending(path: Path, kind: type[Row]) -> Iterator[RowWriter[Row]]:
    """A new file of rows of `kind` that is written row by row.

    Raises:
        OSError: it can't be written; the message names it.
    """
    try:
        stream = path.open("w", newline="", encoding="utf-8")
        _writer(stream).writerow(kind.COLUMNS)
        stream.flush()
    except OSError as error:
        raise disk_error(path, error) from error
    try:
        yield RowWriter(path, stream)
    finally:
        try:
            stream.close()
        except OSError as error:  # what could not be flushed
            raise disk_error(path, error) from error


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write a whole file of rows of `kind`, or none.

    Raises:
        OSError: it can't be written; the message names it.
    """
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = _writer(stream)
        writer.writerow(kind.COLUMNS)
        writer.writerows(row.cells() for row in rows)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Rows of a file; a line that a kill cut off is dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another version; the message names it.
    """
    data = path.read_bytes()
    # csv ends rows at line feeds outside of quotes; str.splitlines would also cut names at U+2028, U+0085 or a form feed.
    try:
        text = data[: data.rfind(b"\n") + 1].decode("utf-8")
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it and run again") from error
    if not lines:
        return []
    if tuple(lines[0]) != kind.COLUMNS:
        raise ValueError(f"{path} has the columns {lines[0]}, expected {list(kind.COLUMNS)}; delete it and run again")
    rows = []
    for cells in lines[1:]:
        if len(cells) == len(kind.COLUMNS):
            try:
                rows.append(typing.cast(Row, kind.read(dict(zip(kind.COLUMNS, cells, strict=True)))))
            except ValueError as error:
                raise ValueError(f"{path} is damaged: {error}; delete it and run again") from error
    return rows


def part_files(folder: Path, name: str) -> list[Path]:
    """Files of runs that were stopped, the oldest first."""
    return sorted(folder.glob(f"{name}.*.part.csv"), key=lambda path: path.name.split(".")[2])


def part_file(folder: Path, name: str, process: str, time: int) -> Path:
    """The file of rows that a process writes one by one; `time` orders those of several runs."""
    return folder / f"{name}.{process}.{time:020d}.part.csv"


def write_facts(path: Path, facts: DatasetFacts | ResultRecord) -> None:
    """Write facts as JSON with the schema version.

    Raises:
        OSError: it can't be written; the message names it.
    """
    write_json(path, asdict(facts))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file with the schema version, whole or not at all.

    Raises:
        OSError: it can't be written; the message names it.
    """
    with whole_file(path) as part:
        part.write_text(json.dumps({"schema": SCHEMA, **content}, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_facts(path: Path, kind: type[Facts]) -> Facts:
    """Facts of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another schema version; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it and run again") from error
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path} is of another version than schema {SCHEMA}, which this program reads; run again")
    content = {one.name: one.default for one in fields(kind) if one.default is not MISSING} | content
    hints = typing.get_type_hints(kind)
    names = [one.name for one in fields(kind)]
    wrong = sorted(set(names) ^ set(content)) or [name for name in names if not _fits(content[name], hints[name])]
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} missing or not as expected; delete it and run again")
    return kind(**content)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of JSON has the type of a field."""
    if hint is Any:
        return True
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in typing.get_args(hint))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(one, typing.get_args(hint)[0]) for one in value)
    if typing.get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(one, typing.get_args(hint)[1]) for one in value.values())
    return isinstance(value, hint)


def _writer(stream: typing.TextIO) -> Any:
    # Text is quoted: a carriage return in a name would else end the row.
    return csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def _number(text: str) -> float | None:
    return float(text) if text else None


def _labels(text: str) -> int | str:
    return text if text == ALL_LABELS else int(text)
