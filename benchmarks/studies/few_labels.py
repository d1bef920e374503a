"""How well a MOS is predicted from few labels, with different features and the same regressor and draws of labels.

    python -m benchmarks.studies.few_labels --opinions DIR --cache DIR --out DIR

The photos are split into two halves at random. From one, 50, 100 or 200 are drawn, 20 times; a head is fitted to their labels
and tested on the whole other half. Compared are `grepq-ll`'s features (of the whole image and of patches), those of the same
network with random weights, and the 36 natural scene statistics of BRISQUE as pyiqa computes them.

Also measured: whether photos that ``grepq fit --suggest`` names are better ones to have rated than random ones, and how many
opinion scores lie in the intervals of 90 %.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from pyiqa.archs.brisque_arch import natural_scene_statistics
from pyiqa.matlab_utils import imresize
from pyiqa.utils.color_util import to_y_channel
from tqdm import tqdm

from grepq_metric import GRepQ, GRepQRegressor, read_image
from grepq_metric.heads.features import photo_features
from grepq_metric.heads.regressor import suggest

BUDGETS = (50, 100, 200)
DRAWS = 20


def brisque_features(x: torch.Tensor) -> torch.Tensor:
    """The 36 statistics of BRISQUE: 18 of the luma at each of two scales; ``(1, 3, H, W)`` -> ``(36,)``."""
    luma = to_y_channel(x.double(), 255.0)
    halved = imresize(luma, scale=0.5, antialiasing=True)
    return torch.cat([natural_scene_statistics(luma), natural_scene_statistics(halved)], -1)[0]


def all_features(model: GRepQ, paths: list[Path], cache: Path) -> dict[str, np.ndarray]:
    """Features of every kind, by name, each ``(N, C)``."""
    torch.manual_seed(0)
    untrained = GRepQ(pathways=["low"], name="untrained")
    untrained.low.pristine_mean.zero_()  # its statistics enter no features
    found = {}
    for name, network, kind in (
        (model.weights_id, model, "image"),
        (model.weights_id, model, "patches"),
        ("random weights", untrained, "image"),
    ):
        x, problems = photo_features(network, paths, kind, cache, progress=True)
        if problems:
            raise ValueError(f"{len(problems)} photos can't be read: {next(iter(problems.values()))}")
        found[f"{name}, {kind}"] = x
    key = hashlib.sha256("".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths).encode()).hexdigest()[:8]
    table = cache / f"brisque-{key}.npy"
    if not table.exists():
        rows = [brisque_features(read_image(path)[None]).numpy() for path in tqdm(paths, desc="BRISQUE features")]
        np.save(table, np.stack(rows))
    found["BRISQUE's 36 statistics"] = np.load(table)
    return found


def halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a random half of the photos and of the other one."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // 2], order[count // 2 :]


def from_few_labels(features: dict[str, np.ndarray], mos: np.ndarray) -> tuple[list[dict], list[str]]:
    """SRCC and PLCC on one half of heads fitted to labels drawn from the other half: all results, and a table."""
    pool, test = halves(len(mos), 0)
    rows = []
    for name, x in features.items():
        for budget in BUDGETS:
            for draw in range(DRAWS):
                chosen = np.random.default_rng([budget, draw]).choice(pool, budget, replace=False)
                predicted, interval = GRepQRegressor(None).fit(x[chosen], mos[chosen]).predict(x[test], interval=0.9)
                rows.append(
                    {
                        "features": name,
                        "labels": budget,
                        "draw": draw,
                        "srcc": scipy.stats.spearmanr(predicted, mos[test]).statistic,
                        "plcc": scipy.stats.pearsonr(predicted, mos[test]).statistic,
                        "coverage": ((interval[:, 0] <= mos[test]) & (mos[test] <= interval[:, 1])).mean(),
                        "width": (interval[:, 1] - interval[:, 0]).mean(),
                    }
                )
    lines = ["| features | " + " | ".join(f"{budget} labels" for budget in BUDGETS) + " |", "|---" * 4 + "|"]
    for name in features:
        cells = []
        for budget in BUDGETS:
            part = [row for row in rows if row["features"] == name and row["labels"] == budget]
            cells.append(" / ".join(f"{np.median([row[key] for row in part]):.3f}" for key in ("srcc", "plcc")))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows, lines


def farthest_points(x: np.ndarray, count: int) -> list[int]:
    """Positions of the photo nearest to the mean and, one after the other, of that farthest from all chosen ones."""
    z = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    chosen = [int((z**2).sum(1).argmin())]
    nearest = ((z - z[chosen[0]]) ** 2).sum(1)
    while len(chosen) < count:
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((z - z[chosen[-1]]) ** 2).sum(1))
    return chosen


def which_to_rate(x: np.ndarray, mos: np.ndarray) -> list[str]:
    """SRCC of heads fitted to suggested against randomly chosen photos, over 20 random halves."""
    ways: dict[str, Callable] = {"nearest to cluster centres": suggest, "farthest points": farthest_points}
    lines = ["| labels | random | " + " | ".join(f"{way} (difference, halves where it is better)" for way in ways) + " |"]
    lines.append("|---" * (2 + len(ways)) + "|")
    for budget in (25, *BUDGETS):
        random, chosen = [], {way: [] for way in ways}
        for seed in range(DRAWS):
            pool, test = halves(len(mos), 100 + seed)

            def srcc(positions, pool=pool, test=test):
                rated = pool[positions]
                predicted = GRepQRegressor(None).fit(x[rated], mos[rated]).predict(x[test])
                return scipy.stats.spearmanr(predicted, mos[test]).statistic

            # The mean of five draws, so that the luck of one does not decide.
            draws = [np.random.default_rng([seed, i]).choice(len(pool), budget, replace=False) for i in range(5)]
            random.append(np.mean([srcc(draw) for draw in draws]))
            for way, choose in ways.items():
                chosen[way].append(srcc(choose(x[pool], budget)))
        cells = []
        for values in chosen.values():
            gain = np.subtract(values, random)
            cells.append(f"{np.median(values):.3f} ({np.median(gain):+.3f}, {(gain > 0).sum()}/{DRAWS})")
        lines.append(f"| {budget} | {np.median(random):.3f} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print tables and write them, with all results, to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--weights", default="grepq-ll", help="as in GRepQ.from_pretrained")
    parser.add_argument("--cache", type=Path, required=True, help="folder for features, which runs share")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    with (arguments.opinions / "labels.csv").open() as file:
        labels = list(csv.DictReader(file))
    mos = np.array([float(row["mos"]) for row in labels])
    arguments.cache.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = GRepQ.from_pretrained(arguments.weights)
    features = all_features(model, [arguments.opinions / row["image"] for row in labels], arguments.cache)
    rows, lines = from_few_labels(features, mos)
    with (arguments.out / "few_labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = [
        f"{arguments.opinions.name}, {len(mos)} photos: SRCC / PLCC on one half, median of {DRAWS} draws from the other.",
        "",
    ]
    text += [*lines, "", "Which photos to have rated: SRCC on the other half, median of 20 random halves.", ""]
    for kind in ("image", "patches"):
        text += [f"Features: {kind}", "", *which_to_rate(features[f"{model.weights_id}, {kind}"], mos), ""]
    text += ["Intervals of 90 %: share of the opinion scores that lie in them, and mean width.", ""]
    text += ["| features | labels | share, median (least to most of 20 draws) | width |", "|---|---|---|---|"]
    for kind in ("image", "patches"):
        for budget in BUDGETS:
            part = [row for row in rows if row["features"] == f"{model.weights_id}, {kind}" and row["labels"] == budget]
            share, width = ([row[key] for row in part] for key in ("coverage", "width"))
            covered = f"{np.median(share):.3f} ({min(share):.3f} to {max(share):.3f})"
            text.append(f"| {kind} | {budget} | {covered} | {np.median(width):.2f} |")
    date = datetime.now(timezone.utc).date().isoformat()
    text += ["", f"{date}, {model.weights_id}, torch {torch.__version__}, `python -m benchmarks.studies.few_labels`"]
    (arguments.out / "few_labels.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
