"""Photos with opinion scores, in the user's own copy, and scores of them that survive a stopped run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness.datasets import open_dataset
from grepq_metric import read_image
from grepq_metric.files import whole_file

Score = Callable[[torch.Tensor], float]
"""Image ``(1, 3, H, W)`` in [0, 1] -> score."""


@dataclass(frozen=True)
class Opinions:
    """Photos with opinion scores, in the order of their ``labels.csv``, on which random halves depend.

    Attributes:
        name: of the folder.
        id: the data set's in the harness: name and a hash of all scores and image files.
        names: of the photos, as in ``labels.csv``.
        paths: their files.
        mos: ``(N,)`` opinion scores, higher is better.
    """

    name: str
    id: str
    names: list[str]
    paths: list[Path]
    mos: np.ndarray


def read_opinions(folder: Path) -> Opinions:
    """Read a folder with ``labels.csv``, columns ``image`` and ``mos``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not what it should be, or photos are missing; the message names one.
    """
    dataset = open_dataset(str(folder / "labels.csv"), folder)
    items = {item.name: item for item in dataset.items}
    with (folder / "labels.csv").open(newline="", encoding="utf-8-sig") as stream:
        ordered = [items[row["image"]] for row in csv.DictReader(stream)]
    mos = np.array([item.mos for item in ordered])
    return Opinions(folder.resolve().name, dataset.id, [item.name for item in ordered], [item.path for item in ordered], mos)


def score_all(metrics: dict[str, Score], photos: list[Path], table: Path) -> dict[str, np.ndarray]:
    """Scores of photos by metrics, each ``(N,)``, kept in a CSV file with a line a photo and a column a metric.

    A line is in the file as soon as its photo is scored, and what the file holds already is not computed again; columns of
    other metrics are dropped.

    Raises:
        OSError: the file can't be written.
    """
    kept = read_scores(table) if table.exists() else {}
    scores = {path.name: {m: v for m, v in kept.get(path.name, {}).items() if m in metrics} for path in photos}
    table.parent.mkdir(parents=True, exist_ok=True)
    _write_scores(table, list(metrics), scores)
    with table.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["image", *metrics], lineterminator="\n")
        for path in tqdm([path for path in photos if len(scores[path.name]) < len(metrics)], desc=table.stem, disable=None):
            x, row = read_image(path).unsqueeze(0), scores[path.name]
            row.update({name: metric(x) for name, metric in metrics.items() if name not in row})
            writer.writerow({"image": path.name, **row})
            stream.flush()
    _write_scores(table, list(metrics), scores)
    return {name: np.array([scores[path.name][name] for path in photos]) for name in metrics}


def read_scores(table: Path) -> dict[str, dict[str, float]]:
    """Scores by photo and metric in a file of `score_all`; a line that was cut off is passed over.

    Raises:
        FileNotFoundError: there is no such file.
    """
    text = table.read_text(encoding="utf-8")
    scores: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        name = row.pop("image")
        scores.setdefault(name, {}).update({metric: float(value) for metric, value in row.items() if value})
    return scores


def _write_scores(table: Path, metrics: list[str], scores: dict[str, dict[str, float]]) -> None:
    with whole_file(table) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["image", *metrics], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"image": name, **row} for name, row in scores.items() if row)
