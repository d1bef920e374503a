"""Opens data sets of opinion scores: those that have a name, and any CSV file."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.harness.items import PHOTOS, TRACKS, Dataset, Item, Record
from benchmarks.harness.sources import RECORDS, read_items
from benchmarks.harness.specs import one_of, parse_spec, safe_name, typed


@dataclass(frozen=True)
class CsvOptions:
    """Options of a CSV file: the direction and the ends of its scale, the kind of distortions, its name, its track."""

    lower_better: bool = False
    low: float = -np.inf
    high: float = np.inf
    kind: str = "authentic"
    name: str = ""
    track: str = PHOTOS


class PartialCopyError(ValueError):
    """A copy of a data set lacks images."""


def open_dataset(spec: str, data_root: Path, allow_partial: bool = False) -> Dataset:
    """Read a dataset by its name, or any CSV file ``labels.csv[:lower_better=true]`` or folder that holds a ``labels.csv``.

    Raises:
        PartialCopyError: images are missing, and `allow_partial` is not set.
        ValueError: the name is unknown, or names or scores are not what they should be.
        FileNotFoundError: it is not there.
    """
    name, options = parse_spec(spec)
    if name in RECORDS:
        record, root = RECORDS[name], data_root
        if options:
            raise ValueError(f"{name} takes no options, got {sorted(options)}")
    else:
        record, root = _csv_record(name, options)
    items = sorted(record.read(root), key=lambda item: item.name)
    if any(item.content for item in items):
        # An image that names no content, such as the undistorted one itself, is its own: the one that others may name.
        items = [replace(item, content=item.content or item.name) for item in items]
    _check(record, items)
    absent = [item.name for item in items if not all(p is None or p.is_file() for p in (item.path, item.reference))]
    missing = max(len(absent), (record.images or 0) - len(items))
    if missing and not allow_partial:
        example = f", for example {absent[0]}" if absent else ""
        raise PartialCopyError(
            f"{record.name} is a partial copy: {missing} of {max(record.images or 0, len(items))} images are missing{example}"
        )
    there = set(absent)
    items = [item for item in items if item.name not in there]
    if not items:
        raise FileNotFoundError(f"none of the images of {record.name} is in {root}")
    return Dataset(record, items, absent)


def _check(record: Record, items: list[Item]) -> None:
    if not items:
        raise ValueError(f"{record.name} holds no images")
    names = [item.name for item in items]
    for a, b in pairwise(names):
        if a == b:
            raise ValueError(f"{record.name} names {a} twice")
    for item in items:
        if not np.isfinite(item.mos):
            raise ValueError(f"{record.name}: the score of {item.name} is {item.mos}, expected a finite number")
    low, high = record.mos_range
    outside = [item for item in items if not low <= item.mos <= high]
    if outside:
        raise ValueError(f"{record.name}: the score of {outside[0].name} is {outside[0].mos}, expected {low:g} to {high:g}")
    splits: dict[str, set[bool]] = {}
    for item in items:
        if item.content and item.split:
            splits.setdefault(item.content, set()).add(item.split == "test")
    shared = [content for content, found in splits.items() if len(found) > 1]
    if shared:
        raise ValueError(f"{record.name}: the content {shared[0]} is both in the test split and outside of it")


def _csv_record(name: str, options: dict[str, str]) -> tuple[Record, Path]:
    path = Path(name).expanduser()
    if path.is_dir() and (path / "labels.csv").is_file():
        path = path / "labels.csv"
    if path.suffix.lower() != ".csv":
        close = difflib.get_close_matches(name, RECORDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"unknown dataset {name!r}: expected a CSV file, a folder with labels.csv, or one of {', '.join(RECORDS)}{hint}"
        )
    chosen = typed(CsvOptions, options, "a CSV file")
    title = safe_name(chosen.name) or (path.resolve().parent.name if path.stem == "labels" else path.stem)
    record = Record(
        title,
        title,
        chosen.kind,
        None,
        (chosen.low, chosen.high),
        "see its source",
        read_items,
        lower_better=chosen.lower_better,
        note=f"read from {path.name}",
        track=one_of(chosen.track, TRACKS, f"track of {path.name}"),
    )
    return record, path
