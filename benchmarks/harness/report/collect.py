"""From a results folder, and the user's copies of datasets, to the rows of a report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.items import Dataset
from benchmarks.harness.report.measures import Measured, Names, Opinions, fitted, zero_shot
from benchmarks.harness.report.rows import FROM_FILE, PUBLISHED, Found, Report, ReportRow
from benchmarks.harness.results import ALL_LABELS, FIGURES, PROTOCOLS, DatasetFacts, ResultRecord, read_facts
from benchmarks.harness.sheets import read_sheet

PAPERS = Path(__file__).parents[1] / "published.csv"


def collect(results: Path, datasets: Sequence[Dataset] = (), failures: str = "all") -> Report:
    """All figures of a results folder.

    Args:
        results: folder of `benchmarks.harness.runner`.
        datasets: the user's copies, whose opinion scores are compared with the results' scores.
        failures: ``all``: an image on which a metric failed is excluded for all metrics of its dataset; ``own``: for that
            metric, and the tests between metrics take the images that all have.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: a result file is damaged or of another version; the message names it.
    """
    found = _read(results)
    if not found:
        raise FileNotFoundError(f"no results in {results}: `python -m benchmarks run` makes some")
    facts = {folder: read_facts(folder / "dataset.json", DatasetFacts) for folder, _ in found}
    copies = {dataset.id: Opinions.of(dataset) for dataset in datasets}
    records = [one.record for some in found.values() for one in some]
    names = Names(
        _unique({fact.id: fact.name for fact in facts.values()}),
        _unique({record.metric: record.metric_name for record in records}),
    )
    made: list[Measured] = []
    missing: dict[str, None] = {}
    for (folder, protocol), some in found.items():
        opinions = copies.get(facts[folder].id)
        if opinions is None:
            missing[_reason(facts[folder], datasets)] = None
        if protocol != "zero-shot":
            made += fitted(opinions, some, names, failures)
        elif opinions is not None:
            made += zero_shot(opinions, some, names, failures)
    used = {names.datasets[fact.id]: _with_range(fact, copies) for fact in facts.values()}
    missing |= dict.fromkeys(
        f"{dataset.id} was given, and there are no results of it" for dataset in datasets if dataset.id not in names.datasets
    )
    if not made:
        raise ValueError("; ".join(missing))
    rows = sorted((row for row, _ in made), key=_order)
    created = max(record.date for record in records)
    return Report(created, used, rows + _published(used), [plot for _, plot in made if plot], list(missing))


def _read(results: Path) -> dict[tuple[Path, str], list[Found]]:
    """Results by the folder of their dataset and their protocol."""
    found = defaultdict(list)
    for protocol in PROTOCOLS:
        for path in sorted(results.glob(f"*/*/{protocol}.json")):
            if (path.parent.parent / "dataset.json").exists():
                record = read_facts(path, ResultRecord)
                found[path.parent.parent, record.protocol].append(Found(path.parent, record))
    return dict(found)


def _unique(names: dict[str, str]) -> dict[str, str]:
    """Short names by id; where two have the same, their ids."""
    count = Counter(names.values())
    return {key: name if count[name] == 1 else key for key, name in names.items()}


def _reason(facts: DatasetFacts, datasets: Sequence[Dataset]) -> str:
    """Why the opinion scores of results are not at hand."""
    text = f"scores of {facts.id}: results hold no opinion scores, and no copy of that dataset was given"
    for dataset in datasets:
        if dataset.record.name == facts.name:
            differ = [
                what
                for what, ours, theirs in (
                    ("images", facts.images_sha256, dataset.images_sha256),
                    ("opinion scores", facts.scores_sha256, dataset.scores_sha256),
                    ("track", facts.track, dataset.record.track),
                )
                if ours != theirs
            ]
            return f"scores of {facts.id}: the copy that was given is {dataset.id}, with other {' and '.join(differ)}"
    return text


def _with_range(facts: DatasetFacts, copies: dict[str, Opinions]) -> DatasetFacts:
    """Where nothing is known of the scale of opinions, the least and greatest that were given."""
    if facts.id not in copies:
        return facts
    mos = [item.mos for item in copies[facts.id].dataset.items]
    low, high = facts.mos_range
    return DatasetFacts(**{**vars(facts), "mos_range": [min(mos) if low is None else low, max(mos) if high is None else high]})


def _order(row: ReportRow) -> tuple[str, int, float, str, bool, float]:
    srcc = row.figures["srcc"]
    labels = np.inf if isinstance(row.labels, str) else row.labels
    return (
        row.dataset,
        PROTOCOLS.index(row.protocol),
        labels,
        row.split,
        row.origin == FROM_FILE,
        2.0 if srcc is None else -srcc,
    )


def _published(datasets: dict[str, DatasetFacts]) -> list[ReportRow]:
    """Published results on datasets of these titles; they are never compared with measured ones."""
    kinds = {"zero-shot": "zero-shot", "data-efficient": "few-labels", "full": "full"}
    titles = {facts.title: name for name, facts in datasets.items()}
    rows = []
    for line in read_sheet(PAPERS, ("method", "kind", "dataset", "labels", "srcc", "plcc", "source")):
        if line.text("dataset") in titles:
            given = {key: line.number(key) if line.text(key) else None for key in ("srcc", "plcc")}
            labels = line.text("labels")
            rows.append(
                ReportRow(
                    metric=line.text("method"),
                    name=line.text("method"),
                    mode="NR",
                    origin=PUBLISHED,
                    dataset=titles[line.text("dataset")],
                    protocol=kinds[line.text("kind")],
                    labels=ALL_LABELS if labels == ALL_LABELS else int(labels),
                    split="as published",
                    figures={**dict.fromkeys(FIGURES), **given},
                    source=line.text("source"),
                )
            )
    return rows
