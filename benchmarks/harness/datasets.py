"""Datasets of opinion scores: what is known of each, and how its images and scores are read."""

from __future__ import annotations

import contextlib
import csv
import difflib
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile

from grepq_metric.images import read_image


@dataclass(frozen=True)
class Item:
    """One image with an opinion score.

    Attributes:
        name: unique in the dataset.
        path: image file.
        mos: opinion score as the dataset gives it.
        reference: file of the undistorted image, if there is one.
        split: ``train``, ``val`` or ``test`` of the official split, if there is one.
        group: what images of one content share.
    """

    name: str
    path: Path
    mos: float
    reference: Path | None = None
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Record:
    """What is known of a dataset.

    Attributes:
        name: as on the command line.
        title: as in the literature and in `published.csv`.
        kind: ``authentic`` or ``synthetic`` distortions, or ``generated`` images.
        images: number of images with scores.
        mos_range: least and greatest possible score.
        lower_better: a lower opinion score is better (DMOS).
        licence: terms, in short.
        overlaps: training data that share images with it.
        note: anything else that a reader of a table must know.
        read: items of a dataset below a folder.
        load: an image of the dataset as the protocol wants it; by default the whole file.
    """

    name: str
    title: str
    kind: str
    images: int | None
    mos_range: tuple[float, float]
    licence: str
    read: Callable[[Path], list[Item]]
    lower_better: bool = False
    overlaps: tuple[str, ...] = ()
    note: str = ""
    load: Callable[[Path], torch.Tensor] = read_image


@dataclass(frozen=True)
class Dataset:
    """A dataset that has been read.

    Attributes:
        record: what is known of it.
        items: its images, ordered by name.
        absent: names of images that a partial copy lacks.
    """

    record: Record
    items: list[Item]
    absent: list[str] = field(default_factory=list)

    @cached_property
    def id(self) -> str:
        """Name and a hash of all scores, splits and image files."""
        digest = hashlib.sha256(b"lower is better" if self.record.lower_better else b"")
        hashes: dict[Path, str] = {}
        for item in self.items:
            facts = [item.name, item.mos, item.split, item.group]
            for path in filter(None, (item.path, item.reference)):
                if path not in hashes:
                    hashes[path] = hashlib.sha256(path.read_bytes()).hexdigest()
                facts.append(hashes[path])
            digest.update(json.dumps(facts).encode())
        return f"{self.record.name}-{digest.hexdigest()[:8]}"

    @property
    def mos(self) -> np.ndarray:
        """``(N,)`` opinion scores, higher is better: a DMOS is negated."""
        return np.array([item.mos for item in self.items]) * (-1 if self.record.lower_better else 1)

    @property
    def groups(self) -> list[str] | None:
        """The content of each image, or None where each has its own."""
        groups = [item.group for item in self.items]
        return None if None in groups else groups


def open_dataset(spec: str, data_root: Path, allow_partial: bool = False) -> Dataset:
    """Read a dataset by its name, or any CSV file ``labels.csv[:lower_better=true]`` or folder that holds a ``labels.csv``.

    Raises:
        ValueError: the name is unknown, names or scores are not what they should be, or the copy is partial.
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
    if any(item.group for item in items):
        # An image that names no content, such as the undistorted one itself, is its own: the one that others may name.
        items = [replace(item, group=item.group or item.name) for item in items]
    _check(record, items)
    absent = [item.name for item in items if not all(p is None or p.is_file() for p in (item.path, item.reference))]
    missing = max(len(absent), (record.images or 0) - len(items))
    if missing and not allow_partial:
        example = f", for example {absent[0]}" if absent else ""
        raise ValueError(
            f"{record.name} is a partial copy: {missing} of {max(record.images or 0, len(items))} images are missing"
            f"{example}. --allow-partial measures on what is there"
        )
    there = set(absent)
    items = [item for item in items if item.name not in there]
    if not items:
        raise FileNotFoundError(f"none of the images of {record.name} is in {root}")
    return Dataset(record, items, absent)


def parse_spec(spec: str) -> tuple[str, dict[str, object]]:
    """``name:key=value,key=value`` -> name and options; values are read as JSON where they are.

    Raises:
        ValueError: an option is no ``key=value``.
    """
    name, _, rest = spec.partition(":")
    if os.name == "nt" and len(name) == 1:  # a drive
        drive, (name, _, rest) = name, rest.partition(":")
        name = f"{drive}:{name}"
    options: dict[str, object] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{spec!r}: expected name:key=value,key=value, got {part!r}")
        try:
            options[key] = json.loads(value.lower() if value.lower() in ("true", "false") else value)
        except json.JSONDecodeError:
            options[key] = value
    return name, options


def typed(options: dict[str, object], defaults: dict[str, object], what: str) -> dict[str, object]:
    """Options over their defaults.

    Raises:
        ValueError: an option is unknown, or of another type than its default.
    """
    for key, value in options.items():
        if key not in defaults:
            raise ValueError(f"unknown option {key!r} of {what}, expected some of {', '.join(defaults)}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number if isinstance(defaults[key], float) else isinstance(value, type(defaults[key]))):
            raise ValueError(f"option {key} of {what} must be like {defaults[key]!r}, got {value!r}")
    return {**defaults, **options}


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
    splits: dict[str, set] = {}
    for item in items:
        if item.group and item.split:
            splits.setdefault(item.group, set()).add(item.split == "test")
    shared = [group for group, found in splits.items() if len(found) > 1]
    if shared:
        raise ValueError(f"{record.name}: the content {shared[0]} is both in the test split and outside of it")


def _read_csv(path: Path, **columns: str) -> list[Item]:
    """Items of a CSV file; `columns` maps its names to ours where they differ. Paths start at its folder."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, header = list(reader), reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error
    return _items(path, header, rows, **columns)


def _items(path: Path, header: list[str], rows: list[dict], images: str = "", **columns: str) -> list[Item]:
    def column(ours):
        return columns.get(ours, ours)

    for ours in ("image", "mos"):
        if column(ours) not in header:
            raise ValueError(f"{path} has no column {column(ours)!r}, it has {header}")
    items, folder = [], path.parent / images
    for line, row in enumerate(rows, 2):
        try:
            mos = float(row[column("mos")])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {line}: expected a number as {column('mos')!r}, got {row[column('mos')]!r}"
            ) from error
        name, reference = row[column("image")], row.get(column("reference")) or None
        group = row.get(column("group")) or reference
        split = (row.get(column("split")) or "").strip().lower() or None
        if not name:
            raise ValueError(f"{path}, line {line}: no image in the column {column('image')!r}")
        if split not in (None, "train", "val", "test"):
            raise ValueError(f"{path}, line {line}: expected train, val, test or nothing as split, got {split!r}")
        items.append(Item(name, folder / name, mos, path.parent / reference if reference else None, split, group))
    return items


def _csv_record(name: str, options: dict) -> tuple[Record, Path]:
    path = Path(name).expanduser()
    if path.is_dir() and (path / "labels.csv").is_file():
        path = path / "labels.csv"
    if path.suffix.lower() != ".csv":
        close = difflib.get_close_matches(name, RECORDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"unknown dataset {name!r}: expected a CSV file, a folder with labels.csv, or one of {', '.join(RECORDS)}{hint}"
        )
    allowed = {"lower_better": False, "low": -np.inf, "high": np.inf, "kind": "authentic", "name": ""}
    values = typed(options, allowed, "a CSV file")
    title = values["name"] or (path.parent.name if path.stem == "labels" else path.stem)
    return (
        Record(
            title,
            title,
            values["kind"],
            None,
            (values["low"], values["high"]),
            "see its source",
            lambda root: _read_csv(root),
            lower_better=values["lower_better"],
            note=f"read from {path.name}",
        ),
        path,
    )


def _pyiqa(name: str, root: Path) -> list[Item]:
    """Items of a dataset of pyiqa, which downloads it where it is not below `root`."""
    from pyiqa import load_dataset

    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = load_dataset(name, str(root), dataset_opts={"split_index": None})
    except Exception as error:  # the Hub's client and pyiqa raise what they like
        raise FileNotFoundError(f"pyiqa cannot load {name} from {root}: {error}") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant  # pyiqa's datasets have Pillow take half a file for a whole one
    target = Path(dataset.opt["dataroot_target"])
    # Rows of the table that pyiqa passes over come first.
    table = dataset.meta_info.iloc[len(dataset.meta_info) - len(dataset.paths_mos) :]
    splits = table["official_split"].tolist() if "official_split" in table else [None] * len(table)
    items = []
    for (*references, path, mos), split in zip(dataset.paths_mos, splits, strict=True):
        path, reference = Path(path), Path(references[0]) if references else None
        relative = path.relative_to(target) if path.is_relative_to(target) else path
        group = reference.name if reference else None
        items.append(Item(relative.as_posix(), path, float(mos), reference, split if isinstance(split, str) else None, group))
    return items


def _resized_448(path: Path) -> torch.Tensor:
    """As pyiqa's protocol for SPAQ: the shorter side is made 448 pixels long."""
    from torchvision.transforms.functional import pil_to_tensor, resize

    with Image.open(path) as image:
        return pil_to_tensor(resize(image.convert("RGB"), 448)).float() / 255


def _biq2021(root: Path) -> list[Item]:
    folder, items = root / "BIQ2021", []
    for split in ("train", "test"):
        table = folder / f"{split.title()} (Images and MOS).csv"
        items += [replace(i, split=split) for i in _read_csv(table, image="Image Name", mos="MOS", images="Images")]
    return items


def _agiqa_1k(root: Path) -> list[Item]:
    import pandas

    path = root / "AGIQA-1K" / "AIGC_MOS_Zscore.xlsx"
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        table = pandas.read_excel(path)
    except ImportError as error:
        raise ValueError(f'{path} needs openpyxl: pip install "grepq-metric[benchmark]"') from error
    return _items(path, list(table.columns), table.to_dict("records"), image="Image", mos="MOS", images="file")


def _agiqa_3k(root: Path) -> list[Item]:
    return _read_csv(root / "AGIQA-3K" / "data.csv", image="name", mos="mos_quality", images="file")


def _toy(root: Path) -> list[Item]:
    """Photos that scikit-image ships, distorted in eight ways at five levels; made once, below `root`."""
    from benchmarks.harness.toy import write_versions

    folder = root / "toy"
    return [
        Item(file, folder / file, float(-level), folder / original, None, original.partition("/")[0])
        for file, original, level in write_versions(folder)
    ]


RESEARCH = "for research; see the authors' page"


def _from_pyiqa(name: str, title: str, kind: str, images: int, mos_range: tuple[float, float], **facts) -> Record:
    return Record(name, title, kind, images, mos_range, RESEARCH, lambda root: _pyiqa(name, root), **facts)


_ALL = (
    _from_pyiqa("koniq10k", "KonIQ-10k", "authentic", 10073, (1, 100), overlaps=("KonIQ++", "trained metrics of KonIQ-10k")),
    _from_pyiqa("livec", "CLIVE", "authentic", 1162, (0, 100), note="without the 7 training images, as pyiqa does"),
    _from_pyiqa("spaq", "SPAQ", "authentic", 11125, (0, 100), load=_resized_448, note="shorter side made 448, as pyiqa does"),
    _from_pyiqa("flive", "FLIVE", "authentic", 39810, (0, 100), overlaps=("AVA, EMOTIC, Blur and VOC photos",)),
    _from_pyiqa("live", "LIVE", "synthetic", 779, (0, 120), lower_better=True, note="DMOS"),
    _from_pyiqa("csiq", "CSIQ", "synthetic", 866, (0, 1), lower_better=True, note="DMOS"),
    _from_pyiqa("tid2008", "TID2008", "synthetic", 1700, (0, 9), overlaps=("TID2013",)),
    _from_pyiqa("tid2013", "TID2013", "synthetic", 3000, (0, 9), overlaps=("TID2008", "Kodak photos")),
    _from_pyiqa("kadid10k", "KADID-10k", "synthetic", 10125, (1, 5)),
    _from_pyiqa("livem", "LIVE-MD", "synthetic", 450, (0, 100), lower_better=True, note="DMOS, two distortions in a row"),
    _from_pyiqa("pipal", "PIPAL", "synthetic", 23200, (0, 2000), note="the public training part; Elo scores"),
    Record("biq2021", "BIQ2021", "authentic", 12000, (0, 1), RESEARCH, _biq2021,
           overlaps=("grepq-ll: 1,988 photos of its training split, without scores",)),
    Record("agiqa-1k", "AGIQA-1K", "generated", 1080, (-10, 10), RESEARCH, _agiqa_1k),
    Record("agiqa-3k", "AGIQA-3K", "generated", 2982, (0, 5), RESEARCH, _agiqa_3k),
    Record("toy", "toy", "synthetic", 205, (-5, 0), "photos of scikit-image, CC0 or public domain as its docs state", _toy,
           note="no opinions of people: the score is minus the level of a known distortion"),
)  # fmt: skip
RECORDS = {record.name: record for record in _ALL}
"""Datasets by name."""
