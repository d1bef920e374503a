"""Runs metrics on datasets and keeps what they say, image by image, in files."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import machine, protocols, results
from benchmarks.harness.agreement import agreement
from benchmarks.harness.items import Dataset, Item
from benchmarks.harness.metrics import Metric
from benchmarks.harness.progress import track
from benchmarks.harness.results import (
    ALL_LABELS,
    PROTOCOLS,
    DatasetFacts,
    DrawRow,
    FeatureRow,
    PredictionRow,
    ResultRecord,
    ScoreRow,
)
from grepq_metric.files import sha256
from grepq_metric.training.distributed import World

RANDOM_SPLITS = 10
"""Random splits of the protocol ``full``, where there is no official one."""
RANDOM = "random, 80 % and 20 %, no content in both"

ImageRow = ScoreRow | FeatureRow


class InterruptedRunError(KeyboardInterrupt):
    """A run was stopped by the user; the message says how far it came."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        path: the result's JSON file.
        images: how many were to be scored.
        failed: on how many the metric failed.
        example: why it failed on one of them.
    """

    path: Path
    images: int
    failed: int
    example: str = ""


def run(
    dataset: Dataset,
    metric: Metric,
    protocol: str,
    folder: Path,
    world: World,
    *,
    draws: int = protocols.DRAWS,
    seed: int = 0,
    retry_failed: bool = False,
) -> Outcome | None:
    """Run one metric on one dataset by one protocol, unless its result is there.

    The files are those of `benchmarks.harness.results`. A run that was killed continues after the last image.

    Args:
        dataset: the images and their opinion scores.
        metric: what scores them.
        protocol: one of `PROTOCOLS`. ``few-labels``: heads fitted to 50, 100 and 200 labels of the training part; ``full``: to
            all of them. Both take the official split, or random ones of 80 % and 20 % that share no content.
        folder: of all results.
        world: the processes that share the images.
        draws: random draws of labels, the same for all metrics.
        seed: of the draws.
        retry_failed: run images that failed before once more.

    Returns:
        What came of it, on the process that leads; elsewhere None.

    Raises:
        ValueError: the metric needs references or features that are not there, or has no score of any image.
        OSError: the results can't be written; the message names the file, and what they hold stays.
        InterruptedRunError: Ctrl-C; what was scored stays.
    """
    reason = unsuitable(dataset, metric, protocol)
    if reason:
        raise ValueError(reason)
    metric = metric.bound_to([item.name for item in dataset.items])
    here = Path(folder) / dataset.id / metric.id
    problem: ValueError | None = None
    outcome = None
    try:
        here.mkdir(parents=True, exist_ok=True)
        facts = here.parent / "dataset.json"
        if world.leads and not facts.exists():
            results.write_facts(facts, _facts(dataset))
        if protocol == "zero-shot":
            _complete(dataset, metric, here, "zero-shot", world, retry_failed)
            outcome = _outcome(here, protocol) if world.leads else None
        else:
            outcome = _fit(dataset, metric, here, protocol, world, _made_of(dataset, protocol, draws, seed), retry_failed)
    except ValueError as error:  # raised after the barrier: the other processes must not wait for this one
        problem = error
    except OSError as error:
        kept = "what was scored is kept, and the same command continues"
        raise type(error)(error.errno, f"{error.strerror or error}; {kept}") from error
    world.barrier()  # or another process might look for files that are being written
    if problem:
        raise problem
    return outcome


def unsuitable(dataset: Dataset, metric: Metric, protocol: str) -> str | None:
    """Why the metric can't be run on the dataset by the protocol; None: it can."""
    if protocol not in PROTOCOLS:
        return f"unknown protocol {protocol!r}, expected one of {', '.join(PROTOCOLS)}"
    if metric.track != dataset.record.track:
        return f"{metric.id} is of the track {metric.track}, and {dataset.record.name} of {dataset.record.track}"
    if protocol == "zero-shot" and metric.score is None and metric.reads_images:
        return f"{metric.id} has features and no score: the protocols few-labels and full take it"
    if protocol != "zero-shot" and metric.features is None:
        return f"{metric.id} has no features to fit to labels: the protocol zero-shot takes it"
    if metric.mode == "FR" and all(item.reference is None for item in dataset.items):
        return f"{metric.id} needs references, and {dataset.record.name} has none"
    return None


def stored_rows(folder: Path, name: str) -> dict[str, ImageRow]:
    """Rows of ``zero-shot.csv`` or ``features.csv``, and of parts of runs that were stopped, by image.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    kind: type[ScoreRow] | type[FeatureRow] = FeatureRow if name == "features" else ScoreRow
    rows: dict[str, ImageRow] = {}
    for path in (folder / f"{name}.csv", *results.part_files(folder, name)):
        if path.exists():
            found: list[Any] = results.read_rows(path, kind)
            rows |= {row.image: row for row in found}
    return rows


def _complete(dataset: Dataset, metric: Metric, here: Path, name: str, world: World, retry_failed: bool) -> None:
    """Score what has no row yet; with `retry_failed`, also what has failed."""
    record = here / f"{name}.json"
    if not record.exists() or not (here / f"{name}.csv").exists():
        _per_image(dataset, metric, here, name, world, again=False)
    elif retry_failed and results.read_facts(record, ResultRecord).failed:
        _per_image(dataset, metric, here, name, world, again=True)


def _per_image(dataset: Dataset, metric: Metric, here: Path, name: str, world: World, again: bool) -> None:
    """A score or features of each image; with `again`, of those that failed once more."""
    rows = {image: row for image, row in stored_rows(here, name).items() if not (again and row.error)}
    missing = [item for item in dataset.items if item.name not in rows]
    share = {item.name for item in dataset.items[world.rank :: world.size]}
    mine = [item for item in missing if item.name in share]
    kind: type[Any] = FeatureRow if name == "features" else ScoreRow
    part = results.part_file(here, name, f"{world.rank}-of-{world.size}", time.time_ns())
    what = f"{metric.name} on {dataset.record.name}"
    memory, count = machine.PeakMemory(), 0
    if mine:
        with results.appending(part, kind) as writer:
            try:
                for item in track(mine, what, len(dataset.items) - len(missing)) if world.leads else mine:
                    writer.write(_measure(dataset, metric, item, name == "features"))
                    count += 1
            except KeyboardInterrupt as stop:
                done = len(dataset.items) - len(missing) + count
                raise InterruptedRunError(f"{what}: {done} of {len(dataset.items)} images are done") from stop
    world.barrier()
    if not world.leads:
        return
    rows = stored_rows(here, name)
    ordered = [rows[item.name] for item in dataset.items]
    results.write_rows(here / f"{name}.csv", kind, ordered)
    seconds = [row.seconds for row in ordered if row.seconds is not None and not row.error]
    record = _record(
        dataset,
        metric,
        name,
        world.size,
        failed=sum(bool(row.error) for row in ordered),
        seconds_per_image=float(np.median(seconds)) if seconds else None,
        peak_memory_mib=memory.peak() if mine and metric.reads_images else None,
    )
    for left in results.part_files(here, name):  # before the record, which is what a later run looks for
        left.unlink()
    results.write_facts(here / f"{name}.json", record)


def _measure(dataset: Dataset, metric: Metric, item: Item, features: bool) -> ImageRow:
    """The row of one image; a failure is a row that says why."""
    seconds: float | None = None
    try:
        image = reference = None
        if metric.reads_images:
            image = dataset.record.load(item.path)[None]
            if metric.mode == "FR":
                if item.reference is None:
                    raise ValueError(f"{metric.id} needs a reference, and {item.name} has none")
                reference = dataset.record.load(item.reference)[None]
        began = time.perf_counter()
        value: Any = None
        if features and metric.features is not None and image is not None:
            value = metric.features(image)
        elif metric.score is not None:
            value = metric.score(image, reference, item.name)
        if metric.reads_images:
            seconds = round(time.perf_counter() - began, 6)
        if not np.isfinite(value).all():
            raise ValueError(f"the value is {value}, expected a finite one")
    except Exception as error:  # an image that a metric fails on must not end a run of hours; the row says what happened
        text = f"{type(error).__name__}: {error}"
        for path in filter(None, (item.path, item.reference)):
            text = text.replace(str(path), path.name)  # results name no folder of this machine
        text = " ".join(text.split())[:500]
        return FeatureRow(item.name, None, seconds, text) if features else ScoreRow(item.name, None, seconds, text)
    if features:
        return FeatureRow(item.name, np.asarray(value, np.float32), seconds)
    return ScoreRow(item.name, float(value), seconds)


def _outcome(here: Path, protocol: str) -> Outcome:
    record = results.read_facts(here / f"{protocol}.json", ResultRecord)
    example = ""
    if record.failed:
        name = "zero-shot" if protocol == "zero-shot" else "features"
        example = next((f"{row.image}: {row.error}" for row in stored_rows(here, name).values() if row.error), "")
    return Outcome(here / f"{protocol}.json", record.images, record.failed, example)


def _made_of(dataset: Dataset, protocol: str, draws: int, seed: int) -> dict[str, Any]:
    """What the heads of a protocol depend on beside features and opinion scores."""
    count = draws if protocol == "few-labels" else (1 if dataset.tested else RANDOM_SPLITS)
    return {"draws": count, "seed": seed, "parts_sha256": dataset.parts_sha256}


def _fit(
    dataset: Dataset, metric: Metric, here: Path, protocol: str, world: World, made_of: dict[str, Any], retry_failed: bool
) -> Outcome | None:
    """Heads fitted to labels, unless the same ones were."""
    done = here / f"{protocol}.json"
    before = results.read_facts(done, ResultRecord) if done.exists() and (here / f"{protocol}.csv").exists() else None
    same = before is not None and made_of.items() <= before.made_of.items()
    if same and not (here / "features.csv").exists() and not (retry_failed and before and before.failed):
        return _outcome(here, protocol) if world.leads else None  # as in a fresh clone, which has no features
    _complete(dataset, metric, here, "features", world, retry_failed)
    if not world.leads:
        return None
    made_of = {**made_of, "features_sha256": sha256(here / "features.csv")}
    if before is None or before.made_of != made_of or not (here / f"{protocol}.predictions.csv").exists():
        _fit_heads(dataset, metric, here, protocol, made_of)
    return _outcome(here, protocol)


def _fit_heads(dataset: Dataset, metric: Metric, here: Path, protocol: str, made_of: dict[str, Any]) -> None:
    """Predictions of heads fitted to labels, for test images, and how they agree with opinion scores."""
    rows = stored_rows(here, "features")
    found = [rows[item.name].value for item in dataset.items]
    width = next((len(value) for value in found if isinstance(value, np.ndarray)), 0)
    x = np.full((len(found), width), np.nan)
    for i, value in enumerate(found):
        if isinstance(value, np.ndarray):
            x[i] = value
    names, mos = [item.name for item in dataset.items], dataset.mos
    splits = [item.split for item in dataset.items]
    predicted: list[PredictionRow] = []
    agreed: list[DrawRow] = []
    for budget in protocols.BUDGETS if protocol == "few-labels" else (None,):
        parts = protocols.splits(splits, dataset.contents, made_of["draws"], made_of["seed"])
        labels = ALL_LABELS if budget is None else budget
        for draw in protocols.few_labels(parts, budget, (made_of["seed"],)):
            tested, values = protocols.predictions(x, mos, draw)
            predicted += [
                PredictionRow(labels, draw.number, names[i], float(value)) for i, value in zip(tested, values, strict=True)
            ]
            figures, problems = agreement(values, mos[tested])
            agreed.append(DrawRow(labels, draw.number, len(tested), figures, tuple(problems)))
    if not agreed:
        raise ValueError(f"{dataset.record.name} has too few images for {protocols.BUDGETS[0]} labels and a test part")
    results.write_rows(here / f"{protocol}.predictions.csv", PredictionRow, predicted)
    results.write_rows(here / f"{protocol}.csv", DrawRow, agreed)
    srcc = defaultdict(list)
    for row in agreed:
        srcc[str(row.labels)].append(np.nan if row.figures["srcc"] is None else row.figures["srcc"])
    record = _record(
        dataset,
        metric,
        protocol,
        1,
        failed=sum(value is None for value in found),
        split="official" if dataset.tested else RANDOM,
        median_srcc={labels: float(np.median(values)) for labels, values in srcc.items() if np.isfinite(values).all()},
        made_of=made_of,
    )
    results.write_facts(here / f"{protocol}.json", record)


def _record(
    dataset: Dataset,
    metric: Metric,
    protocol: str,
    processes: int,
    *,
    failed: int,
    seconds_per_image: float | None = None,
    peak_memory_mib: float | None = None,
    split: str | None = None,
    median_srcc: dict[str, float] | None = None,
    made_of: dict[str, Any] | None = None,
) -> ResultRecord:
    return ResultRecord(
        dataset=dataset.id,
        dataset_name=dataset.record.name,
        metric=metric.id,
        metric_name=metric.name,
        mode=metric.mode,
        lower_better=metric.lower_better,
        measured=metric.reads_images,
        protocol=protocol,
        images=len(dataset.items),
        absent=dataset.absent,
        failed=failed,
        seconds_per_image=seconds_per_image,
        peak_memory_mib=peak_memory_mib,
        split=split,
        median_srcc=median_srcc or {},
        made_of=made_of or {},
        provenance=metric.provenance,
        command=machine.command("benchmarks"),
        date=machine.today(),
        versions=machine.versions("grepq-metric", "torch", "pyiqa", "numpy", "scipy"),
        machine=machine.machine(),
        threads=torch.get_num_threads(),
        processes=processes,
    )


def _facts(dataset: Dataset) -> DatasetFacts:
    record = dataset.record
    notes = [record.note, *(f"overlaps {overlap}" for overlap in record.overlaps)]
    if dataset.absent:
        notes.append(f"partial: {len(dataset.absent)} images are missing")
    return DatasetFacts(
        id=dataset.id,
        name=record.name,
        title=record.title,
        kind=record.kind,
        images=len(dataset.items),
        images_sha256=dataset.images_sha256,
        scores_sha256=dataset.scores_sha256,
        lower_better=record.lower_better,
        mos_range=[float(value) if np.isfinite(value) else None for value in record.mos_range],
        licence=record.licence,
        note="; ".join(filter(None, notes)),
        track=record.track,
    )
