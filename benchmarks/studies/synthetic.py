"""How does a metric follow synthetic distortions of photos that training never saw, made by other code than the training's?

    python -m benchmarks.studies.synthetic [--references DIR] [--weights NAME ...] --out benchmarks/results/synthetic

Every photo is distorted in 26 ways at 5 levels by albumentations, and scored with its undistorted version. Reported are, for
each type, the mean over photos of the SRCC between severity and score, and, over all types, levels and photos pooled, the
SRCC between score and FSIM to the undistorted photo.

Needs albumentations and scikit-image, and takes about ten minutes on two cores. All scores are in ``synthetic.csv``, from
which ``--report-only`` makes the report in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness.agreement import srcc
from benchmarks.harness.toy import LEVELS, references, to_tensor
from benchmarks.studies.opinions import Score, scorer
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
from grepq_metric import GRepQ

if TYPE_CHECKING:
    from albumentations import BasicTransform

STUDY = "synthetic"
FACTS = ("photo", "type", "level", "FSIM")
"""Columns of ``synthetic.csv`` besides the metrics."""

OVERALL = "overall"
"""Table of the figures over all types."""

Leveled = Callable[[int], "BasicTransform"]
"""A level, 1 to 5 -> a transform of albumentations."""


def distortions() -> dict[str, Leveled]:
    """The types of distortion, by name."""
    import albumentations as A
    import cv2

    area = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}

    def at(make: Callable[..., BasicTransform], *values: float) -> Leveled:
        return lambda level: make(values[level - 1])

    def shift(**limits: float) -> BasicTransform:
        return A.HueSaturationValue(**{f"{k}_shift_limit": (limits.get(k, 0),) * 2 for k in ("hue", "sat", "val")}, p=1)

    def light(brightness: float, contrast: float) -> BasicTransform:
        return A.RandomBrightnessContrast((brightness, brightness), (contrast, contrast), p=1)

    return {
        "Gaussian blur": at(lambda s: A.GaussianBlur(0, (s, s), p=1), 0.7, 1.2, 2, 3.2, 5),
        "defocus": at(lambda r: A.Defocus((r, r), (0.1, 0.1), p=1), 1, 2, 3, 5, 8),
        "motion blur": at(lambda k: A.MotionBlur((k, k), allow_shifted=False, p=1), 3, 5, 9, 15, 25),
        "glass blur": at(lambda d: A.GlassBlur(0.6, d, 1, p=1), 1, 2, 3, 5, 8),
        "zoom blur": at(lambda f: A.ZoomBlur((f, f), (0.01, 0.01), p=1), 1.02, 1.04, 1.07, 1.12, 1.2),
        "median filter": at(lambda k: A.MedianBlur((k, k), p=1), 3, 5, 9, 13, 19),
        "white noise": at(lambda s: A.GaussNoise((s, s), p=1), 0.02, 0.04, 0.08, 0.14, 0.25),
        "ISO noise": at(lambda s: A.ISONoise((0.05, 0.05), (s, s), p=1), 0.1, 0.2, 0.35, 0.6, 1.0),
        "shot noise": at(lambda s: A.ShotNoise((s, s), p=1), 0.002, 0.008, 0.03, 0.1, 0.3),
        "multiplicative noise": at(
            lambda s: A.MultiplicativeNoise((1 - s, 1 + s), per_channel=True, elementwise=True, p=1), 0.1, 0.2, 0.35, 0.55, 0.9
        ),
        "salt and pepper": at(lambda a: A.SaltAndPepper((a, a), (0.5, 0.5), p=1), 0.003, 0.01, 0.025, 0.06, 0.14),
        "lost pixels": at(lambda a: A.PixelDropout(a, p=1), 0.003, 0.01, 0.025, 0.06, 0.14),
        "JPEG": at(lambda q: A.ImageCompression("jpeg", (q, q), p=1), 60, 35, 20, 10, 5),
        "WebP": at(lambda q: A.ImageCompression("webp", (q, q), p=1), 60, 30, 15, 6, 1),
        "pixelation": at(lambda s: A.Downscale((s, s), p=1), 0.6, 0.45, 0.3, 0.2, 0.12),
        "down- and up-sampling": at(lambda s: A.Downscale((s, s), area, p=1), 0.6, 0.45, 0.3, 0.2, 0.12),
        "posterisation": at(lambda b: A.Posterize(b, p=1), 5, 4, 3, 2, 1),
        "darker": at(lambda b: light(-b, 0), 0.1, 0.2, 0.32, 0.45, 0.6),
        "brighter": at(lambda b: light(b, 0), 0.1, 0.2, 0.32, 0.45, 0.6),
        "lower contrast": at(lambda c: light(0, -c), 0.2, 0.4, 0.55, 0.7, 0.85),
        "higher contrast": at(lambda c: light(0, c), 0.3, 0.6, 1.0, 1.6, 2.5),
        "lower saturation": at(lambda s: shift(sat=-s), 30, 60, 100, 150, 255),
        "hue shift": at(lambda h: shift(hue=h), 6, 12, 22, 38, 60),
        "fog": at(lambda f: A.RandomFog(0.3, (f, f), p=1), 0.1, 0.25, 0.45, 0.7, 1.0),
        "oversharpening": at(lambda a: A.UnsharpMask((7, 7), (1.5, 1.5), (a, a), 0, p=1), 0.2, 0.4, 0.6, 0.8, 1.0),
        "ringing": at(lambda c: A.RingingOvershoot((15, 15), (c, c), p=1), 2.4, 1.8, 1.2, 0.8, 0.5),
    }


@torch.inference_mode()
def measure(metrics: dict[str, Score], photos: dict[str, np.ndarray]) -> list[Row]:
    """One row for each photo, type and level (0: undistorted): FSIM to the undistorted one and all scores.

    Args:
        metrics: higher is better.
        photos: ``(H, W, 3)`` uint8.
    """
    import albumentations as A
    import pyiqa

    fsim = pyiqa.create_metric("fsim", device="cpu")
    rows: list[Row] = []
    for number, (name, photo) in enumerate(tqdm(photos.items(), desc="synthetic", unit="photo")):
        clean = to_tensor(photo)
        undistorted = {metric: score(clean) for metric, score in metrics.items()}
        for kind, make in distortions().items():
            rows.append({"photo": name, "type": kind, "level": 0, "FSIM": 1.0, **undistorted})
            for level in LEVELS:
                x = to_tensor(A.Compose([make(level)], seed=100 * number + level)(image=photo)["image"])
                facts: Row = {"photo": name, "type": kind, "level": level, "FSIM": fsim(x, clean).item()}
                rows.append(facts | {metric: score(x) for metric, score in metrics.items()})
    return rows


def summary(rows: list[Row]) -> list[Row]:
    """The figures of the rows of `measure`: a row for each metric and type of distortion, and for all types together.

    The table ``types`` holds the SRCC between severity and score, ``overall`` their median and minimum, and the SRCC between
    FSIM and score.
    """
    metrics = [column for column in rows[0] if column not in FACTS]
    kinds = [str(kind) for kind in dict.fromkeys(row["type"] for row in rows)]
    # The undistorted photo counts once, not once for each type.
    pooled = [row for row in rows if row["level"] or row["type"] == kinds[0]]
    found: list[Row] = []
    for metric in metrics:
        values = {kind: _monotony([row for row in rows if row["type"] == kind], metric) for kind in kinds}
        together = {
            f"median of the {len(kinds)} types": float(np.median(list(values.values()))),
            "lowest of the types": min(values.values()),
            f"SRCC with FSIM, {len(pooled)} versions pooled": _correlation(pooled, metric, "FSIM"),
        }
        for name, part in (("types", values), (OVERALL, together)):
            found += [{"table": name, "metric": metric, "distortion": kind, "srcc": value} for kind, value in part.items()]
    return found


def overall(rows: list[Row], metric: str) -> Row:
    """The figures over all types of one metric, of the rows of `summary`, by name."""
    return {str(row["distortion"]): row["srcc"] for row in rows if row["table"] == OVERALL and row["metric"] == metric}


def _monotony(rows: list[Row], metric: str) -> float:
    """SRCC between the level of one type, negated, and the score, mean over photos."""
    photos = dict.fromkeys(row["photo"] for row in rows)
    return float(np.mean([-_correlation([row for row in rows if row["photo"] == photo], metric, "level") for photo in photos]))


def _correlation(rows: list[Row], metric: str, other: str) -> float:
    """SRCC of two columns; 0 of a metric that gives all the same score: it has not seen the distortion."""
    scores, values = (np.array([row[name] for row in rows], float) for name in (metric, other))
    return 0.0 if len(set(scores)) == 1 else srcc(scores, values)


def markdown(report: Report) -> list[str]:
    """A table of the types, and below them what is said of all together."""
    metrics = [str(metric) for metric in dict.fromkeys(row["metric"] for row in report.rows)]
    by = {(row["distortion"], row["metric"]): f"{row['srcc']:.2f}" for row in report.rows}
    names = {
        row["distortion"]: f"**{row['distortion']}**" if row["table"] == OVERALL else str(row["distortion"])
        for row in (*report.table("types"), *report.table(OVERALL))
    }
    cells = ([name, *(by[kind, metric] for metric in metrics)] for kind, name in names.items())
    return table([f"distortion ({report.data['images']} photos)", *metrics], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report and all scores to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--references", type=Path, help="folder of undistorted photos; default: some of scikit-image")
    parser.add_argument("--weights", nargs="+", default=["grepq-ll"], help="as in GRepQ.from_pretrained")
    given = parse(parser, arguments)
    scores = given.out / "synthetic.csv"
    if given.report_only:
        report = read_report(given.out, STUDY)
    else:
        models = [GRepQ.from_pretrained(weights) for weights in given.weights]
        photos = references(given.references)
        write_rows(scores, measure({model.weights_id: scorer(model) for model in models}, photos))
        name = given.references.resolve().name if given.references else "scikit-image"
        data: Row = {"name": name, "images": len(photos)}
        report = measured(STUDY, ", ".join(model.weights_id for model in models), data, [])
    report = replace(report, rows=summary(read_rows(scores, text=("photo", "type"))))
    write_report(report, given.out, markdown)


if __name__ == "__main__":
    main()
