"""What did training the low-level encoder buy, against untrained weights and a plain image statistic?

    python -m benchmarks.studies.training_gain --opinions BIQ2021_DEV --contents contents.txt --pristine PHOTOS \
        --out benchmarks/results/training_gain

Measured are SRCC and PLCC, zero-shot, with real opinion scores: a folder with ``labels.csv`` (columns ``image``, ``mos``),
such as biq2021_dev. Photos that training saw under another name are left out.

The untrained network has the very weights that training started from, by the seed in their record, and pristine
statistics of the same photos.

Needs opinion scores and the training photos (benchmarks/README.md says how to list them), and takes about a quarter of an
hour for 1,000 photos on two cores. A run that was stopped continues. In --out lie all scores (``scores.csv``) and the photos
left out (``near_duplicates.csv``), from which ``--report-only --opinions BIQ2021_DEV`` makes the report in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage
import torch

from benchmarks.harness.agreement import plcc
from benchmarks.harness.duplicates import near_duplicates
from benchmarks.studies.opinions import Opinions, Score, rank_agreement, read_opinions, read_scores, score_all, scorer
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
from grepq_metric import GRepQ
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.pristine import Selection, set_pristine_statistics

STUDY = "training_gain"


@torch.inference_mode()
def gradient_magnitude(x: torch.Tensor) -> float:
    """Mean length of the Sobel gradient of the grey image: ``(1, 3, H, W)`` in [0, 1]."""
    return float(skimage.filters.sobel(skimage.color.rgb2gray(x[0].permute(1, 2, 0).numpy())).mean())


def untrained_like(trained: GRepQ, pristine: PhotoList) -> GRepQ:
    """The low-level model that the training of `trained` started from, with statistics of `pristine`."""
    torch.manual_seed(trained.provenance.get("seed", 0))
    model = GRepQ(pathways=["low"], name="untrained")
    set_pristine_statistics(model, pristine, Selection())
    return model


def agreement(scores: dict[str, np.ndarray], mos: np.ndarray) -> list[Row]:
    """Correlation of each metric with opinion scores, with bootstrap intervals of 95 %.

    Args:
        scores: ``(N,)`` each, higher is better.
        mos: ``(N,)`` opinion scores.
    """
    return [{"metric": metric, **rank_agreement(values, mos), "plcc": plcc(values, mos)} for metric, values in scores.items()]


def markdown(report: Report) -> list[str]:
    """A table of the metrics."""
    return table(
        ["metric", "SRCC (95 % interval)", "PLCC, no fit"],
        ([str(row["metric"]), srcc_cell(row), f"{row['plcc']:.3f}"] for row in report.rows),
    )


def measure(weights: str, opinions: Opinions, contents: PhotoList, pristine: PhotoList, out: Path) -> Report:
    """Score all photos and look for near duplicates; both stay in `out`."""
    trained = GRepQ.from_pretrained(weights)
    untrained = untrained_like(trained, pristine)
    metrics: dict[str, Score] = {
        trained.weights_id: scorer(trained),
        untrained.weights_id: scorer(untrained),
        "mean gradient magnitude": gradient_magnitude,
    }
    score_all(metrics, opinions.files, out / "scores.csv")
    seen = near_duplicates(list(opinions.files.values()), contents)
    alike: list[Row] = [{"image": list(opinions.files)[i], "like": like} for i, like in seen.items()]
    write_rows(out / "near_duplicates.csv", alike, columns=("image", "like"))
    identity = json.dumps(untrained.provenance["pristine"])
    notes = [f"Pristine photos of the untrained network: {identity}."]
    return figures(measured(STUDY, trained.weights_id, {"id": opinions.id}, [], notes), opinions, out)


def figures(report: Report, opinions: Opinions, out: Path) -> Report:
    """The report with its figures computed from the scores in `out` and opinion scores.

    Raises:
        ValueError: the opinion scores are others than those of the report.
    """
    if report.data["id"] != opinions.id:
        raise ValueError(f"{out} is of {report.data['id']}, got opinion scores of {opinions.id}")
    alike = read_rows(out / "near_duplicates.csv", text=("image", "like"))
    left_out = {str(row["image"]): row["like"] for row in alike}
    kept = [i for i, name in enumerate(opinions.files) if name not in left_out]
    scores = read_scores(out / "scores.csv")
    rows = [scores[name] for name in opinions.files if name not in left_out]
    by_metric = {metric: np.array([row[metric] for row in rows]) for metric in rows[0]}
    data: Row = {"name": opinions.name, "id": opinions.id, "images": len(kept)}
    if left_out:
        data["left_out"] = ", ".join(f"{name} ({like})" for name, like in sorted(left_out.items()))
    return replace(report, data=data, rows=agreement(by_metric, opinions.mos[kept]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--contents", type=Path, action="append", help="folders that training saw")
    parser.add_argument("--pristine", type=Path, help="photos for the pristine statistics")
    parser.add_argument("--weights", default="grepq-ll", help="as in GRepQ.from_pretrained")
    given = parse(parser, arguments, needed=("contents", "pristine"))
    opinions = read_opinions(given.opinions)
    if given.report_only:
        report = figures(read_report(given.out, STUDY), opinions, given.out)
    else:
        report = measure(given.weights, opinions, PhotoList(given.contents), PhotoList([given.pristine]), given.out)
    write_report(report, given.out, markdown)


if __name__ == "__main__":
    main()
