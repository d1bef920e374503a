"""What do the cheaper modes cost? Agreement with the exact score and with people, in bfloat16, dense and at lower resolutions.

    python -m benchmarks.studies.modes --opinions BIQ2021_DEV --out benchmarks/results/modes

Every second photo is scored by ``grepq-lite`` and its two parts, exactly and in each mode. Reported are the SRCC of a mode's
scores with the exact ones, the largest difference, the SRCC with opinion scores, and by how many times a mode is faster: the
ratio of the times of one photo, the median over photos, in one process.

Takes a quarter of an hour on two cores. All scores are in ``opinions.csv``, and times in seconds in ``times.csv``, from which
``--report-only`` makes the report in a second; a run that was stopped continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.harness.agreement import srcc
from benchmarks.studies.opinions import Opinions, rank_agreement, read_opinions, read_scores, score_all
from benchmarks.studies.reporting import (
    Report,
    Row,
    measured,
    parse,
    read_report,
    srcc_cell,
    study_parser,
    table,
    write_report,
)
from grepq_metric import GRepQ

STUDY = "modes"
EVERY = 2
"""Of the photos, one in so many is scored."""
EXACT = "exact"
MODES: dict[str, dict[str, Any]] = {
    EXACT: {},
    "bf16": {"precision": "bf16"},
    "dense": {"speed": "dense"},
    "dense, bf16": {"speed": "dense", "precision": "bf16"},
    "384 pixels": {"resolution": 384},
    "256 pixels": {"resolution": 256},
}
METRICS = ("grepq-sem", "grepq-ll", "grepq-lite")


def modes_of(metric: str) -> list[str]:
    """Of `MODES`, those that a metric has."""
    return [mode for mode, options in MODES.items() if "speed" not in options or metric != "grepq-sem"]


def scorers(models: dict[str, GRepQ], seconds: bool = False) -> dict[str, Callable[[Tensor], float]]:
    """For each metric and mode, as ``grepq-sem, bf16``: the score, or how many seconds it took."""

    def score(x: Tensor, model: GRepQ) -> float:
        start = time.perf_counter()
        value = model(x).item()
        return round(time.perf_counter() - start if seconds else value, 6)

    return {name: lambda x, model=model: score(x, model) for name, model in models.items()}  # type: ignore[misc]


def figures(report: Report, opinions: Opinions, out: Path) -> Report:
    """The report with its figures computed from scores and times in `out` and opinion scores."""
    scores, times = read_scores(out / "opinions.csv"), read_scores(out / "times.csv")
    mos = np.array([value for name, value in zip(opinions.files, opinions.mos, strict=True) if name in scores])
    rows: list[Row] = []
    for metric in METRICS:
        for mode in modes_of(metric):
            found, exact = (
                np.array([scores[name][f"{metric}, {m}"] for name in opinions.files if name in scores]) for m in (mode, EXACT)
            )
            ratios = [row[f"{metric}, {EXACT}"] / row[f"{metric}, {mode}"] for row in times.values()]
            rows.append(
                {
                    **{"metric": metric, "mode": mode, **rank_agreement(found, mos)},
                    "srcc_exact": srcc(found, exact),
                    "largest": float(abs(found - exact).max()),
                    "times_faster": float(np.median(ratios)),
                }
            )
    return replace(report, data={"name": opinions.name, "id": opinions.id, "images": len(mos)}, rows=rows)


def markdown(report: Report) -> list[str]:
    """A table of metrics and modes."""
    cells = (
        [
            *(f"`{row['metric']}`", str(row["mode"]), f"{row['srcc_exact']:.4f}", f"{row['largest']:.4f}"),
            *(srcc_cell(row), f"{row['times_faster']:.2f}"),
        ]
        for row in report.rows
    )
    header = ["metric", "mode", "SRCC with exact", "largest difference", "SRCC with people (95 % interval)", "times faster"]
    return table(header, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report, all scores and times to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    given = parse(parser, arguments)
    opinions = read_opinions(given.opinions)
    if given.report_only:
        report = read_report(given.out, STUDY)
    else:
        models = {
            f"{metric}, {mode}": GRepQ.from_pretrained(metric, **MODES[mode])
            for metric in METRICS
            for mode in modes_of(metric)
        }
        chosen = dict(list(opinions.files.items())[::EVERY])
        score_all(scorers(models), chosen, given.out / "opinions.csv")
        score_all(scorers(models, seconds=True), dict(list(chosen.items())[::16]), given.out / "times.csv")
        exact = ", ".join(models[f"{metric}, {EXACT}"].weights_id for metric in METRICS)
        report = measured(STUDY, exact, {}, [])
    write_report(figures(report, opinions, given.out), given.out, markdown)


if __name__ == "__main__":
    main()
