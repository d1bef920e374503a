"""How well is a MOS predicted from few labels, with which features and which kind of head?

    python -m benchmarks.studies.few_labels --opinions BIQ2021_DEV --cache CACHE --out benchmarks/results/few_labels

The photos are split into two halves at random. From one, 5 to 200 are drawn, 20 times; a head is fitted to their labels and
tested on the whole other half. 800 labels are drawn from all photos, and the head is tested on the others. Compared are the
kinds of heads of ``grepq fit`` on the features of `grepq-sem`, `grepq-lite` and `grepq-ll`, the paper's (ridge regression
on low-level features of the whole image), and the 36 natural scene statistics of BRISQUE as pyiqa computes them. Same draws
for all. A monotone head has the SRCC of the zero-shot score.

Also measured: nested cross-validation on all labels, whether photos that ``grepq fit --suggest`` names are better ones to have
rated than random ones, how many opinion scores lie in the intervals of 90 %, and how far a head travels: fitted to one part
of the photos (column ``subset`` of ``labels.csv``), tested on another.

Needs opinion scores (a folder with ``labels.csv``) and takes about forty minutes for 1,000 photos on two cores, most of it
for features, which stay in --cache. In --out lie all draws (``draws.csv``, ``suggestions.csv``), from which
``--report-only`` makes the report in a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.base import clone
from tqdm import tqdm

from benchmarks.harness.agreement import plcc, srcc
from benchmarks.harness.peers import brisque_features
from benchmarks.harness.protocols import DRAWS, Draw, few_labels, halves
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
from grepq_metric import GRepQ, RidgeHead, catalog, read_image
from grepq_metric.files import sha256, whole_file
from grepq_metric.heads import held_out, photo_features, suggest

STUDY = "few_labels"
BUDGETS = (5, 10, 20, 30, 50, 100, 200, 800)
"""Numbers of labels."""
SUGGESTED = (25, 50, 100, 200)
"""Numbers of photos that are suggested."""
LEVEL = 0.9
"""Of the intervals."""
REPEATS = 5
"""Random draws whose mean SRCC a suggestion is compared with, so that the luck of one does not decide."""
FIRST_HALF = 100
"""Seed of the first of the halves on which suggestions are tested; other halves than those of the first table."""
DIGITS = 5
"""Of the figures of a draw that are kept."""


@dataclass(frozen=True)
class Variant:
    """Features and the head that is fitted to them.

    Attributes:
        x: ``(N, C)``.
        head: not fitted.
        suggests: whether suggested photos are tried with it.
    """

    x: np.ndarray
    head: RidgeHead
    suggests: bool = False


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


def variants(paths: list[Path], cache: Path) -> dict[str, Variant]:
    """What is compared, by name; features are kept in `cache`.

    Raises:
        ValueError: a photo can't be read.
    """
    found = {}
    for metric, kind in (("grepq-sem", None), ("grepq-lite", None), ("grepq-ll", None), ("grepq-ll", "image")):
        model = GRepQ.from_pretrained(metric)
        features = model.feature_kind(kind)
        x, problems = photo_features(model, paths, f"score+{features}", cache, progress=True)
        if problems:
            raise ValueError(f"{len(problems)} photos can't be read: {next(iter(problems.values()))}")
        blocks = model.feature_blocks(features)
        if kind is None:
            found[f"{metric}, monotone"] = Variant(x[:, :1], RidgeHead(scored=True))
            found[f"{metric}, shrunk"] = Variant(x, RidgeHead(blocks=blocks, scored=True), suggests=True)
        if metric == catalog.DEFAULT or kind is not None:
            found[f"{metric}, ridge" + (f", {kind}" if kind else "")] = Variant(x[:, 1:], RidgeHead(blocks=blocks))
    found["BRISQUE's 36 statistics, ridge"] = Variant(_brisque(paths, cache), RidgeHead())
    return found


def _brisque(paths: list[Path], cache: Path) -> np.ndarray:
    key = hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()[:8]
    kept = cache / f"brisque-{key}.npy"
    if not kept.exists():
        rows = [brisque_features(read_image(path)[None]).numpy() for path in tqdm(paths, desc="BRISQUE features")]
        with whole_file(kept) as part:
            np.save(part, np.stack(rows))
    return np.load(kept)


def draws_of(count: int, labels: int) -> list[Draw]:
    """Draws of labels: from one half, tested on the other; or, if there are more, from all photos, tested on the others."""
    if labels <= count // 2:
        return list(few_labels([halves(count, 0)] * DRAWS, labels))
    orders = [np.random.default_rng([labels, number]).permutation(count) for number in range(DRAWS)]
    return [Draw(labels, number, order[:labels], order[labels:]) for number, order in enumerate(orders)]


def drawn(compared: dict[str, Variant], mos: np.ndarray) -> list[Row]:
    """What heads do on photos that they were not fitted to: a row for each draw.

    Args:
        compared: by name.
        mos: ``(N,)`` opinion scores.

    Returns:
        Rows with ``srcc``, ``plcc``, and of the intervals ``coverage``, the share of opinion scores that lie in them, and
        mean ``width``; NaN where the labels are too few for intervals.
    """
    rows: list[Row] = []
    for name, variant in compared.items():
        for draw in (draw for budget in BUDGETS if budget < len(mos) for draw in draws_of(len(mos), budget)):
            x, truth = variant.x, mos[draw.test]
            head = clone(variant.head).fit(x[draw.train], mos[draw.train])
            predicted = head.predict(x[draw.test])
            figures = {"srcc": srcc(predicted, truth), "plcc": plcc(predicted, truth), "coverage": np.nan, "width": np.nan}
            if np.ceil(LEVEL * (len(draw.train) + 1)) <= len(draw.train):
                low, high = head.predict_interval(x[draw.test], LEVEL).T
                figures["coverage"] = float(((low <= truth) & (truth <= high)).mean())
                figures["width"] = float((high - low).mean())
            rounded = {key: round(float(value), DIGITS) for key, value in figures.items()}
            rows.append({"head": name, "labels": len(draw.train), "draw": draw.number, **rounded})
    return rows


def suggested(compared: dict[str, Variant], mos: np.ndarray) -> list[Row]:
    """SRCC on one half of heads fitted to chosen photos of the other, and to random ones: a row for each half and way."""
    rows: list[Row] = []
    for name, variant in compared.items():
        x = variant.x[:, bool(variant.head.scored) :]  # photos are chosen by their features alone
        for budget in SUGGESTED if variant.suggests else ():
            for number in range(DRAWS):
                pool, test = halves(len(mos), FIRST_HALF + number)
                generators = [np.random.default_rng([number, i]) for i in range(REPEATS)]
                draws = [Draw(budget, i, rng.choice(pool, budget, replace=False), test) for i, rng in enumerate(generators)]
                found = {"random": float(np.mean([_reached(variant, mos, draw) for draw in draws]))}
                for way, choose in WAYS.items():
                    found[way] = _reached(variant, mos, Draw(budget, 0, pool[choose(x[pool], budget)], test))
                rows += [
                    {"head": name, "labels": budget, "half": number, "way": way, "srcc": round(value, DIGITS)}
                    for way, value in found.items()
                ]
    return rows


def _reached(variant: Variant, mos: np.ndarray, draw: Draw) -> float:
    head = clone(variant.head).fit(variant.x[draw.train], mos[draw.train])
    return srcc(head.predict(variant.x[draw.test]), mos[draw.test])


def nested(compared: dict[str, Variant], mos: np.ndarray) -> list[Row]:
    """SRCC by cross-validation on all labels, each fold with a penalty of its own: the report's table ``nested``."""
    rows: list[Row] = []
    for name, variant in compared.items():
        value, low, high = held_out(variant.head, variant.x, mos).table["SRCC"]
        rows.append({"table": "nested", "head": name, "labels": len(mos), "srcc": value, "srcc_low": low, "srcc_high": high})
    return rows


def travelled(variant: Variant, mos: np.ndarray, subsets: np.ndarray) -> list[Row]:
    """SRCC on one subset of a head fitted to another, beside that of the score alone: the report's table ``travel``.

    Args:
        variant: whose first feature is the score.
        mos: ``(N,)`` opinion scores.
        subsets: ``(N,)`` names.
    """
    rows: list[Row] = []
    names = sorted(set(subsets.tolist()))
    for tested in names:
        test = subsets == tested
        row: Row = {"table": "travel", "tested": tested, "score": srcc(variant.x[test, 0], mos[test])}
        for fitted in names:
            train = subsets == fitted
            if fitted == tested:
                row[fitted] = held_out(variant.head, variant.x[test], mos[test]).table["SRCC"].value
            else:
                row[fitted] = srcc(clone(variant.head).fit(variant.x[train], mos[train]).predict(variant.x[test]), mos[test])
        rows.append(row)
    return rows


def summary_of_draws(rows: list[Row]) -> list[Row]:
    """Means of SRCC and PLCC over the draws of `drawn`, and medians of the intervals: the report's table ``accuracy``."""
    summary: list[Row] = []
    for name, labels in dict.fromkeys((row["head"], row["labels"]) for row in rows):
        part = [row for row in rows if (row["head"], row["labels"]) == (name, labels)]
        means = {key: float(np.mean([row[key] for row in part])) for key in ("srcc", "plcc")}
        row: Row = {"table": "accuracy", "head": name, "labels": labels, "draws": len(part), **means}
        shares = [float(row["coverage"]) for row in part]
        if np.isfinite(shares).all():
            row |= {key: float(np.median([row[key] for row in part])) for key in ("coverage", "width")}
            row |= {"coverage_least": min(shares), "coverage_most": max(shares)}
        summary.append(row)
    return summary


def summary_of_suggestions(rows: list[Row]) -> list[Row]:
    """Medians over the halves of `suggested`: the report's table ``suggestions``."""
    summary: list[Row] = []
    for name, labels in dict.fromkeys((row["head"], row["labels"]) for row in rows):
        of_way: dict[str, list[float]] = {}
        for row in rows:
            if (row["head"], row["labels"]) == (name, labels):
                of_way.setdefault(str(row["way"]), []).append(float(row["srcc"]))
        for way, values in of_way.items():
            found: Row = {"table": "suggestions", "head": name, "labels": labels, "way": way, "halves": len(values)}
            found["srcc"] = float(np.median(values))
            if way != "random":
                gain = np.subtract(values, of_way["random"])
                found |= {"gain": float(np.median(gain)), "better": int((gain > 0).sum())}
            summary.append(found)
    return summary


def markdown(report: Report) -> list[str]:
    """Five tables: accuracy, all labels, which photos to have rated, how far heads travel, and intervals."""
    accuracy, suggestions = report.table("accuracy"), report.table("suggestions")
    draws = accuracy[0]["draws"]
    by = {(row["head"], row["labels"]): row for row in accuracy}
    names, budgets = (list(dict.fromkeys(row[key] for row in accuracy)) for key in ("head", "labels"))
    cells = [[f"{by[name, n]['srcc']:.3f} / {by[name, n]['plcc']:.3f}" for n in budgets] for name in names]
    lines = [f"SRCC / PLCC on photos that were not drawn, mean of {draws} draws of labels.", ""]
    lines += table(["head", *(f"{n} labels" for n in budgets)], ([str(n), *c] for n, c in zip(names, cells, strict=True)))
    lines += ["", "SRCC by nested cross-validation on all labels, with a 95 % interval.", ""]
    everything = "{srcc:.3f} ({srcc_low:.3f} to {srcc_high:.3f})"
    lines += table(["head", "SRCC"], ([str(row["head"]), everything.format(**row)] for row in report.table("nested")))
    lines += ["", "Which photos to have rated: SRCC on the other half, median of random halves.", ""]
    for name in dict.fromkeys(row["head"] for row in suggestions):
        part = [row for row in suggestions if row["head"] == name]
        ways = [way for way in dict.fromkeys(row["way"] for row in part) if way != "random"]
        found = {(row["labels"], row["way"]): row for row in part}
        header = ["labels", "random", *(f"{way} (difference, halves where it is better)" for way in ways)]
        lines += [f"Head: {name}", ""]
        lines += table(
            header,
            (
                [str(n), f"{found[n, 'random']['srcc']:.3f}", *(_gain(found[n, way]) for way in ways)]
                for n in dict.fromkeys(row["labels"] for row in part)
            ),
        )
        lines.append("")
    travel = report.table("travel")
    if travel:
        fitted = [str(row["tested"]) for row in travel]
        lines += ["SRCC on a subset of heads fitted to another, or to the rest of the same one.", ""]
        lines += table(
            ["tested on", "score alone", *(f"fitted to {name}" for name in fitted)],
            ([str(row["tested"]), *(f"{row[key]:.3f}" for key in ("score", *fitted))] for row in travel),
        )
        lines.append("")
    lines += [f"Intervals of {LEVEL:.0%}: share of the opinion scores that lie in them, and mean width.", ""]
    covered = "{coverage:.3f} ({coverage_least:.3f} to {coverage_most:.3f})"
    return lines + table(
        ["head", "labels", f"share, median (least to most of {draws} draws)", "width"],
        (
            [str(row["head"]), str(row["labels"]), covered.format(**row), f"{row['width']:.2f}"]
            for row in accuracy
            if str(row["head"]).startswith(catalog.DEFAULT) and "coverage" in row
        ),
    )


def _gain(row: Row) -> str:
    return f"{row['srcc']:.3f} ({row['gain']:+.3f}, {row['better']}/{row['halves']})"


def measure(opinions: Opinions, cache: Path, out: Path) -> Report:
    """Compute features and fit all heads; rows of all draws go to `out`."""
    cache.mkdir(parents=True, exist_ok=True)
    compared = variants(list(opinions.files.values()), cache)
    draws, suggestions = drawn(compared, opinions.mos), suggested(compared, opinions.mos)
    write_rows(out / "draws.csv", draws)
    write_rows(out / "suggestions.csv", suggestions)
    data: Row = {"name": opinions.name, "id": opinions.id, "images": len(opinions.mos)}
    rows = [*summary_of_draws(draws), *summary_of_suggestions(suggestions), *nested(compared, opinions.mos)]
    if any(opinions.subsets.tolist()):
        rows += travelled(compared[f"{catalog.DEFAULT}, shrunk"], opinions.mos, opinions.subsets)
    return measured(STUDY, GRepQ.from_pretrained(catalog.DEFAULT).weights_id, data, rows)


def again(out: Path) -> Report:
    """The report in `out` with its figures computed anew from the rows beside it, where they lie there."""
    report = read_report(out, STUDY)
    draws = summary_of_draws(read_rows(out / "draws.csv", text=("head",)))
    suggestions = summary_of_suggestions(read_rows(out / "suggestions.csv", text=("head", "way")))
    return replace(report, rows=[*draws, *suggestions, *report.table("nested"), *report.table("travel")])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--opinions", type=Path, help="folder with labels.csv")
    parser.add_argument("--cache", type=Path, help="folder for features, which runs share")
    given = parse(parser, arguments, needed=("opinions", "cache"))
    report = again(given.out) if given.report_only else measure(read_opinions(given.opinions), given.cache, given.out)
    write_report(report, given.out, markdown)


if __name__ == "__main__":
    main()
