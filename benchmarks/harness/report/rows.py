"""What a report consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.agreement import Interval
from benchmarks.harness.results import FIGURES, DatasetFacts, ResultRecord

MEASURED, FROM_FILE, PUBLISHED = "measured", "file", "published"
"""Where the figures of a row come from: images that were scored here, scores from a file, or a paper."""


@dataclass(frozen=True)
class Found:
    """A result that lies in a folder."""

    folder: Path
    record: ResultRecord


@dataclass
class ReportRow:
    """One metric on one dataset by one protocol, budget of labels and split.

    Attributes:
        metric: its id.
        name: short, for tables.
        mode: ``NR`` or ``FR``.
        origin: one of `MEASURED`, `FROM_FILE` and `PUBLISHED`.
        dataset: its name in this report.
        dataset_id: its id; empty where the row is published.
        protocol: as in `benchmarks.harness.results.PROTOCOLS`.
        labels: that heads are fitted to; 0: none, ``all``: all.
        split: ``all`` images, the official ``test`` split, or ``random`` ones.
        images: that were tested; None: not known.
        figures: by name, as in `FIGURES`; None where there is none.
        intervals: of ``srcc`` and ``plcc``, where there are any.
        letters: metrics that share one do not differ significantly; None: not tested.
        seconds: per image.
        memory: peak, in MiB.
        failed: images that the metric failed on.
        notes: what a reader must know.
        source: the command, or the paper.
        date: when it was measured.
        provenance: what was run, on what.
    """

    metric: str
    name: str
    mode: str
    origin: str
    dataset: str
    protocol: str
    dataset_id: str = ""
    labels: int | str = 0
    split: str = "all"
    images: int | None = None
    figures: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(FIGURES))
    intervals: dict[str, Interval] = field(default_factory=dict)
    letters: str | None = None
    seconds: float | None = None
    memory: float | None = None
    failed: int | None = None
    notes: list[str] = field(default_factory=list)
    source: str = ""
    date: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """The same for CSV and the page: figures and intervals by name, intervals as lists."""
        facts = {key: value for key, value in vars(self).items() if key not in ("figures", "intervals", "provenance")}
        intervals = {
            f"{key}_interval": list(self.intervals[key]) if key in self.intervals else None for key in ("srcc", "plcc")
        }
        return {**facts, **self.figures, **intervals, "provenance": self.provenance}


def notes_on(provenance: Mapping[str, Any], protocol: str) -> list[str]:
    """What a reader must know of the weights behind a result. Heads are not those of GRepQ's authors, whatever is below."""
    keys = ("plain_clip", "published_method") if protocol == "zero-shot" else ("plain_clip",)
    return [provenance[key] for key in keys if key in provenance]


@dataclass(frozen=True)
class Residual:
    """An image whose opinion score the fitted curve misses."""

    image: str
    path: Path
    score: float
    mos: float
    residual: float


@dataclass(frozen=True)
class Scatter:
    """Scores of single images against opinion scores, with the fitted curve and the images farthest from it."""

    row: ReportRow
    points: list[tuple[float, float, str]]
    curve: list[list[float]] | None
    residuals: list[Residual]


@dataclass(frozen=True)
class Report:
    """Everything that is shown.

    Attributes:
        created: date of the newest result, so that the same results make the same report.
        datasets: by the name that rows give them.
        rows: measured ones and those from files, then published ones.
        scatter: of rows whose opinion scores were at hand.
        missing: what could not be reported, and why.
    """

    created: str
    datasets: dict[str, DatasetFacts]
    rows: list[ReportRow]
    scatter: list[Scatter]
    missing: list[str]
