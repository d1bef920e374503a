"""How did the loss fall in training runs, and with which learning rates?

    python -m benchmarks.studies.learning_curves NAME=RUN [NAME=RUN ...] --out benchmarks/results/learning_curves

RUN is a folder with ``log.jsonl`` and ``run.json``, such as OUT/training of ``grepq train``, and NAME the id of the weights
that it gave. Takes seconds. In --out lie means over ten steps, ``NAME.csv``, from which ``--report-only`` draws the same
picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.studies.reporting import (
    Report,
    Row,
    measured,
    parse,
    read_report,
    read_rows,
    study_parser,
    table,
    write_report,
    write_rows,
)
from grepq_metric.files import whole_file

STUDY = "learning_curves"
THINNED = 10
"""Steps of a mean."""
WINDOWS = 40
"""The drawn line is a moving mean over this part of a run."""


def thinned(log: list[dict[str, float]], count: int = THINNED) -> list[Row]:
    """Means of loss and learning rate over `count` steps each, or what is left of them, with the last step and its seconds."""
    rows: list[Row] = []
    for start in range(0, len(log), count):
        part = log[start : start + count]
        means = {key: float(np.mean([entry[key] for entry in part])) for key in ("loss", "lr")}
        rows.append({"step": part[-1]["step"], **means, "seconds": part[-1]["seconds"]})
    return rows


def summary(runs: dict[str, list[Row]]) -> list[Row]:
    """Length of each run, and its mean loss in the first and the last tenth."""
    rows: list[Row] = []
    for name, points in runs.items():
        loss = [float(point["loss"]) for point in points]
        tenth = max(len(loss) // 10, 1)
        first, last = float(np.mean(loss[:tenth])), float(np.mean(loss[-tenth:]))
        end = points[-1]
        rows.append({"run": name, "steps": end["step"], "seconds": end["seconds"], "loss_first": first, "loss_last": last})
    return rows


def markdown(report: Report) -> list[str]:
    """A table of the runs."""
    return table(
        ["run", "steps", "hours", "loss, mean of the first and the last tenth"],
        (
            [
                str(row["run"]),
                str(row["steps"]),
                f"{float(row['seconds']) / 3600:.1f}",
                f"{row['loss_first']:.3f}, {row['loss_last']:.3f}",
            ]
            for row in report.rows
        ),
    )


def picture(path: Path, runs: dict[str, list[Row]]) -> None:
    """Draw loss and learning rate of runs, points of `thinned` by name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, points in runs.items():
        step, loss, lr = (np.array([point[key] for point in points], float) for key in ("step", "loss", "lr"))
        window = max(len(loss) // WINDOWS, 1)
        mean = np.convolve(loss, np.ones(window) / window, "valid")
        (line,) = top.plot(step[window - 1 :], mean, label=f"{name}, mean of {int(step[0]) * window} steps")
        top.plot(step, loss, color=line.get_color(), alpha=0.2, linewidth=0.6)
        bottom.plot(step, lr, color=line.get_color())
    top.set_ylabel("loss")
    top.legend()
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)


def measure(runs: dict[str, Path], out: Path) -> Report:
    """Thin the logs of runs, folders by name, into `out`; the report is of the last one's weights."""
    for name, folder in runs.items():
        with (folder / "log.jsonl").open(encoding="utf-8") as lines:
            write_rows(out / f"{name}.csv", thinned([json.loads(line) for line in lines]))
    last = list(runs)[-1]
    settings = json.loads((runs[last] / "run.json").read_text(encoding="utf-8"))
    data: Row = {"name": ", ".join(settings["sources"]), "images": settings["photos"]}
    return measured(STUDY, last, data, [{"run": name} for name in runs])


def run_of(argument: str) -> tuple[str, Path]:
    """``NAME=RUN`` -> name and folder.

    Raises:
        ValueError: it is something else.
    """
    name, equals, folder = argument.partition("=")
    if not (name and equals and folder):
        raise ValueError(f"expected NAME=RUN, got {argument!r}")
    return name, Path(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs, or what is left of them, and write report and picture to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("runs", nargs="*", type=run_of, metavar="NAME=RUN", help="folders of runs")
    given = parse(parser, arguments, needed=("runs",))
    report = read_report(given.out, STUDY) if given.report_only else measure(dict(given.runs), given.out)
    runs = {str(row["run"]): read_rows(given.out / f"{row['run']}.csv") for row in report.rows}
    picture(given.out / "learning_curves.png", runs)
    write_report(replace(report, rows=summary(runs)), given.out, markdown)


if __name__ == "__main__":
    main()
