"""Runs metrics on datasets and keeps what they say, image by image, in files."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from sklearn.model_selection import GroupShuffleSplit
from tqdm import tqdm

from benchmarks.harness.datasets import Dataset
from benchmarks.harness.machine import PeakMemory
from benchmarks.harness.metrics import Metric
from grepq_metric.heads.regressor import GRepQRegressor
from grepq_metric.training.distributed import World

PROTOCOLS = ("zero-shot", "few-labels", "full")
BUDGETS = (50, 100, 200)
COLUMNS = ("image", "value", "seconds", "error")


def run(
    dataset: Dataset,
    metric: Metric,
    protocol: str,
    results: Path,
    world: World,
    *,
    draws: int = 20,
    seed: int = 0,
    retry_failed: bool = False,
) -> Path | None:
    """Run one metric on one dataset by one protocol, unless its result is there.

    In ``results/DATASET/METRIC/`` lie ``zero-shot.csv`` (a score for each image) or ``features.csv``, and
    ``few-labels.csv`` or ``full.csv`` (predictions for test images), each with a ``.json`` that is written last. A run that
    was killed continues after the last image.

    Args:
        dataset: the images and their opinion scores.
        metric: what scores them.
        protocol: one of `PROTOCOLS`. ``few-labels``: heads fitted to 50, 100 and 200 labels of the training part; ``full``: to
            all of them. Both take the official split, or random ones of 80 % and 20 % that share no content.
        results: folder of all results.
        world: the processes that share the images.
        draws: random draws of labels, the same for all metrics.
        seed: of the draws.
        retry_failed: run images that failed before once more.

    Returns:
        The result's JSON file, on the process that leads; elsewhere None.

    Raises:
        ValueError: the metric needs references or features that are not there.
        OSError: the results can't be written; what they hold stays.
    """
    folder = Path(results) / dataset.id / metric.id
    if protocol == "zero-shot" and metric.score is None:
        raise ValueError(f"{metric.id} has features and no score: run it with --protocol few-labels or full")
    if protocol != "zero-shot" and metric.features is None:
        raise ValueError(f"{metric.id} has no features to fit to labels: run it with --protocol zero-shot")
    if metric.mode == "FR" and all(item.reference is None for item in dataset.items):
        raise ValueError(f"{metric.id} needs references, and {dataset.record.name} has none")
    per_image = "zero-shot" if protocol == "zero-shot" else "features"
    done, problem = folder / f"{protocol}.json", None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if world.leads:
            _write_dataset(dataset, folder.parent)
        again = retry_failed and _failed(folder / f"{per_image}.json")
        if again or not (folder / f"{per_image}.json").exists():
            _per_image(dataset, metric, folder, per_image, world, again)
        if world.leads and protocol != "zero-shot":
            made_of = {
                "draws": draws if protocol == "few-labels" else None,
                "seed": seed,
                "features_sha256": hashlib.sha256((folder / "features.csv").read_bytes()).hexdigest(),
            }
            if not done.exists() or not made_of.items() <= json.loads(done.read_text()).items():
                _fitted(dataset, metric, folder, protocol, made_of)
    except ValueError as error:  # raised after the barrier: the other processes must not wait for this one
        problem = error
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error}; what is there is kept, and the same command continues") from error
    world.barrier()  # or another process might look for files that are being written
    if problem:
        raise problem
    return done if world.leads else None


def read_rows(folder: Path, name: str) -> dict[str, dict]:
    """Rows of ``name.csv`` and of parts of a run that was stopped, by image; a line that was cut off is dropped."""
    rows: dict[str, dict] = {}
    for path in (folder / f"{name}.csv", *sorted(folder.glob(f"{name}.*.part.csv"), key=lambda p: p.name.split(".")[2])):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1].splitlines()
            rows |= {row["image"]: row for row in csv.DictReader(whole) if row["error"] is not None}
    return rows


def decode(value: str) -> float | np.ndarray:
    """A score, or a feature vector, as it is kept in a CSV file."""
    if value.startswith("base64:"):
        return np.frombuffer(base64.b64decode(value[7:]), np.float32)
    return float(value)


def splits(dataset: Dataset, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of training and test images: `count` times the official split, or random ones that share no content."""
    official = np.array([item.split or "" for item in dataset.items])
    if (official == "test").any():
        for _ in range(count):
            yield np.flatnonzero(official != "test"), np.flatnonzero(official == "test")
        return
    groups = dataset.groups or [item.name for item in dataset.items]
    yield from GroupShuffleSplit(count, test_size=0.2, random_state=seed).split(dataset.items, groups=groups)


def _failed(record: Path) -> bool:
    return record.exists() and json.loads(record.read_text())["failed"] > 0


def _per_image(dataset: Dataset, metric: Metric, folder: Path, name: str, world: World, again: bool) -> None:
    """A score or features of each image; with `again`, of those that failed."""
    rows = {image: row for image, row in read_rows(folder, name).items() if not (again and row["error"])}
    mine = [i for i, item in enumerate(dataset.items) if i % world.size == world.rank and item.name not in rows]
    part = folder / f"{name}.{world.rank}-of-{world.size}.{time.time_ns()}.part.csv"  # a new one for each run
    memory = PeakMemory()
    if mine:
        with part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            bar = tqdm(mine, f"{metric.id} on {dataset.record.name}", unit="image", disable=None if world.leads else True)
            for i in bar:
                writer.writerow(_measure(dataset, metric, i, name == "features"))
                stream.flush()
    world.barrier()
    if not world.leads:
        return
    rows = read_rows(folder, name)
    ordered = [rows[item.name] for item in dataset.items]
    _write_csv(folder / f"{name}.csv", COLUMNS, ordered)
    seconds = [float(row["seconds"]) for row in ordered if row["seconds"] and not row["error"]]
    facts = {
        "seconds_per_image": float(np.median(seconds)) if seconds else None,
        "peak_memory_mib": memory.peak() if mine and metric.reads_images else None,
        "failed": sum(bool(row["error"]) for row in ordered),
    }
    _write_record(dataset, metric, folder, name, world, facts)
    for left in folder.glob(f"{name}.*.part.csv"):
        left.unlink()


def _measure(dataset: Dataset, metric: Metric, i: int, features: bool) -> dict:
    item = dataset.items[i]
    row = dict.fromkeys(COLUMNS, "") | {"image": item.name}
    try:
        image = reference = None
        if metric.reads_images:
            image = dataset.record.load(item.path)[None]
            if metric.mode == "FR":
                if item.reference is None:
                    raise ValueError(f"{metric.id} needs a reference, and {item.name} has none")
                reference = dataset.record.load(item.reference)[None]
        began = time.perf_counter()
        if features:
            value = metric.features(image)
            finite, text = np.isfinite(value).all(), "base64:" + base64.b64encode(value.astype(np.float32).tobytes()).decode()
        else:
            value = metric.score(image, reference, item)
            finite, text = np.isfinite(value), repr(value)
        if metric.reads_images:
            row["seconds"] = f"{time.perf_counter() - began:.6f}"
        if not finite:
            raise ValueError(f"the value is {value}, expected a finite one")
        row["value"] = text
    except Exception as error:  # an image that a metric fails on must not end a run of hours; the row says what happened
        row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return row


def _fitted(dataset: Dataset, metric: Metric, folder: Path, protocol: str, made_of: dict) -> None:
    """Predictions of heads fitted to labels, for test images."""
    features = read_rows(folder, "features")
    usable = np.array([not features[item.name]["error"] for item in dataset.items])
    width = next((decode(row["value"]).shape[0] for row in features.values() if not row["error"]), 0)
    x = np.full((len(usable), width), np.nan)
    for i in np.flatnonzero(usable):
        x[i] = decode(features[dataset.items[i].name]["value"])
    official = any(item.split == "test" for item in dataset.items)
    rows, mos, summary = [], dataset.mos, {}
    budgets = BUDGETS if protocol == "few-labels" else ("all",)
    seed, count = made_of["seed"], made_of["draws"] or (1 if official else 10)
    for budget in budgets:
        values = []
        for draw, (train, test) in enumerate(splits(dataset, count, seed)):
            chosen = train
            if budget != "all":
                if budget > len(train):
                    break
                chosen = np.random.default_rng([seed, budget, draw]).choice(train, budget, replace=False)
            chosen, tested = chosen[usable[chosen]], test[usable[test]]
            predicted = GRepQRegressor(None).fit(x[chosen], mos[chosen]).predict(x[tested])
            values.append(scipy.stats.spearmanr(predicted, mos[tested]).statistic)
            names = (dataset.items[i].name for i in tested)
            rows += [
                {"labels": budget, "draw": draw, "image": n, "value": repr(float(p))}
                for n, p in zip(names, predicted, strict=True)
            ]
        if values:
            summary[str(budget)] = float(np.median(values))
    if not rows:
        raise ValueError(f"{dataset.record.name} has too few images for {budgets[0]} labels and a test part")
    _write_csv(folder / f"{protocol}.csv", ("labels", "draw", "image", "value"), rows)
    split = "official" if official else "random, 80 % and 20 %, no content in both"
    facts = {"split": split, **made_of, "median_srcc": summary, "failed": int((~usable).sum())}
    _write_record(dataset, metric, folder, protocol, None, facts)


def _write_record(dataset: Dataset, metric: Metric, folder: Path, name: str, world: World | None, facts: dict) -> None:
    record = {
        "dataset": dataset.id,
        "dataset_name": dataset.record.name,
        "metric": metric.id,
        "mode": metric.mode,
        "lower_better": metric.lower_better,
        "protocol": name,
        "images": len(dataset.items),
        "absent": dataset.absent,
        **facts,
        "provenance": metric.provenance,
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {p: version(p) for p in ("grepq-metric", "torch", "pyiqa", "numpy", "scipy")}
        | {"python": platform.python_version()},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": torch.get_num_threads(),
        "processes": world.size if world else 1,
    }
    _write_json(folder / f"{name}.json", record)


def _write_dataset(dataset: Dataset, folder: Path) -> None:
    """What a report needs to know of the dataset, once."""
    if (folder / "dataset.json").exists():
        return
    columns = ("image", "mos", "split", "group", "path")
    rows = [
        (item.name, repr(item.mos), item.split or "", item.group or "", _relative(item.path, folder)) for item in dataset.items
    ]
    _write_csv(folder / "dataset.csv", columns, [dict(zip(columns, row, strict=True)) for row in rows])
    record = dataset.record
    facts = {key: getattr(record, key) for key in ("name", "title", "kind", "lower_better", "licence")}
    finite = [value if np.isfinite(value) else None for value in record.mos_range]
    notes = [record.note, *(f"overlaps {overlap}" for overlap in record.overlaps)]
    facts |= {"id": dataset.id, "images": len(dataset.items), "mos_range": finite, "note": "; ".join(filter(None, notes))}
    if dataset.absent:
        facts["note"] += f"; partial: {len(dataset.absent)} images are missing"
    _write_json(folder / "dataset.json", facts)


def _relative(path: Path, folder: Path) -> str:
    """A path from the folder, so that results and images may move together."""
    with suppress(ValueError):  # another drive
        return Path(os.path.relpath(path, folder)).as_posix()
    return path.resolve().as_posix()


def _write_json(path: Path, content: dict) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    part = path.with_suffix(".whole")
    with part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
