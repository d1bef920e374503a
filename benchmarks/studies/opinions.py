"""Photos with opinion scores, in the user's own copy, and scores of them that survive a stopped run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness.agreement import bootstrap_interval, srcc
from benchmarks.harness.datasets import open_dataset
from benchmarks.studies.reporting import Row
from grepq_metric import GRepQ, read_image
from grepq_metric.files import whole_file

Score = Callable[[torch.Tensor], float]
"""Image ``(1, 3, H, W)`` in [0, 1] -> score."""


def scorer(model: GRepQ) -> Score:
    """The zero-shot score of a model."""
    return lambda x: model(x).item()


@dataclass(frozen=True)
class Opinions:
    """Photos with opinion scores, in the order of their ``labels.csv``, on which random halves depend.

    Attributes:
        name: of the folder.
        id: the data set's in the harness: name and a hash of all scores and image files.
        files: the photos by their names in ``labels.csv``.
        mos: ``(N,)`` opinion scores, higher is better.
        subsets: ``(N,)`` names in the column ``subset``, empty ones where there is none.
    """

    name: str
    id: str
    files: dict[str, Path]
    mos: np.ndarray
    subsets: np.ndarray


def read_opinions(folder: Path) -> Opinions:
    """Read a folder with ``labels.csv``, columns ``image`` and ``mos``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not what it should be, or photos are missing; the message names one.
    """
    dataset = open_dataset(str(folder / "labels.csv"), folder)
    items = {item.name: item for item in dataset.items}
    with (folder / "labels.csv").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    ordered = [items[row["image"]] for row in rows]
    files, mos = {item.name: item.path for item in ordered}, np.array([item.mos for item in ordered])
    return Opinions(folder.resolve().name, dataset.id, files, mos, np.array([row.get("subset", "") for row in rows]))


def rank_agreement(scores: np.ndarray, mos: np.ndarray) -> Row:
    """SRCC of scores with opinion scores, ``(N,)`` each, and the ends of its bootstrap interval of 95 %, if it has one."""
    row: Row = {"srcc": srcc(scores, mos)}
    if interval := bootstrap_interval(srcc, scores, mos):
        row |= dict(zip(("srcc_low", "srcc_high"), interval, strict=True))
    return row


def agreement(scores: np.ndarray, opinions: Opinions) -> Row:
    """What `rank_agreement` says of scores ``(N,)``, and the SRCC on each subset."""
    row = rank_agreement(scores, opinions.mos)
    for subset in filter(None, dict.fromkeys(opinions.subsets.tolist())):
        own = opinions.subsets == subset
        row[f"SRCC on {subset}"] = srcc(scores[own], opinions.mos[own])
    return row


@torch.inference_mode()
def score_all(metrics: dict[str, Score], photos: dict[str, Path], table: Path) -> None:
    """Score photos with metrics into a CSV file with a line a photo and a column a metric, see `read_scores`.

    A line is in the file as soon as its photo is scored. What the file holds already is not computed again; photos and metrics
    that are not asked for are dropped.

    Args:
        metrics: by name, which becomes a column.
        photos: files by the names that they get in the table.
        table: the file; its folder is made.

    Raises:
        ValueError: a photo can't be read.
        OSError: the file can't be written.
    """
    kept = read_scores(table) if table.exists() else {}
    scores = {photo: {m: v for m, v in kept.get(photo, {}).items() if m in metrics} for photo in photos}
    table.parent.mkdir(parents=True, exist_ok=True)
    _write_scores(table, list(metrics), scores)
    with table.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["image", *metrics], lineterminator="\n")
        for photo in tqdm([p for p in photos if len(scores[p]) < len(metrics)], desc=table.stem, disable=None):
            x, row = read_image(photos[photo]).unsqueeze(0), scores[photo]
            row.update({name: metric(x) for name, metric in metrics.items() if name not in row})
            writer.writerow({"image": photo, **row})
            stream.flush()
    _write_scores(table, list(metrics), scores)


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
