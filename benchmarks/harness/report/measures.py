"""Figures of one dataset by one protocol: zero-shot scores, and heads fitted to labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import agreement as statistics
from benchmarks.harness.items import Dataset
from benchmarks.harness.report.rows import FROM_FILE, MEASURED, Found, ReportRow, Residual, Scatter, notes_on
from benchmarks.harness.results import FIGURES, DrawRow, PredictionRow, ScoreRow, read_rows

WORST = 12
"""Images that are listed as farthest from the fitted curve."""
FEWEST = 3
"""Images that figures need."""
CORRELATIONS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"srcc": statistics.srcc, "plcc": statistics.plcc}

Measured = tuple[ReportRow, Scatter | None]


@dataclass(frozen=True)
class Names:
    """Short names that are unique in a report, of datasets and metrics by id."""

    datasets: dict[str, str]
    metrics: dict[str, str]


@dataclass(frozen=True)
class Opinions:
    """Opinion scores of a dataset, by image.

    Attributes:
        dataset: the user's copy.
        position: of an image in it.
    """

    dataset: Dataset
    position: dict[str, int]

    @classmethod
    def of(cls, dataset: Dataset) -> Opinions:
        """The opinion scores of a dataset."""
        return cls(dataset, {item.name: i for i, item in enumerate(dataset.items)})

    def mos(self, names: Sequence[str]) -> np.ndarray:
        """``(N,)`` higher is better."""
        return self.dataset.mos[[self.position[name] for name in names]]

    def contents(self, names: Sequence[str]) -> list[str] | None:
        """What the images show; None where all differ."""
        found = [self.dataset.contents[self.position[name]] for name in names]
        return found if len(set(found)) < len(found) else None


def zero_shot(opinions: Opinions, found: list[Found], names: Names, failures: str) -> list[Measured]:
    """Rows of all images, and of the official test split where there is one."""
    scores = {one.record.metric: _scores(one, opinions.dataset) for one in found}
    # A metric that can't score any image is no reason to leave out all of them.
    common = set(opinions.position).intersection(*(set(values) for values in scores.values() if values))
    parts = {"all": list(opinions.position)}
    if opinions.dataset.tested:
        parts["test"] = [item.name for item in opinions.dataset.items if item.split == "test"]
    made: list[Measured] = []
    for split, images in parts.items():
        shared = [name for name in images if name in common]
        made += _part(opinions, found, names, failures, scores, split, images, shared)
    return made


def _scores(one: Found, dataset: Dataset) -> dict[str, float]:
    path = one.folder / f"{one.record.protocol}.csv"
    rows = {row.image: row for row in read_rows(path, ScoreRow)}
    missing = {item.name for item in dataset.items} - set(rows)
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} images, for example {min(missing)}; delete it and run again")
    return {name: row.value for name, row in rows.items() if row.value is not None}


def _part(
    opinions: Opinions,
    found: list[Found],
    names: Names,
    failures: str,
    scores: dict[str, dict[str, float]],
    split: str,
    images: list[str],
    shared: list[str],
) -> list[Measured]:
    """Rows of one split: figures, intervals, and letters of the tests between metrics on the images that all have."""
    mos = opinions.mos(shared)
    draws = statistics.resamples(opinions.contents(shared), len(shared))
    boot: dict[str, np.ndarray] = {}
    values: dict[str, float] = {}
    made: list[Measured] = []
    for one in found:
        metric, sign = one.record.metric, -1 if one.record.lower_better else 1
        row = _row(one, names, split=split, images=len(shared))
        if not scores[metric] or len(shared) < FEWEST:
            row.notes.append(f"fewer than {FEWEST} images with a score")
            made.append((row, None))
            continue
        x = sign * np.array([scores[metric][name] for name in shared])
        boot[metric] = np.array([statistics.srcc(x[draw], mos[draw]) for draw in draws])
        values[metric] = statistics.srcc(x, mos)
        plcc = np.array([statistics.plcc(x[draw], mos[draw]) for draw in draws])
        _set_intervals(row, {"srcc": statistics.interval(boot[metric]), "plcc": statistics.interval(plcc)})
        own = [name for name in images if name in scores[metric]] if failures == "own" else shared
        row.images = len(own)
        row.figures, problems = statistics.agreement(
            sign * np.array([scores[metric][name] for name in own]), opinions.mos(own)
        )
        row.notes += problems
        if not draws:
            row.notes.append(f"fewer than {statistics.FEWEST_CONTENTS} contents: no interval and no test")
        made.append((row, _scatter(opinions, row, shared, sign * x) if split == "all" else None))
    comparable = {metric: value for metric, value in values.items() if np.isfinite(value) and draws}
    letters = statistics.letters(comparable, statistics.pairwise_tests(boot, comparable))
    for row, _ in made:
        row.letters = letters.get(row.metric)
    return made


@dataclass(frozen=True)
class _Draws:
    """What is known of one head's draws with one budget: figures, and, where they are at hand, predictions."""

    figures: list[DrawRow]
    names: list[str]
    predicted: np.ndarray


def fitted(opinions: Opinions | None, found: list[Found], names: Names, failures: str) -> list[Measured]:
    """Rows of heads fitted to labels: the median of draws.

    Where predictions and opinion scores are at hand, all metrics are compared on the images that none of them failed on; else
    the figures are those that the run has kept, of each metric's own images.
    """
    protocol = found[0].record.protocol
    paths = [one.folder / f"{protocol}.predictions.csv" for one in found]
    together = opinions is not None and all(path.exists() for path in paths)
    predictions = [_predictions(path) if together else {} for path in paths]
    made: list[Measured] = []
    for one, mine in zip(found, predictions, strict=True):
        others = predictions if failures == "all" else [mine]
        kept = read_rows(one.folder / f"{protocol}.csv", DrawRow)
        for labels in dict.fromkeys(row.labels for row in kept):
            rows = [row for row in kept if row.labels == labels]
            first = mine.get((labels, rows[0].draw), {})
            if opinions is not None and first:
                draws = _compared(opinions, mine, others, labels)
            else:
                draws = _Draws(rows, [], np.empty(0))
            made.append(_fitted_row(opinions, one, names, labels, draws))
            if not together and failures == "all" and any(other.record.failed for other in found):
                made[-1][0].notes.append("each metric on its own images: predictions or opinion scores are not at hand")
    return made


def _predictions(path: Path) -> dict[tuple[int | str, int], dict[str, float]]:
    found: dict[tuple[int | str, int], dict[str, float]] = {}
    for row in read_rows(path, PredictionRow):
        found.setdefault((row.labels, row.draw), {})[row.image] = row.value
    return found


def _compared(
    opinions: Opinions,
    mine: dict[tuple[int | str, int], dict[str, float]],
    predictions: list[dict[tuple[int | str, int], dict[str, float]]],
    labels: int | str,
) -> _Draws:
    """Figures of each draw on the images that all metrics have a prediction of."""
    rows: list[DrawRow] = []
    first: tuple[list[str], np.ndarray] | None = None
    for key in sorted((key for key in mine if key[0] == labels), key=lambda key: key[1]):
        others = [theirs[key] for theirs in predictions if key in theirs]
        images = [name for name in mine[key] if all(name in other for other in others)]
        values = np.array([mine[key][name] for name in images])
        figures, problems = statistics.agreement(values, opinions.mos(images))
        rows.append(DrawRow(labels, key[1], len(images), figures, tuple(problems)))
        first = first or (images, values)
    images, values = first or ([], np.empty(0))
    return _Draws(rows, images, values)


def _fitted_row(opinions: Opinions | None, one: Found, names: Names, labels: int | str, draws: _Draws) -> Measured:
    record, runs = one.record, draws.figures
    split = "test" if record.split == "official" else "random"
    row = _row(one, names, split=split, labels=labels, images=runs[0].images)
    for key in FIGURES:
        values = [value for run in runs if (value := run.figures[key]) is not None]
        row.figures[key] = float(np.median(values)) if values else None
        if len(runs) > 1 and key in CORRELATIONS and values:
            low, high = np.percentile(values, (25, 75))
            row.intervals[key] = float(low), float(high)
    if len(runs) > 1:
        row.notes.append(f"median of {len(runs)} draws; the interval is that of their quartiles")
    elif opinions is not None and draws.names:
        mos, contents = opinions.mos(draws.names), opinions.contents(draws.names)
        found = {
            key: statistics.bootstrap_interval(correlation, draws.predicted, mos, contents)
            for key, correlation in CORRELATIONS.items()
        }
        _set_intervals(row, found)
    failed = Counter(problem for run in runs for problem in run.problems)
    row.notes += [f"{problem}, in {count} of {len(runs)} draws" for problem, count in failed.items()]
    if record.failed:
        row.notes.append(f"heads were fitted without those of the {record.failed} images that failed")
    row.notes.sort()
    # Predictions are on the scale of opinion scores where higher is better.
    sign = -1 if opinions is not None and opinions.dataset.record.lower_better else 1
    return row, _scatter(opinions, row, draws.names, sign * draws.predicted) if opinions and draws.names else None


def _row(one: Found, names: Names, *, split: str, images: int, labels: int | str = 0) -> ReportRow:
    record = one.record
    facts = {key: getattr(record, key) for key in ("versions", "machine", "threads", "processes", "date")}
    return ReportRow(
        metric=record.metric,
        name=names.metrics[record.metric],
        mode=record.mode,
        origin=MEASURED if record.measured else FROM_FILE,
        dataset=names.datasets[record.dataset],
        dataset_id=record.dataset,
        protocol=record.protocol,
        labels=labels,
        split=split,
        images=images,
        seconds=record.seconds_per_image,
        memory=record.peak_memory_mib,
        failed=record.failed,
        notes=notes_on(record.provenance, record.protocol),
        source=record.command,
        date=record.date,
        provenance={**record.provenance, "metric id": record.metric, "dataset": record.dataset, **facts},
    )


def _set_intervals(row: ReportRow, found: dict[str, statistics.Interval | None]) -> None:
    row.intervals |= {key: value for key, value in found.items() if value is not None}


def _scatter(opinions: Opinions, row: ReportRow, names: Sequence[str], scores: np.ndarray) -> Scatter:
    """Scores against opinion scores, both as they are given."""
    items = [opinions.dataset.items[opinions.position[name]] for name in names]
    mos = np.array([item.mos for item in items])
    fit = statistics.fit_curve(scores, mos, "logistic4")
    curve, residuals = None, list[Residual]()
    if fit.predict is not None:
        ends = np.linspace(scores.min(), scores.max(), 60)
        curve = np.stack([ends, fit.predict(ends)], 1).tolist()
        gap = mos - fit.predict(scores)
        farthest: Iterable[int] = np.argsort(-np.abs(gap))[:WORST].tolist()
        residuals = [Residual(names[i], items[i].path, float(scores[i]), float(mos[i]), float(gap[i])) for i in farthest]
    points = [(float(f"{s:.6g}"), float(f"{m:.6g}"), name) for s, m, name in zip(scores, mos, names, strict=True)]
    return Scatter(row, points, curve, residuals)
