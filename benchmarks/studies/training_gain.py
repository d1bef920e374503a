"""What training the low-level encoder bought: trained against untrained weights and a plain image statistic.

    python -m benchmarks.studies.training_gain --opinions DIR --contents DIR [--contents DIR ...] --pristine DIR --out DIR

Measured are SRCC and PLCC, zero-shot, with real opinion scores: a folder with ``labels.csv`` (columns ``image``,
``mos``), such as biq2021_dev.

The untrained network has the very weights that training started from, by the seed in their record, and pristine
statistics of the same photos.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import scipy.stats
import skimage
import torch
from PIL import Image
from tqdm import tqdm

from grepq_metric import GRepQ, read_image
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.pristine import Selection, set_pristine_statistics


def main() -> None:
    """Measure, print a table and write it, with all scores, to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--contents", type=Path, action="append", required=True, help="folders that training saw")
    parser.add_argument("--pristine", type=Path, required=True, help="photos for the pristine statistics")
    parser.add_argument("--weights", default="grepq-ll", help="as in GRepQ.from_pretrained")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    trained = GRepQ.from_pretrained(arguments.weights)
    torch.manual_seed(trained.provenance.get("seed", 0))
    untrained = GRepQ(pathways=["low"], name="untrained")
    set_pristine_statistics(untrained, PhotoList([arguments.pristine]), Selection())
    metrics = {
        trained.weights_id: lambda x: trained(x).item(),
        untrained.weights_id: lambda x: untrained(x).item(),
        "mean gradient magnitude": gradient_magnitude,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = arguments.out / f"{arguments.opinions.name}.csv"
    with torch.inference_mode():
        lines = opinions(metrics, arguments.opinions, table, PhotoList(arguments.contents))
    date = datetime.now(timezone.utc).date().isoformat()
    lines += ["", f"{date}, torch {torch.__version__}, {torch.get_num_threads()} threads, pristine photos of the untrained"]
    lines += [f"network: {json.dumps(untrained.provenance['pristine'])}"]
    text = "\n".join(lines) + "\n"
    (arguments.out / "training_gain.md").write_text(text)
    print(text)


def gradient_magnitude(x: torch.Tensor) -> float:
    """Mean length of the Sobel gradient of the grey image."""
    return float(skimage.filters.sobel(skimage.color.rgb2gray(x[0].permute(1, 2, 0).numpy())).mean())


def opinions(metrics: dict, folder: Path, table: Path, contents: PhotoList) -> list[str]:
    """Correlation with opinion scores, with bootstrap intervals, on photos that are not among the training contents.

    All scores go to the file `table`, row by row; those that it holds already are not computed again.
    """
    labels, seen = read_labels(folder, contents)
    rows = score_all(metrics, [folder / label["image"] for label in labels], table)
    kept = [i for i in range(len(labels)) if i not in seen]
    mos = np.array([float(labels[i]["mos"]) for i in kept])
    lines = [f"{folder.name}, {len(kept)} photos with opinion scores ({len(seen)} more are left out: they show a photo"]
    lines += ["of the --contents folders under another name):", ""]
    lines += ["| metric | SRCC (95 % interval) | PLCC, no fit |", "|---|---|---|"]
    for column, name in enumerate(metrics):
        scores = np.array([rows[i][column] for i in kept])
        interval = scipy.stats.bootstrap(
            (scores, mos),
            lambda a, b: scipy.stats.spearmanr(a, b).statistic,
            paired=True,
            vectorized=False,
            n_resamples=1000,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        srcc, plcc = scipy.stats.spearmanr(scores, mos).statistic, scipy.stats.pearsonr(scores, mos).statistic
        lines.append(f"| {name} | {srcc:.3f} ({interval.low:.3f} to {interval.high:.3f}) | {plcc:.3f} |")
    if seen:
        lines += [
            "",
            "Left out: " + ", ".join(f"{labels[i]['image']} ({like})" for i, like in sorted(seen.items())) + ".",
        ]
    return lines


def read_labels(folder: Path, contents: PhotoList) -> tuple[list[dict], dict[int, str]]:
    """The rows of ``labels.csv``, and by position those whose photo shows the same as one of `contents`, with its name."""
    with (folder / "labels.csv").open() as file:
        labels = list(csv.DictReader(file))
    return labels, near_duplicates([folder / label["image"] for label in labels], contents)


def score_all(metrics: dict, photos: list[Path], table: Path) -> list[list[float]]:
    """Scores of photos, a row a photo and a column a metric, kept in a CSV file whose header names the metrics.

    What the file holds already is not computed again; columns of other metrics are dropped.
    """
    part = table.with_suffix(".part")  # of a run that was stopped
    scores: dict[str, dict[str, float]] = {path.name: {} for path in photos}
    for file in (table, part):
        if file.exists():
            with file.open() as stream:
                for row in csv.DictReader(stream):
                    scores.get(row["image"], {}).update({m: float(row[m]) for m in metrics if row.get(m)})
    with part.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["image", *metrics])
        # Scored photos first, so that they are in the file before the long part begins.
        for path in tqdm(sorted(photos, key=lambda path: len(scores[path.name]) < len(metrics)), desc=table.stem):
            row = scores[path.name]
            if missing := [metric for metric in metrics if metric not in row]:
                x = read_image(path).unsqueeze(0)
                row.update({metric: metrics[metric](x) for metric in missing})
            writer.writerow([path.name, *(row[metric] for metric in metrics)])
            stream.flush()
    part.replace(table)
    return [[scores[path.name][metric] for metric in metrics] for path in photos]


def near_duplicates(photos: list[Path], contents: PhotoList, threshold: float = 0.99) -> dict[int, str]:
    """Photos that show the same as one of `contents`, by position: thumbnails of 16x16 pixels correlate above `threshold`."""

    def thumbnails(files):
        grey = [Image.open(io.BytesIO(file)).convert("L").resize((16, 16), Image.Resampling.BOX) for file in files]
        values = np.stack([np.asarray(image, float).ravel() for image in grey])
        values -= values.mean(1, keepdims=True)
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)

    training = (contents.read(i) for i in tqdm(range(len(contents)), desc="near duplicates"))
    correlation = thumbnails(path.read_bytes() for path in photos) @ thumbnails(training).T
    return {i: Path(contents.name(row.argmax())).name for i, row in enumerate(correlation) if row.max() > threshold}


if __name__ == "__main__":
    main()
