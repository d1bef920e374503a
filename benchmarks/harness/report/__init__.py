"""Tables and a page of a results folder; that folder, the user's copies of datasets and `published.csv` enter them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torchvision.transforms.functional as TF
from PIL import Image

from benchmarks.harness.items import Dataset
from benchmarks.harness.report.collect import collect
from benchmarks.harness.report.page import render
from benchmarks.harness.report.rows import Report, Residual
from benchmarks.harness.report.tables import comma_separated, latex, markdown, summary
from benchmarks.harness.results import write_json
from grepq_metric.files import whole_file
from grepq_metric.images import read_image

THUMBNAIL = 96
"""Longest side of a thumbnail in pixels."""


def write_report(
    results: Path,
    out: Path,
    datasets: Sequence[Dataset] = (),
    failures: str = "all",
    thumbnails: bool = False,
    command: str = "",
) -> tuple[list[Path], list[str]]:
    """Write ``index.html``, ``leaderboard.md``, ``.csv``, ``.tex`` and ``summary.json``.

    Args:
        results: folder of `benchmarks.harness.runner`.
        out: folder to write to.
        datasets: copies of the datasets, for their opinion scores; without one, only what needs none is reported.
        failures: as in `collect`.
        thumbnails: embed small pictures of the images with the largest residuals in the page.
        command: that makes the report, for the page.

    Returns:
        The files, and what could not be reported.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: a result file is damaged or of another version, or nothing can be reported; the message says why.
        OSError: the report can't be written; the message names the file.
    """
    report = collect(results, datasets, failures)
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "index.html": render(page_data(report, out, thumbnails, command)),
        "leaderboard.md": markdown(report),
        "leaderboard.csv": comma_separated(report),
        "leaderboard.tex": latex(report),
    }
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    write_json(out / "summary.json", summary(report))
    return [out / name for name in (*texts, "summary.json")], report.missing


def page_data(report: Report, out: Path, thumbnails: bool = False, command: str = "") -> dict[str, Any]:
    """A report in the form that `benchmarks.harness.report.page.render` takes; links start at the folder `out`."""
    scatter = []
    for plot in report.scatter:
        key = {name: getattr(plot.row, name) for name in ("metric", "dataset", "protocol", "labels", "split")}
        residuals = [_residual(one, out, thumbnails) for one in plot.residuals]
        scatter.append({**key, "points": plot.points, "curve": plot.curve, "residuals": residuals})
    return {
        "created": report.created,
        "command": command,
        "datasets": [{**asdict(facts), "name": name} for name, facts in report.datasets.items()],
        "rows": [row.flat() for row in report.rows],
        "scatter": scatter,
        "missing": report.missing,
    }


def _residual(one: Residual, out: Path, thumbnail: bool) -> dict[str, Any]:
    facts = {"image": one.image, "score": one.score, "mos": one.mos, "residual": one.residual}
    return {**facts, "href": _link(one.path, out), "thumbnail": _thumbnail(one.path) if thumbnail else None}


def _link(path: Path, out: Path) -> str | None:
    """Where the image lies, seen from the report; None where there is no way to it."""
    with suppress(ValueError):  # another drive
        if path.is_file():
            return quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())
    return None


def _thumbnail(path: Path) -> str | None:
    """A small JPEG as a data URI; None where the image can't be read."""
    try:
        image: Image.Image = TF.to_pil_image(read_image(path))
    except (OSError, ValueError):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
