"""How well is a MOS predicted from few labels, with different features and the same head and draws of labels?

    python -m benchmarks.studies.few_labels --opinions BIQ2021_DEV --cache CACHE --out benchmarks/results/few_labels

The photos are split into two halves at random. From one, 50, 100 or 200 are drawn, 20 times; a head is fitted to their labels
and tested on the whole other half. Compared are `grepq-ll`'s features (of the whole image and of patches), those of the same
network with random weights, and the 36 natural scene statistics of BRISQUE as pyiqa computes them.

Also measured: whether photos that ``grepq fit --suggest`` names are better ones to have rated than random ones, and how many
opinion scores lie in the intervals of 90 %.

Needs opinion scores (a folder with ``labels.csv``) and takes about twenty minutes for 1,000 photos on two cores, most of
it for features, which stay in --cache. In --out lie all draws (``draws.csv``, ``suggestions.csv``), from which
``--report-only`` makes the report in a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness.agreement import plcc, srcc
from benchmarks.harness.peers import brisque_features
from benchmarks.harness.protocols import BUDGETS, DRAWS, Draw, few_labels, halves, new_head, predictions
from benchmarks.studies.opinions import Opinions, read_opinions
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
from grepq_metric import GRepQ, read_image
from grepq_metric.files import sha256, whole_file
from grepq_metric.heads import photo_features, suggest

STUDY = "few_labels"
LEVEL = 0.9
"""Of the intervals."""
REPEATS = 5
"""Random draws whose mean SRCC a suggestion is compared with, so that the luck of one does not decide."""
FIRST_HALF = 100
"""Seed of the first of the halves on which suggestions are tested; other halves than those of the first table."""


def farthest_points(x: np.ndarray, count: int) -> list[int]:
    """Positions of the photo nearest to the mean and, one after the other, of that farthest from all chosen ones.

    Args:
        x: ``(N, C)`` features.
        count: how many photos, at most N.
    """
    z = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    chosen = [int((z**2).sum(1).argmin())]
    nearest = ((z - z[chosen[0]]) ** 2).sum(1)
    while len(chosen) < count:
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((z - z[chosen[-1]]) ** 2).sum(1))
    return chosen


WAYS: dict[str, Callable[[np.ndarray, int], Sequence[int]]] = {
    "nearest to cluster centres": suggest,
    "farthest points": farthest_points,
}
"""Ways to choose the photos to have rated: features and a number -> positions."""


def all_features(model: GRepQ, paths: list[Path], cache: Path) -> dict[str, np.ndarray]:
    """Features of every kind, by name, each ``(N, C)``; they are kept in `cache`.

    Raises:
        ValueError: a photo can't be read.
    """
    found = {}
    for name, network, kind in (
        (model.weights_id, model, "image"),
        (model.weights_id, model, "patches"),
        ("random weights", _untrained(), "image"),
    ):
        x, problems = photo_features(network, paths, kind, cache, progress=True)
        if problems:
            raise ValueError(f"{len(problems)} photos can't be read: {next(iter(problems.values()))}")
        found[f"{name}, {kind}"] = x
    found["BRISQUE's 36 statistics"] = _brisque(paths, cache)
    return found


def _untrained() -> GRepQ:
    torch.manual_seed(0)
    model = GRepQ(pathways=["low"], name="untrained")
    dict(model.named_buffers())["low.pristine_mean"].zero_()  # NaN would mean that there are none; they enter no features
    return model


def _brisque(paths: list[Path], cache: Path) -> np.ndarray:
    key = hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()[:8]
    kept = cache / f"brisque-{key}.npy"
    if not kept.exists():
        rows = [brisque_features(read_image(path)[None]).numpy() for path in tqdm(paths, desc="BRISQUE features")]
        with whole_file(kept) as part:
            np.save(part, np.stack(rows))
    return np.load(kept)


def drawn(features: dict[str, np.ndarray], mos: np.ndarray) -> list[Row]:
    """What heads do on one half that were fitted to labels drawn from the other: a row for each draw.

    Args:
        features: ``(N, C)`` each, by name.
        mos: ``(N,)`` opinion scores.

    Returns:
        Rows with ``srcc``, ``plcc``, and of the intervals ``coverage``, the share of opinion scores that lie in them, and
        mean ``width``.
    """
    parts = [halves(len(mos), 0)] * DRAWS
    rows: list[Row] = []
    for name, x in features.items():
        for draw in (draw for budget in BUDGETS for draw in few_labels(parts, budget)):
            head, truth = new_head().fit(x[draw.train], mos[draw.train]), mos[draw.test]
            predicted, (low, high) = head.predict(x[draw.test]), head.predict_interval(x[draw.test], LEVEL).T
            rows.append(
                {
                    "features": name,
                    "labels": len(draw.train),
                    "draw": draw.number,
                    "srcc": srcc(predicted, truth),
                    "plcc": plcc(predicted, truth),
                    "coverage": float(((low <= truth) & (truth <= high)).mean()),
                    "width": float((high - low).mean()),
                }
            )
    return rows


def suggested(features: dict[str, np.ndarray], mos: np.ndarray) -> list[Row]:
    """SRCC on one half of heads fitted to chosen photos of the other, and to random ones: a row for each half and way."""
    rows: list[Row] = []
    for name, x in features.items():
        for budget in (25, *BUDGETS):
            for number in range(DRAWS):
                pool, test = halves(len(mos), FIRST_HALF + number)
                generators = [np.random.default_rng([number, i]) for i in range(REPEATS)]
                draws = [Draw(budget, i, rng.choice(pool, budget, replace=False), test) for i, rng in enumerate(generators)]
                found = {"random": float(np.mean([_reached(x, mos, draw) for draw in draws]))}
                for way, choose in WAYS.items():
                    found[way] = _reached(x, mos, Draw(budget, 0, pool[choose(x[pool], budget)], test))
                rows += [
                    {"features": name, "labels": budget, "half": number, "way": way, "srcc": value}
                    for way, value in found.items()
                ]
    return rows


def _reached(x: np.ndarray, mos: np.ndarray, draw: Draw) -> float:
    tested, predicted = predictions(x, mos, draw)
    return srcc(predicted, mos[tested])


def summary_of_draws(rows: list[Row]) -> list[Row]:
    """Medians over the draws of `drawn`, for each kind of features and number of labels: the report's table ``accuracy``."""
    summary: list[Row] = []
    for name, labels in dict.fromkeys((row["features"], row["labels"]) for row in rows):
        part = [row for row in rows if (row["features"], row["labels"]) == (name, labels)]
        medians = {key: float(np.median([row[key] for row in part])) for key in ("srcc", "plcc", "coverage", "width")}
        shares = [float(row["coverage"]) for row in part]
        least_most = {"coverage_least": min(shares), "coverage_most": max(shares)}
        summary.append({"table": "accuracy", "features": name, "labels": labels, "draws": len(part), **medians, **least_most})
    return summary


def summary_of_suggestions(rows: list[Row]) -> list[Row]:
    """Medians over the halves of `suggested`: the report's table ``suggestions``."""
    summary: list[Row] = []
    for name, labels in dict.fromkeys((row["features"], row["labels"]) for row in rows):
        of_way: dict[str, list[float]] = {}
        for row in rows:
            if (row["features"], row["labels"]) == (name, labels):
                of_way.setdefault(str(row["way"]), []).append(float(row["srcc"]))
        for way, values in of_way.items():
            found: Row = {"table": "suggestions", "features": name, "labels": labels, "way": way, "halves": len(values)}
            found["srcc"] = float(np.median(values))
            if way != "random":
                gain = np.subtract(values, of_way["random"])
                found |= {"gain": float(np.median(gain)), "better": int((gain > 0).sum())}
            summary.append(found)
    return summary


def markdown(report: Report) -> list[str]:
    """Three tables: accuracy, which photos to have rated, and intervals."""
    accuracy, suggestions = report.table("accuracy"), report.table("suggestions")
    draws = accuracy[0]["draws"]
    by = {(row["features"], row["labels"]): row for row in accuracy}
    names, budgets = (list(dict.fromkeys(row[key] for row in accuracy)) for key in ("features", "labels"))
    cells = [[f"{by[name, n]['srcc']:.3f} / {by[name, n]['plcc']:.3f}" for n in budgets] for name in names]
    lines = [f"SRCC / PLCC on one half of the photos, median of {draws} draws of labels from the other.", ""]
    lines += table(["features", *(f"{n} labels" for n in budgets)], ([str(n), *c] for n, c in zip(names, cells, strict=True)))
    lines += ["", "Which photos to have rated: SRCC on the other half, median of random halves.", ""]
    for name in dict.fromkeys(row["features"] for row in suggestions):
        part = [row for row in suggestions if row["features"] == name]
        ways = [way for way in dict.fromkeys(row["way"] for row in part) if way != "random"]
        found = {(row["labels"], row["way"]): row for row in part}
        header = ["labels", "random", *(f"{way} (difference, halves where it is better)" for way in ways)]
        lines += [f"Features: {name}", ""]
        lines += table(
            header,
            (
                [str(n), f"{found[n, 'random']['srcc']:.3f}", *(_gain(found[n, way]) for way in ways)]
                for n in dict.fromkeys(row["labels"] for row in part)
            ),
        )
        lines.append("")
    lines += [f"Intervals of {LEVEL:.0%}: share of the opinion scores that lie in them, and mean width.", ""]
    covered = "{coverage:.3f} ({coverage_least:.3f} to {coverage_most:.3f})"
    return lines + table(
        ["features", "labels", f"share, median (least to most of {draws} draws)", "width"],
        (
            [str(row["features"]), str(row["labels"]), covered.format(**row), f"{row['width']:.2f}"]
            for row in accuracy
            if str(row["features"]).startswith(report.weights)
        ),
    )


def _gain(row: Row) -> str:
    return f"{row['srcc']:.3f} ({row['gain']:+.3f}, {row['better']}/{row['halves']})"


def measure(weights: str, opinions: Opinions, cache: Path, out: Path) -> Report:
    """Compute features and fit all heads; rows of all draws go to `out`."""
    model = GRepQ.from_pretrained(weights)
    cache.mkdir(parents=True, exist_ok=True)
    features = all_features(model, list(opinions.files.values()), cache)
    ours = {name: x for name, x in features.items() if name.startswith(model.weights_id)}
    draws, suggestions = drawn(features, opinions.mos), suggested(ours, opinions.mos)
    write_rows(out / "draws.csv", draws)
    write_rows(out / "suggestions.csv", suggestions)
    data: Row = {"name": opinions.name, "id": opinions.id, "images": len(opinions.mos)}
    return measured(STUDY, model.weights_id, data, [*summary_of_draws(draws), *summary_of_suggestions(suggestions)])


def again(out: Path) -> Report:
    """The report in `out` with its figures computed anew from the rows beside it."""
    report = read_report(out, STUDY)
    suggestions = report.table("suggestions")
    if (out / "suggestions.csv").exists():  # reports before 2026-11-24 have none, and keep their figures
        suggestions = summary_of_suggestions(read_rows(out / "suggestions.csv", text=("features", "way")))
    draws = summary_of_draws(read_rows(out / "draws.csv", text=("features",)))
    return replace(report, rows=[*draws, *suggestions])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--opinions", type=Path, help="folder with labels.csv")
    parser.add_argument("--weights", default="grepq-ll", help="as in GRepQ.from_pretrained")
    parser.add_argument("--cache", type=Path, help="folder for features, which runs share")
    given = parse(parser, arguments, needed=("opinions", "cache"))
    if given.report_only:
        report = again(given.out)
    else:
        report = measure(given.weights, read_opinions(given.opinions), given.cache, given.out)
    write_report(report, given.out, markdown)


if __name__ == "__main__":
    main()
