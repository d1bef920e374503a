"""What does each choice of MDFS buy, with EfficientNet-Lite2 as its network? One change at a time.

    python -m benchmarks.studies.mdfs --photos PHOTOS --opinions BIQ2021_DEV --out benchmarks/results/mdfs

``mdfs-lite`` with the choices of the authors' code, and with one of them changed. Pristine statistics are fitted to
every third photo of PHOTOS. Reported are the SRCC with opinion scores, on all photos and on each subset, and the
figures of ``benchmarks.studies.synthetic``.

Needs albumentations and scikit-image, and takes about 0.4 seconds of one core for each of 2,000 images. All distances are in
``opinions.csv`` and ``synthetic.csv``, negated, from which ``--report-only`` makes the report in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness.mdfs import Backbone, Choices, Gaussian, Patches, Sums, aligned_maps, distance, lite2
from benchmarks.harness.toy import references
from benchmarks.studies.opinions import Opinions, Score, agreement, read_opinions, read_scores, score_all
from benchmarks.studies.reporting import (
    Report,
    Row,
    measured,
    parse,
    read_report,
    read_rows,
    srcc_cell,
    study_parser,
    table,
    write_report,
    write_rows,
)
from benchmarks.studies.synthetic import FACTS, measure, overall, summary
from grepq_metric import read_image
from grepq_metric.images import find_images

STUDY = "mdfs"
EVERY = 3
"""Of the pristine photos, one in so many is used."""
DIGITS = 2
"""Behind the point, of the distances that are kept."""
HALF = "at half the size"
BOTH = "both sizes"
AUTHORS = "as the authors' code"
VARIANTS = {
    AUTHORS: Choices(),
    "no weights for sharp patches": Choices(weighted=False),
    "pristine: all patches": Choices(sharp=False),
    "pristine covariance alone": Choices(own=0.0),
    "distance of the mean patch": Choices(each=False),
    "features of any length": Choices(unit=False),
    "patches of 7 cells": Choices(cells=7),
    "without the first stage": Choices(stages=(1, 2, 3, 4)),
    "without the last stage": Choices(stages=(0, 1, 2, 3)),
    "the last two stages": Choices(stages=(3, 4)),
    HALF: Choices(),
}


def variants_of(backbone: Backbone, x: Tensor) -> dict[str, Patches]:
    """The patches of an image ``(1, 3, H, W)`` as each variant sees them; what they share is computed once."""
    half = F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)
    maps = {name: aligned_maps(backbone, image)[0] for name, image in ((AUTHORS, x), (HALF, half))}
    shared: dict[tuple[str, int], Patches] = {}
    found = {}
    for name, choices in VARIANTS.items():
        key = (name if name in maps else AUTHORS, choices.cells)
        if key not in shared:
            shared[key] = Patches.of(maps[key[0]], choices.cells)
        found[name] = shared[key].chosen(backbone.channels, choices)
    return found


def fit(backbone: Backbone, photos: Sequence[Path]) -> dict[str, Gaussian]:
    """Pristine statistics for each variant."""
    sums = {name: Sums() for name in VARIANTS}
    for path in tqdm(photos, desc="pristine", unit="photo", disable=None):
        for name, patches in variants_of(backbone, read_image(path).unsqueeze(0)).items():
            sums[name].add(patches.pristine(VARIANTS[name]))
    return {name: some.gaussian() for name, some in sums.items()}


def scorers(backbone: Backbone, pristine: dict[str, Gaussian]) -> dict[str, Score]:
    """For each variant the distance, negated; the patches of the last image are kept, since all are asked about it in turn."""
    last: list[object] = []

    def score(x: Tensor, name: str) -> float:
        if not last or last[0] is not x:
            last[:] = [x, variants_of(backbone, x)]
        patches: Patches = last[1][name]  # type: ignore[index]
        return -round(distance(patches, pristine[name], VARIANTS[name]), DIGITS)

    return {name: lambda x, name=name: score(x, name) for name in VARIANTS}  # type: ignore[misc]


def with_both(rows: list[Row]) -> list[Row]:
    """Rows of scores, and the sum of those at both sizes."""
    return [row | {BOTH: float(row[AUTHORS]) + float(row[HALF])} for row in rows]


def figures(report: Report, opinions: Opinions, out: Path) -> Report:
    """The report with its figures computed from the scores in `out` and opinion scores."""
    kept = read_scores(out / "opinions.csv")
    people = with_both([{"image": name, **kept[name]} for name in opinions.files])
    synthetic = summary(with_both(read_rows(out / "synthetic.csv", ("photo", "type"))))
    rows: list[Row] = []
    for variant in (name for name in people[0] if name not in ("image", *FACTS)):
        scores = np.array([row[variant] for row in people], float)
        rows.append({"table": "variants", "variant": variant, **agreement(scores, opinions), **overall(synthetic, variant)})
    types = [row for row in synthetic if row["table"] == "types" and row["metric"] == AUTHORS]
    data: Row = {"name": opinions.name, "id": opinions.id, "images": len(people)}
    return replace(report, data=data, rows=[*rows, *types])


def markdown(report: Report) -> list[str]:
    """A table of the variants, and one of the types of distortion."""
    rows = report.table("variants")
    columns = [key for key in rows[0] if key not in ("table", "variant", "srcc", "srcc_low", "srcc_high")]
    cells = ([str(row["variant"]), srcc_cell(row), *(f"{row[column]:.3f}" for column in columns)] for row in rows)
    types = ([str(row["distortion"]), f"{row['srcc']:.2f}"] for row in report.table("types"))
    return [*table(["variant", "SRCC (95 % interval)", *columns], cells), "", *table(["distortion", AUTHORS], types)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report and all scores to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of undistorted photos")
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    given = parse(parser, arguments, needed=("photos",))
    opinions = read_opinions(given.opinions)
    if given.report_only:
        report = read_report(given.out, STUDY)
    else:
        backbone, photos = lite2(), sorted(find_images(given.photos))[::EVERY]
        metrics: dict[str, Callable[[Tensor], float]] = scorers(backbone, fit(backbone, photos))
        score_all(metrics, opinions.files, given.out / "opinions.csv")
        write_rows(given.out / "synthetic.csv", measure(metrics, references()))
        report = measured(STUDY, "mdfs-lite", {}, [], [f"Pristine statistics of {len(photos)} photos."])
    write_report(figures(report, opinions, given.out), given.out, markdown)


if __name__ == "__main__":
    main()
