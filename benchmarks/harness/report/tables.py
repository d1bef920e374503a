"""Tables of a report: Markdown, LaTeX, CSV, and a small summary for documents to include."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.harness.items import PHOTOS
from benchmarks.harness.report.rows import FROM_FILE, MEASURED, PUBLISHED, Report, ReportRow, notes_on
from benchmarks.harness.results import FIGURES
from grepq_metric.tables import text_cell

HEADINGS = {
    "name": "metric",
    "srcc": "SRCC",
    "letters": "letters",
    "plcc": "PLCC",
    "plcc_logistic4": "PLCC, 4-par. logistic",
    "plcc_logistic5": "PLCC, 5-par. logistic",
    "plcc_cubic": "PLCC, cubic",
    "krcc": "KRCC",
    "rmse": "RMSE",
    "images": "images",
    "failed": "failed",
    "seconds": "s/image",
    "memory": "MiB",
    "source": "source",
}
COLUMNS = {
    MEASURED: tuple(key for key in HEADINGS if key != "source"),
    FROM_FILE: tuple(key for key in HEADINGS if key not in ("source", "seconds", "memory")),
    PUBLISHED: ("name", "srcc", "plcc", "source"),
}
LATEX_COLUMNS = {
    MEASURED: ("srcc", "plcc", "plcc_logistic4", "krcc", "rmse"),
    FROM_FILE: ("srcc", "plcc", "plcc_logistic4", "krcc", "rmse"),
    PUBLISHED: ("srcc", "plcc"),
}
TITLES = {MEASURED: "", FROM_FILE: ": scores from files", PUBLISHED: ": published, not measured here"}
LEGEND = """Intervals are 95 % bootstrap intervals over images, or over contents where images share one. Metrics that
share a letter do not differ significantly (5 %, paired, Holm's correction within a dataset, protocol and split). RMSE is
that of the 4-parameter logistic."""
FITTED = ("plcc_logistic4", "plcc_logistic5", "rmse")


@dataclass(frozen=True)
class Section:
    """Rows of one dataset, protocol, budget, split and origin, which may be compared."""

    heading: str
    origin: str
    rows: list[ReportRow]


@dataclass(frozen=True)
class Ranks:
    """Mean ranks by SRCC over several datasets of one track, of the metrics that all of them have.

    Attributes:
        protocol: in words, after the track where that is not photos.
        datasets: their names.
        ranks: mean rank by metric, the best first.
    """

    protocol: str
    datasets: list[str]
    ranks: dict[str, float]


def sections(report: Report) -> Iterator[Section]:
    """The rows in the order of a report, in tables of their own."""
    found = defaultdict(list)
    for row in report.rows:
        found[row.dataset, row.protocol, row.labels, row.split, row.origin].append(row)
    for (name, protocol, labels, split, origin), rows in found.items():
        part = {"all": "all images", "test": "official test split", "random": "random test splits"}.get(split, split)
        facts = report.datasets[name]
        remarks = [facts.track] * (facts.track != PHOTOS) + ["synthetic distortions"] * (facts.kind == "synthetic")
        what = f"{name} ({', '.join(remarks)})" if remarks else name
        yield Section(f"{what}, {_budget(protocol, labels)}, {part}", origin, rows)


def average_ranks(report: Report) -> list[Ranks]:
    """Mean ranks for each track, protocol and budget that has two datasets or more and metrics in common."""
    boards: dict[tuple[str, str, int | str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in report.rows:
        srcc = row.figures["srcc"]
        # Zero-shot, all images count; the test split of one dataset is a part of them.
        if row.origin != PUBLISHED and srcc is not None and (row.protocol != "zero-shot" or row.split == "all"):
            boards[report.datasets[row.dataset].track, row.protocol, row.labels][row.dataset][row.name] = srcc
    made = []
    for (track, protocol, labels), board in boards.items():
        common = sorted(set.intersection(*(set(values) for values in board.values())))
        if len(board) > 1 and len(common) > 1:
            ranks = np.mean([scipy.stats.rankdata([-values[name] for name in common]) for values in board.values()], axis=0)
            ordered = sorted(zip(common, ranks.tolist(), strict=True), key=lambda pair: pair[1])
            where = "" if track == PHOTOS else f"{track}, "
            made.append(Ranks(where + _budget(protocol, labels), list(board), dict(ordered)))
    return made


def markdown(report: Report) -> str:
    """The tables in Markdown."""
    lines = ["# Leaderboard", ""]
    for ranks in average_ranks(report):
        lines += [f"## Average rank over {len(ranks.datasets)} datasets, {ranks.protocol}", ""]
        lines += ["| metric | mean rank by SRCC |", "|---|---|"]
        lines += [f"| {_escaped(name)} | {rank:.2f} |" for name, rank in ranks.ranks.items()]
        lines += ["", f"Of {', '.join(ranks.datasets)}; metrics that all of them have.", ""]
    for section in sections(report):
        keys = COLUMNS[section.origin]
        lines += [f"## {section.heading}{TITLES[section.origin]}", ""]
        lines += ["| " + " | ".join(HEADINGS[key] for key in keys) + " |", "|---" * len(keys) + "|"]
        lines += ["| " + " | ".join(_escaped(_cell(row, key)) for key in keys) + " |" for row in section.rows]
        notes = sorted({f"{row.name}: {note}" for row in section.rows for note in row.notes})
        lines += ["", *(f"- {note}" for note in notes), *([""] if notes else [])]
    lines += [LEGEND, "", *_ids(report), "", "Measured by:", ""]
    rows = [row for row in report.rows if row.origin != PUBLISHED]
    lines += [f"- `{command}`" for command in dict.fromkeys(row.source for row in rows)]
    for facts in report.datasets.values():
        kind = f"{facts.kind}, {facts.track}"
        lines.append(f"- {facts.id}: {facts.title}, {kind}; {facts.licence}; {facts.note or 'no note'}")
    made: dict[str, None] = {}
    for row in rows:
        p = row.provenance
        versions = ", ".join(f"{name} {value}" for name, value in p["versions"].items())
        made[f"- {row.date}, {p['machine']}, {p['threads']} threads, {p['processes']} processes; {versions}"] = None
    lines += [*made, *(f"- Not reported: {reason}" for reason in report.missing)]
    return "\n".join(lines) + "\n"


def latex(report: Report) -> str:
    """The tables in LaTeX, for booktabs."""
    lines = ["% made by python -m benchmarks report; needs \\usepackage{booktabs}"]
    for section in sections(report):
        keys = LATEX_COLUMNS[section.origin]
        best = {key: _best(section.rows, key) for key in keys}
        lines += ["\\begin{table}", f"\\caption{{{_tex(section.heading + TITLES[section.origin])}}}"]
        lines += [f"\\begin{{tabular}}{{l{'r' * len(keys)}}}", "\\toprule"]
        lines += [" & ".join(["metric", *(_tex(HEADINGS[key]) for key in keys)]) + " \\\\", "\\midrule"]
        for row in section.rows:
            cells = [_tex(row.name)]
            for key in keys:
                value = row.figures[key]
                text = "--" if value is None else f"{value:.3f}"
                cells.append(f"\\textbf{{{text}}}" if value is not None and value == best[key] else text)
            lines.append(" & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}"]
        if section.origin != PUBLISHED:
            ids = ", ".join(dict.fromkeys(_tex(row.metric) for row in section.rows))
            lines += ["", f"\\smallskip{{\\footnotesize {_tex(section.rows[0].dataset_id)}: {ids}}}"]
        for text in dict.fromkeys(f"{row.name}: {n}" for row in section.rows for n in notes_on(row.provenance, row.protocol)):
            lines += ["", f"\\smallskip{{\\footnotesize {_tex(text)}}}"]
        lines += ["\\end{table}", ""]
    return "\n".join(lines)


def comma_separated(report: Report) -> str:
    """All rows and figures as CSV."""
    stream = io.StringIO()
    rows = [row.flat() for row in report.rows]
    columns = [key for key in rows[0] if key != "provenance"]
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _csv_cell(value) for key, value in row.items()})
    return stream.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        text = " ".join(map(str, value))
        return text_cell(text) if any(isinstance(one, str) for one in value) else text
    return text_cell(value) if isinstance(value, str) else value


def summary(report: Report) -> dict[str, Any]:
    """What a document needs of the rows that were not taken from papers; no opinion score and no image."""
    keys = ("metric", "name", "dataset", "dataset_id", "protocol", "labels", "split", "images", "origin")
    rows = [
        {
            **{key: value for key, value in row.flat().items() if key in keys},
            **{key: _rounded(row.figures[key]) for key in ("srcc", "plcc", "plcc_logistic4")},
            **{
                f"{key}_interval": [_rounded(end) for end in row.intervals[key]] if key in row.intervals else None
                for key in ("srcc", "plcc")
            },
            "letters": row.letters,
            "seconds": row.seconds,
            "weights": row.provenance.get("weights"),
            "date": row.date,
            "command": row.source,
        }
        for row in report.rows
        if row.origin != PUBLISHED
    ]
    return {"created": report.created, "rows": rows}


def _budget(protocol: str, labels: int | str) -> str:
    return protocol if labels == 0 else f"{protocol}, {labels} labels"


def _ids(report: Report) -> list[str]:
    """What the short names stand for."""
    names = {row.name: row.metric for row in report.rows if row.origin != PUBLISHED}
    return ["Names stand for:", "", *(f"- {_escaped(name)}: {_escaped(metric)}" for name, metric in sorted(names.items()))]


def _cell(row: ReportRow, key: str) -> str:
    if key in FIGURES:
        value = row.figures[key]
        if value is None:
            return "no fit" if key in FITTED and row.origin != PUBLISHED and row.figures["srcc"] is not None else ""
        ends = row.intervals.get(key)
        return f"{value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})" if ends else f"{value:.3f}"
    other = getattr(row, key)
    if other is None:
        return ""
    return f"{other:.3g}" if key == "seconds" else f"{other:.0f}" if key == "memory" else str(other)


def _best(rows: list[ReportRow], key: str) -> float | None:
    values = [value for row in rows if (value := row.figures[key]) is not None]
    return (min if key == "rmse" else max)(values, default=None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _tex(text: str) -> str:
    text = text.replace("\\", "\\textbackslash ")
    for special in "&%_#$":
        text = text.replace(special, f"\\{special}")
    return text
