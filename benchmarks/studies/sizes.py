"""Is a folder of mixed sizes ordered by quality, or by pixels? The same photos shown at several sizes, reduced and not.

    python -m benchmarks.studies.sizes PHOTOS --out benchmarks/results/sizes

PHOTOS are photographs with a longer side of `LEAST` pixels or more. Each is taken as it is and with three distortions that are
made at its full size; each of these versions is shown at its full size and reduced to 2048, 1024, 768,
640 and 512 pixels. Reported
are, for each metric:

- for each size, the SRCC of the scores of all versions at it with those at full size, and the mean change of the score, in
  multiples of the standard deviation of the scores at full size;
- the SRCC between the scores of a folder in which each version has a size of its own, drawn at random, and the scores that
  the same versions have at the standard viewing size, 640 pixels: with each version scored at the size that it has, and with
  ``resolution=1024``, ``768``, ``640`` and ``512``; the mean over `DRAWS` folders.

The committed results are of photographs in packages of Debian 12, listed in `PACKAGED`: ``apt-get download mate-backgrounds
plasma-workspace-wallpapers lxqt-themes``, and ``dpkg-deb -x`` of each into one folder, of which PHOTOS is ``usr/share``. Of
some, smaller ones are among the contents that training has seen. Takes ten minutes on two cores. All scores are in
``scores.csv``, from which ``--report-only`` makes the report in a second; a run that was stopped continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness.agreement import srcc
from benchmarks.studies.reporting import (
    Report,
    Row,
    measured,
    parse,
    read_report,
    read_rows,
    study_parser,
    table,
    write_report,
    write_rows,
)
from grepq_metric import GRepQ, read_image
from grepq_metric.inputs import reduce_to
from grepq_metric.reference import STANDARD_SIDE
from grepq_metric.training.distortions import distort

STUDY = "sizes"
PACKAGED = (
    *(f"backgrounds/mate/nature/{name}.jpg" for name in ("Aqua", "Garden", "LadyBird", "TwoWings", "Wood", "YellowFlower")),
    *(f"lxqt/wallpapers/{name}" for name in ("after-the-rain.jpg", "appleflower.png", "butterfly.png", "cloud.png")),
    *(f"lxqt/wallpapers/{name}" for name in ("flowers.png", "fog.jpg", "this-is-not-windows.jpg", "beam.png")),
    *(
        f"wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in ("BytheWater", "ColdRipple", "ColorfulCups", "FallenLeaf", "Grey", "OneStandsOut", "Path")
    ),
)
LEAST = 2048
FULL = 0
SIZES = (FULL, 2048, 1024, 768, 640, 512)
CHAINS: dict[str, list[tuple[str, int]]] = {
    "none": [],
    "jpeg": [("jpeg", 4)],
    "blur": [("gaussian_blur", 3)],
    "noise": [("white_noise", 3)],
}
METRICS: dict[str, dict[str, Any]] = {"grepq-sem": {}, "grepq-ll": {"speed": "dense"}}
DRAWS = 200
TEXTS = ("photo", "version")
"""Columns of ``scores.csv`` that are text."""


def versions(folder: Path, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """A photo in each version at full size: ``(1, 3, H, W)``."""
    image = (read_image(folder / name).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    if max(image.shape[:2]) < LEAST:
        raise ValueError(f"{name} has {image.shape[1]} x {image.shape[0]} pixels, expected {LEAST} or more on the longer side")
    for version, chain in CHAINS.items():
        x = torch.from_numpy(distort(image, chain, seed=1)).permute(2, 0, 1).unsqueeze(0).float() / 255
        yield version, x


def score_all(folder: Path, names: Sequence[str], out: Path) -> list[Row]:
    """Scores of all photos, versions and sizes; after each photo, those so far are written."""
    rows = read_rows(out, TEXTS) if out.exists() else []
    done = {row["photo"] for row in rows}
    models = {name: GRepQ.from_pretrained(name, **options).requires_grad_(False) for name, options in METRICS.items()}
    for name in tqdm([name for name in names if name not in done], unit="photo"):
        for version, x in versions(folder, name):
            for size in SIZES:
                shown = reduce_to(x, size) if size else x
                with torch.inference_mode():
                    scores = {metric: round(model(shown).item(), 6) for metric, model in models.items()}
                rows.append({"photo": name, "version": version, "size": size, **scores})
        write_rows(out, rows)
    return rows


def figures(report: Report, out: Path) -> Report:
    """The report with its figures computed from the scores in a folder."""
    scores = read_rows(out / "scores.csv", TEXTS)
    found: list[Row] = []
    for metric in METRICS:
        at = {size: np.array([float(row[metric]) for row in scores if int(row["size"]) == size]) for size in SIZES}
        for size in SIZES[1:]:
            change = float((at[size] - at[FULL]).mean() / at[FULL].std())
            found.append({"table": "size", "metric": metric, "size": size, "srcc": srcc(at[size], at[FULL]), "change": change})
        for limit in (FULL, 1024, 768, 640, 512):
            found.append({"table": "mixed", "metric": metric, "resolution": limit, "srcc": _mixed(at, limit)})
    photos = len({row["photo"] for row in scores})
    return replace(report, data={"name": "photographs of Debian 12's packages", "images": photos}, rows=found)


def _mixed(at: dict[int, np.ndarray], limit: int) -> float:
    """SRCC of a folder of random sizes with all at `STANDARD_SIDE`, where sizes above a limit are reduced to it."""
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        sizes = rng.choice(SIZES, len(at[FULL]))
        if limit:
            sizes = np.where((sizes == FULL) | (sizes > limit), limit, sizes)
        found.append(srcc(np.array([at[int(size)][i] for i, size in enumerate(sizes)]), at[STANDARD_SIDE]))
    return float(np.mean(found))


def markdown(report: Report) -> list[str]:
    """A table of sizes and one of mixed folders."""
    sizes = (
        [f"`{row['metric']}`", f"{row['size']:,}", f"{row['srcc']:.3f}", f"{row['change']:+.2f}"]
        for row in report.rows
        if row["table"] == "size"
    )
    mixed = (
        [f"`{row['metric']}`", f"{row['resolution']:,}" if row["resolution"] else "none", f"{row['srcc']:.3f}"]
        for row in report.rows
        if row["table"] == "mixed"
    )
    return [
        *table(["metric", "pixels of the longer side", "SRCC with full size", "mean change"], sizes),
        "",
        "A folder of mixed sizes:",
        "",
        *table(["metric", "resolution", f"SRCC with all at {STANDARD_SIDE} pixels"], mixed),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report and all scores to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("photos", type=Path, nargs="?", help="folder with the photographs, as the packages lay them out")
    given = parse(parser, arguments)
    if given.report_only:
        report = read_report(given.out, STUDY)
    else:
        if given.photos is None:
            parser.error("the folder of photographs is missing")
        given.out.mkdir(parents=True, exist_ok=True)
        score_all(given.photos, PACKAGED, given.out / "scores.csv")
        ids = ", ".join(GRepQ.from_pretrained(name, **options).weights_id for name, options in METRICS.items())
        report = measured(STUDY, ids, {}, [])
    write_report(figures(report, given.out), given.out, markdown)


if __name__ == "__main__":
    main()
