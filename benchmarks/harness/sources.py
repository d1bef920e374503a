"""The data sets that have a name: how the files that their authors ship are read."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFile

from benchmarks.harness.items import Item, Record
from benchmarks.harness.sheets import Line, read_sheet

SPLITS = ("train", "val", "test")


def read_items(
    path: Path, image: str = "image", mos: str = "mos", images: str = "", lines: list[Line] | None = None
) -> list[Item]:
    """Items of a table with columns for the image and its score, and, if known, ``reference``, ``split`` and ``content``.

    Args:
        path: a CSV file; files are named from its folder.
        image: the column of image files.
        mos: the column of opinion scores.
        images: folder of the image files below that of the table.
        lines: what the table holds, where it is no CSV file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not what it should be; the message names it.
    """
    items = []
    for line in read_sheet(path, (image, mos)) if lines is None else lines:
        name, reference, split = line.values[image], line.text("reference"), line.text("split").lower()
        if not name:
            raise ValueError(f"{line.where}: no image in the column {image!r}")
        if split not in ("", *SPLITS):
            raise ValueError(f"{line.where}: expected {', '.join(SPLITS)} or nothing as split, got {split!r}")
        items.append(
            Item(
                name,
                path.parent / images / name,
                line.number(mos),
                path.parent / reference if reference else None,
                split or None,
                line.text("content") or reference or None,
            )
        )
    return items


@contextlib.contextmanager
def whole_images() -> Iterator[None]:
    """Have Pillow refuse damaged files; afterwards its switch is as it was, whatever was loaded in between."""
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def _pyiqa(name: str, root: Path) -> list[Item]:
    """Items of a dataset of pyiqa, which downloads it where it is not below `root`."""
    try:
        from pyiqa import load_dataset
    except ImportError as error:
        raise ValueError(f"the dataset {name} is read by pyiqa, which can't be imported: {error}") from error
    try:
        # pyiqa's datasets have Pillow take half a file for a whole one.
        with whole_images(), contextlib.redirect_stdout(io.StringIO()):
            dataset = load_dataset(name, str(root), dataset_opts={"split_index": None})
    except Exception as error:  # the Hub's client and pyiqa raise what they like
        raise FileNotFoundError(f"pyiqa cannot load {name} from {root}: {error}") from error
    target = Path(dataset.opt["dataroot_target"])
    # Rows of the table that pyiqa passes over come first.
    table = dataset.meta_info.iloc[len(dataset.meta_info) - len(dataset.paths_mos) :]
    splits = table["official_split"].tolist() if "official_split" in table else [None] * len(table)
    items = []
    for (*references, path, mos), split in zip(dataset.paths_mos, splits, strict=True):
        path, reference = Path(path), Path(references[0]) if references else None
        relative = path.relative_to(target) if path.is_relative_to(target) else path
        content = reference.name if reference else None
        part = split if isinstance(split, str) else None
        items.append(Item(relative.as_posix(), path, float(mos), reference, part, content))
    return items


def _resized_448(path: Path) -> torch.Tensor:
    """As pyiqa's protocol for SPAQ: the shorter side is made 448 pixels long."""
    from torchvision.transforms.functional import pil_to_tensor, resize

    with whole_images(), Image.open(path) as image:
        return pil_to_tensor(resize(image.convert("RGB"), 448)).float() / 255


def _biq2021(root: Path) -> list[Item]:
    folder = root / "BIQ2021"
    items: list[Item] = []
    for split in ("train", "test"):
        found = read_items(folder / f"{split.title()} (Images and MOS).csv", "Image Name", "MOS", "Images")
        items += [replace(item, split=split) for item in found]
    return items


def _agiqa_1k(root: Path) -> list[Item]:
    import pandas

    path = root / "AGIQA-1K" / "AIGC_MOS_Zscore.xlsx"
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        table = pandas.read_excel(path, dtype=str)
    except ImportError as error:
        raise ValueError(f"{path} needs openpyxl: pip install openpyxl") from error
    for name in ("Image", "MOS"):
        if name not in table.columns:
            raise ValueError(f"{path} has no column {name!r}, it has {list(table.columns)}")
    rows = enumerate(table.fillna("").to_dict("records"), 2)
    lines = [Line(f"{path}, line {number}", {str(key): str(value) for key, value in row.items()}) for number, row in rows]
    return read_items(path, "Image", "MOS", "file", lines)


def _agiqa_3k(root: Path) -> list[Item]:
    return read_items(root / "AGIQA-3K" / "data.csv", "name", "mos_quality", "file")


def _toy(root: Path) -> list[Item]:
    """Photos that scikit-image ships, distorted in eight ways at five levels; made once, below `root`."""
    from benchmarks.harness.toy import write_versions

    folder = root / "toy"
    return [
        Item(file, folder / file, float(-level), folder / original, None, original.partition("/")[0])
        for file, original, level in write_versions(folder)
    ]


RESEARCH = "for research; see the authors' page"


def _from_pyiqa(name: str, title: str, kind: str, images: int, mos_range: tuple[float, float], **facts: Any) -> Record:
    return Record(name, title, kind, images, mos_range, RESEARCH, partial(_pyiqa, name), **facts)


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
           overlaps=("grepq-ll, grepq-sem: 1,988 photos of its training split, without scores",
                     "the head biq2021: 1,000 photos of its training split, with scores")),
    Record("agiqa-1k", "AGIQA-1K", "generated", 1080, (-10, 10), RESEARCH, _agiqa_1k),
    Record("agiqa-3k", "AGIQA-3K", "generated", 2982, (0, 5), RESEARCH, _agiqa_3k),
    Record("toy", "toy", "synthetic", 205, (-5, 0), "photos of scikit-image, CC0 or public domain as its docs state", _toy,
           note="no opinions of people: the score is minus the level of a known distortion"),
)  # fmt: skip
RECORDS = {record.name: record for record in _ALL}
"""Datasets by name."""
