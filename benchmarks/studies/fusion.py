"""On which scale are the low-level and the semantic pathway joined, and does the low-level one still add anything?

    python -m benchmarks.studies.fusion --photos PHOTOS --opinions BIQ2021_DEV --out benchmarks/results/fusion

Q_L = 1 - sigmoid(d / s) moves little at the paper's s = 100. The scale is found without opinion scores: s is the standard
deviation of the distance d over distorted training photos, those that ``grepq train semantic`` makes, so that d / s varies as
much there as the logit of Q_S, whose deviation is 1. Reported are the SRCC with opinion scores and the figures of
``benchmarks.studies.synthetic`` of each pathway and of their sum at that scale, at others, and at the paper's.

Needs albumentations and scikit-image, and takes a quarter of an hour for 1,000 photos on two cores. A run that was stopped
continues. All scores are in ``opinions.csv`` and ``synthetic.csv``, from which ``--report-only`` makes the report in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness.toy import references
from benchmarks.studies.opinions import Opinions, agreement, read_opinions, read_scores, score_all
from benchmarks.studies.reporting import (
    Report,
    Row,
    measured,
    parse,
    read_report,
    read_rows,
    srcc_cell,
    study_parser,
    table,
    write_report,
    write_rows,
)
from benchmarks.studies.synthetic import FACTS, measure, overall, summary
from grepq_metric import GRepQ
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.recipe import RECIPES
from grepq_metric.training.semantic import TaughtDataset

STUDY = "fusion"
CONTENTS = 100
"""Training photos, of which each gives five versions."""
FACTORS = (0.5, 1.0, 2.0, 4.0)
"""Scales that are tried, in units of the one that is found."""
PAPER = 100.0
PARTS = ("distance", "semantic")
"""What is kept of each image: d of the low-level pathway and Q_S."""


def parts_of(model: GRepQ) -> dict[str, Callable[[Tensor], float]]:
    """Scorers of both parts; those of the last image are kept, since it is asked about twice."""
    last: list[object] = []

    def part(x: Tensor, name: str) -> float:
        if not last or last[0] is not x:
            last[:] = [x, model.parts(model.prepare(x))]
        return float(last[1][name].item())  # type: ignore[index]

    return {name: lambda x, name=name: part(x, name) for name in PARTS}  # type: ignore[misc]


@torch.inference_mode()
def scale(model: GRepQ, photos: PhotoList, contents: int = CONTENTS) -> tuple[float, float]:
    """Standard deviations, over distorted photos, of the distance and of the logit of Q_S."""
    dataset, found = TaughtDataset(photos, RECIPES["varied"], 0), []
    for i in tqdm(range(min(contents, len(photos))), desc="scale", unit="photo"):
        sample = dataset[i].tensors
        if sample is None:
            continue
        parts = model.parts(model.prepare(sample[0].float() / 255))
        found.append(torch.stack([parts["distance"].double(), parts["semantic"].double().logit()]))
    distance, logit = torch.cat(found, 1).std(1).tolist()
    return distance, logit


def joined(rows: list[Row], scales: dict[str, float]) -> list[Row]:
    """Rows with the parts of each image -> with the scores that are compared."""
    out = []
    for row in rows:
        d, semantic = float(row["distance"]), float(row["semantic"])
        kept: Row = {key: value for key, value in row.items() if key not in PARTS}
        sums = {name: float(1 / (1 + np.exp(d / s))) + semantic for name, s in scales.items()}
        out.append(kept | {"grepq-ll": -d, "grepq-sem": semantic, **sums})
    return out


def figures(report: Report, opinions: Opinions, out: Path) -> Report:
    """The report with its figures computed from the parts in `out` and opinion scores."""
    found = float(f"{report.table('scale')[0]['s']:.2g}")  # as in the catalog
    scales = {f"sum, s = {found * factor:.3g}": found * factor for factor in FACTORS} | {f"sum, s = {PAPER:g}": PAPER}
    kept = read_scores(out / "opinions.csv")
    people = joined([{"image": name, **kept[name]} for name in opinions.files], scales)
    synthetic = summary(joined(read_rows(out / "synthetic.csv", ("photo", "type")), scales))
    rows: list[Row] = []
    for metric in (name for name in people[0] if name not in ("image", *FACTS)):
        scores = np.array([row[metric] for row in people], float)
        rows.append({"table": "metrics", "metric": metric, **agreement(scores, opinions), **overall(synthetic, metric)})
    data: Row = {"name": opinions.name, "id": opinions.id, "images": len(people)}
    return replace(report, data=data, rows=[*report.table("scale"), *rows])


def markdown(report: Report) -> list[str]:
    """A table of the metrics, and the scale."""
    rows = report.table("metrics")
    columns = [key for key in rows[0] if key not in ("table", "metric", "srcc", "srcc_low", "srcc_high")]
    cells = ([str(row["metric"]), srcc_cell(row), *(f"{row[column]:.3f}" for column in columns)] for row in rows)
    (found,) = report.table("scale")
    line = (
        f"Over distorted versions of {found['contents']} training photos the distance has the deviation s = {found['s']:.3g}, "
        f"and the logit of Q_S {found['logit']:.3g}."
    )
    return [*table(["metric", "SRCC (95 % interval)", *columns], cells), "", line]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report and all parts to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--photos", type=Path, help="undistorted photos")
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    given = parse(parser, arguments, needed=("photos",))
    opinions = read_opinions(given.opinions)
    if given.report_only:
        report = read_report(given.out, STUDY)
    else:
        model = GRepQ.from_pretrained("grepq-lite")
        photos = PhotoList(given.photos)
        deviation, logit = scale(model, photos)
        found: Row = {"table": "scale", "s": deviation, "logit": logit, "contents": min(CONTENTS, len(photos))}
        score_all(parts_of(model), opinions.files, given.out / "opinions.csv")
        write_rows(given.out / "synthetic.csv", measure(parts_of(model), references()))
        report = measured(STUDY, model.weights_id, {}, [found])
    write_report(figures(report, opinions, given.out), given.out, markdown)


if __name__ == "__main__":
    main()
