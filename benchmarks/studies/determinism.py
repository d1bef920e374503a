"""What moves a score that should stay: by how much do runs, threads, batches, processes and processors differ?

    python -m benchmarks.studies.determinism --photos PHOTOS --out benchmarks/results/determinism

Crops of photos, of one size, are scored by each offline metric under one condition after the other, each in a process of its
own; figures are the largest difference of a score from that of the first run, and how many scores have the same bits. Older
processors are stood in for by what torch and oneDNN may use of this one: that tells the arithmetic of another machine, but not
that of other libraries.

Takes ten minutes on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torchvision.utils import save_image

from benchmarks.studies.reporting import Report, Row, measured, parse, read_report, study_parser, table, write_report
from grepq_metric import load_model, read_image, score_files
from grepq_metric.images import find_images

STUDY = "determinism"
WEIGHTS = ("grepq-sem", "grepq-ll", "grepq-lite", "qfm-iqm")
PHOTOS, HEIGHT, WIDTH = 32, 256, 384
WITHOUT_AVX512 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
WITHOUT_AVX = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
FIRST = "the first run"
CONDITIONS: dict[str, tuple[dict[str, int | bool], dict[str, str]]] = {
    FIRST: ({}, {}),
    "another run, in another process": ({}, {}),
    "one thread": ({"threads": 1}, {}),
    "two threads": ({"threads": 2}, {}),
    "four threads": ({"threads": 4}, {}),
    "in batches of 2": ({"batch": 2}, {}),
    "in batches of 8": ({"batch": 8}, {}),
    "in batches of 32": ({"batch": 32}, {}),
    "files, by two processes": ({"jobs": 2}, {}),
    "files, by four processes": ({"jobs": 4}, {}),
    "channels last in memory": ({"channels_last": True}, {}),
    "a processor without AVX-512": ({}, WITHOUT_AVX512),
    "a processor without AVX": ({}, WITHOUT_AVX),
    "torch without oneDNN": ({"onednn": False}, {}),
}
"""By name: settings of `scores`, and environment variables."""


def scores(
    files: Sequence[Path],
    weights: str,
    threads: int = 0,
    batch: int = 1,
    jobs: int = 0,
    channels_last: bool = False,
    onednn: bool = True,
) -> list[float]:
    """Scores of image files of one size, under a condition.

    Args:
        files: the images.
        weights: name of the metric.
        threads: of torch; 0: as many as it takes by itself.
        batch: images that are scored at once.
        jobs: processes to which files are given; 0: this one scores tensors.
        channels_last: order of the images in memory.
        onednn: whether torch may use it.
    """
    if threads:
        torch.set_num_threads(threads)
    if jobs:
        return [cast(float, row["score"]) for row in score_files(files, weights=weights, device="cpu", jobs=jobs)]
    model = load_model(weights)
    images = torch.stack([read_image(file) for file in files])
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=onednn):
        return [score for part in images.split(batch) for score in model(part).flatten().tolist()]


def crops(photos: Path, folder: Path) -> list[Path]:
    """PNG files of the middle of photos that are large enough."""
    found: list[Path] = []
    for photo in find_images(photos):
        image = read_image(photo)
        top, left = (image.shape[1] - HEIGHT) // 2, (image.shape[2] - WIDTH) // 2
        if min(top, left) < 0:
            continue
        found.append(folder / f"{len(found)}.png")
        save_image(image[:, top : top + HEIGHT, left : left + WIDTH], found[-1])
        if len(found) == PHOTOS:
            return found
    raise ValueError(f"{photos} has {len(found)} photos of {WIDTH} x {HEIGHT} pixels or more, expected {PHOTOS}")


def measure(files: Sequence[Path], weights: Sequence[str] = WEIGHTS) -> Iterator[Row]:
    """Rows of the report."""
    first: dict[str, list[float]] = {}
    for condition, (settings, environment) in CONDITIONS.items():
        found = _in_a_process(files, weights, settings, environment)
        if condition == FIRST:
            first = found
            continue
        for name in weights:
            pairs = list(zip(first[name], found[name], strict=True))
            largest = max(abs(one - other) for one, other in pairs)
            yield {
                "condition": condition,
                "metric": name,
                "largest": largest,
                "same": sum(one == other for one, other in pairs),
            }


def _in_a_process(
    files: Sequence[Path], weights: Sequence[str], settings: Mapping[str, int | bool], environment: Mapping[str, str]
) -> dict[str, list[float]]:
    given = json.dumps({"files": [str(file) for file in files], "weights": list(weights), "settings": dict(settings)})
    command = [sys.executable, "-m", f"benchmarks.studies.{STUDY}", "--out", ".", "--one", given]
    done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def markdown(report: Report) -> list[str]:
    """A table: a line a condition, a column a metric."""
    names = list(dict.fromkeys(str(row["metric"]) for row in report.rows))
    found = {(row["condition"], row["metric"]): row for row in report.rows}
    rows = []
    for condition in dict.fromkeys(row["condition"] for row in report.rows):
        cells = (found[condition, name] for name in names)
        rows.append(
            [str(condition), *("0" if not row["largest"] else f"{row['largest']:.1e} ({row['same']})" for row in cells)]
        )
    return table([f"differs from {FIRST}", *(f"`{name}`" for name in names)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photos")
    parser.add_argument("--one", metavar="JSON", help="one condition, in this process")
    given = parse(parser, arguments)
    if given.one:
        asked = json.loads(given.one)
        print(json.dumps({name: scores(asked["files"], name, **asked["settings"]) for name in asked["weights"]}))
        return
    if given.report_only:
        write_report(read_report(given.out, STUDY), given.out, markdown)
        return
    if given.photos is None:
        parser.error("the following arguments are required: --photos")
    with tempfile.TemporaryDirectory() as folder:
        files = crops(given.photos, Path(folder))
        rows = list(measure(files))
    ids = ", ".join(load_model(name).weights_id for name in WEIGHTS)
    notes = [f"In brackets: how many of the {PHOTOS} scores have the same bits; 0: all."]
    write_report(measured(STUDY, ids, {"name": given.photos.name, "images": len(files)}, rows, notes), given.out, markdown)


if __name__ == "__main__":
    main()
