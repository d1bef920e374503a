"""``grepq score``: photos in, scores out."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TextIO

import typer

from grepq_metric.errors import InputError

COLUMNS = ("path", "score", "low", "high", "width", "height", "error")


class Format(str, Enum):
    """How results are written."""

    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"


def score(
    paths: list[str] = typer.Argument(
        ..., metavar="PATH...", help="Photos, folders, globs in quotes, or - for a list of photos on standard input."
    ),
    metric: str = typer.Option(
        None,
        help="**grepq-ll** (default): low-level, no network. **grepq**: both pathways, and **grepq-hl**: CLIP alone; they "
        "download CLIP once.",
    ),
    weights: str = typer.Option(
        None, help="A weights folder or a Hub repository user/name; alone, it also decides the metric."
    ),
    head: Path = typer.Option(None, help="A head of `grepq fit`: the score is then the MOS that it predicts."),
    device: str = typer.Option(None, help="Torch device, such as cpu or cuda:1. Default: cuda if there is one, else cpu."),
    recursive: bool = typer.Option(False, "--recursive", "-r", help="Search folders with all their subfolders."),
    format: Format = typer.Option(Format.table, help="json is one array, jsonl one object a line."),
    output: Path = typer.Option(None, "--output", "-o", help="Write results to this file instead of standard output."),
    map: Path = typer.Option(None, metavar="DIR", help="Also draw the quality map over each photo, as a PNG in this folder."),
) -> None:
    """Score photos; higher is better.

    Results appear as they are computed. A photo that can't be read gets a row with the error; the others are still scored,
    and the exit status is 1.
    """
    import torch
    from tqdm import tqdm

    from grepq_metric.cli.loading import load_model
    from grepq_metric.images import read_ahead

    if output is not None and not output.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {output.parent}")
    model = load_model(metric, weights, device)
    regressor = None
    if head is not None:
        from grepq_metric.heads.regressor import GRepQRegressor

        regressor = GRepQRegressor.load(head, model)
    if map is not None:
        if model.low is None:
            raise InputError(f"--map needs the low-level pathway, which {model.weights_id} lacks")
        map.mkdir(parents=True, exist_ok=True)
    typer.echo(f"{model.weights_id} on {next(model.parameters()).device}", err=True)

    listed = _expand(paths, recursive)
    items = listed if "-" in paths else list(listed)
    failed = 0
    stream = output.open("w", newline="", encoding="utf-8", errors="surrogateescape") if output else sys.stdout
    for standard in (sys.stdin, sys.stdout):  # file names need not be valid text, and are no matter of the locale
        if hasattr(standard, "reconfigure"):
            standard.reconfigure(encoding="utf-8", errors="surrogateescape")
    writer = WRITERS[format](stream)
    total = len(items) if isinstance(items, list) else None
    try:
        with torch.inference_mode(), tqdm(total=total, unit="photo", disable=None, leave=False) as bar:
            # One ahead of a pipe: who writes paths to it may wait for the score.
            for path, image in read_ahead(items, 3 if total else 1):
                row = _score_one(model, regressor, path, image, map)
                failed += row["error"] is not None
                with bar.external_write_mode(file=stream):
                    writer.row(row)
                    stream.flush()
                bar.update()
    finally:
        writer.end()
        if output:
            stream.close()
    if failed:
        typer.secho(f"{failed} of the photos could not be scored", fg="yellow", err=True)
        raise typer.Exit(1)


def _expand(paths: list[str], recursive: bool) -> Iterator[str]:
    """Photos behind the arguments, written as the user wrote them."""
    from grepq_metric.images import find_images

    for given in paths:
        if given == "-":
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        elif os.path.isdir(given):
            yield from (os.path.join(given, found.relative_to(given)) for found in find_images(given, recursive))
        elif not os.path.exists(given) and glob.has_magic(given):
            yield from sorted(glob.glob(given, recursive=True)) or [given]
        else:
            yield given


def _score_one(model, regressor, path: str, image, map_folder: Path | None) -> dict:
    row = dict.fromkeys(COLUMNS)
    row["path"] = path
    if isinstance(image, Exception):
        row["error"] = str(image)
        return row
    row["height"], row["width"] = image.shape[1:]
    try:
        x = image.unsqueeze(0).to(next(model.parameters()).device)
        parts = model.components(x) if regressor is None else {"score": regressor.mos(x)}
        row.update({key: value.item() for key, value in parts.items() if key in row and value is not None})
        if map_folder is not None:
            _write_map(model, x, map_folder / _map_name(path))
    except Exception as error:  # too large for the device or for OpenCV, a full disk: the other photos go on
        row["error"] = str(error) or repr(error)
    return row


def _map_name(path: str) -> str:
    """A file name for the map of a photo: its own, and for a photo elsewhere its path and what tells like ones apart."""
    if not re.search(r"[\\/:]", path):
        return f"{path}.map.png"
    flat = re.sub(r"[\\/:]+", "__", path)[-180:].lstrip("_.")
    return f"{flat}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}.map.png"


def _write_map(model, x, path: Path) -> None:
    import cv2

    from grepq_metric.cli.overlay import draw

    done, data = cv2.imencode(".png", draw(model, x))
    if not done:
        raise InputError(f"cannot encode {path}")
    path.write_bytes(data)


class TableWriter:
    """Columns for people; the path comes last, since it has no fixed width."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        stream.write(f"{'score':>7} {'low':>7} {'high':>7} {'width':>6} {'height':>6}  path\n")

    def row(self, row: dict) -> None:
        """Write one result."""
        numbers = ["-" if row[key] is None else f"{row[key]:.4f}" for key in ("score", "low", "high")]
        sizes = ["-" if row[key] is None else str(row[key]) for key in ("width", "height")]
        text = " ".join([*(f"{n:>7}" for n in numbers), *(f"{s:>6}" for s in sizes)])
        error = f"  error: {row['error']}" if row["error"] else ""
        self.stream.write(f"{text}  {row['path']}{error}\n")

    def end(self) -> None:
        """Nothing to close."""


class CsvWriter:
    """Comma-separated values with a header; an absent value is empty."""

    def __init__(self, stream: TextIO) -> None:
        self.writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        self.writer.writeheader()

    def row(self, row: dict) -> None:
        """Write one result."""
        self.writer.writerow(row)

    def end(self) -> None:
        """Nothing to close."""


class JsonlWriter:
    """One JSON object a line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def row(self, row: dict) -> None:
        """Write one result."""
        self.stream.write(json.dumps(row) + "\n")

    def end(self) -> None:
        """Nothing to close."""


class JsonWriter:
    """One JSON array, written element by element."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.separator = stream, "[\n"

    def row(self, row: dict) -> None:
        """Write one result."""
        self.stream.write(self.separator + json.dumps(row))
        self.separator = ",\n"

    def end(self) -> None:
        """Close the array."""
        self.stream.write("\n]\n" if self.separator == ",\n" else "[]\n")


WRITERS = {Format.table: TableWriter, Format.csv: CsvWriter, Format.json: JsonWriter, Format.jsonl: JsonlWriter}
