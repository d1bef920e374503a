"""How many photos an hour: what of the model's own rate is left when files are read, with how many processes, and what memory?

    python -m benchmarks.studies.throughput --photos PHOTOS --out benchmarks/results/throughput

For ``grepq-sem`` on the CPU:

- ``pipeline``: files given to a `Scorer`, against their images scored one by one from memory, in blocks by turns in one
  process;
- ``reading``: seconds that reading and decoding a photo take on one core, and the bytes of its file;
- ``jobs``: photos a second of ``grepq score`` with one process of all threads, and with one process for each core, on an idle
  machine and beside as many processes as there are cores that compute without end; the start is counted;
- ``long``: 100,000 scores in one run, on one thread, of small files of 500 sizes, one of which is damaged: the memory of the
  process after each tenth of them, and the processor's time for a photo in it.

Takes an hour on two cores that do nothing else. What is measured stays in ``parts.json``; ``--parts`` measures some of it, so
that what needs no quiet machine, ``long``, can be done at another time. ``--report-only`` writes Markdown anew.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import psutil
import torch
from PIL import Image

from benchmarks.harness.machine import PeakMemory
from benchmarks.studies.reporting import Report, Row, measured, parse, read_report, study_parser, table, write_report
from grepq_metric import Scorer, read_image, score_files
from grepq_metric.files import whole_file
from grepq_metric.images import find_images

STUDY = "throughput"
WEIGHTS = "grepq-sem"
PARTS = ("long", "pipeline", "jobs")
PHOTOS, BLOCK = 1000, 25
JOBS_PHOTOS = 400
FILES, SMALLEST, LARGEST = 500, 64, 160
SCORES, MARKS, TURNS = 100_000, 10, 10
BUSY = "while True: sum(range(100000))"


def chosen(folders: Sequence[Path], count: int) -> list[Path]:
    """JPEG files of folders, drawn at random, from each as many if it has them."""
    found: list[Path] = []
    for folder in folders:
        photos = [path for path in find_images(folder) if path.suffix.lower() in (".jpg", ".jpeg")]
        found += random.Random(0).sample(photos, min(len(photos), count // len(folders)))
    random.Random(1).shuffle(found)
    return found


def pipeline(photos: Sequence[Path]) -> list[Row]:
    """The report's tables ``pipeline`` and ``reading``."""
    scorer = Scorer(WEIGHTS, device="cpu")
    model, pixels = scorer.model, 0

    def own(images: Sequence[torch.Tensor]) -> None:
        with torch.inference_mode():
            for image in images:
                model.components(image.unsqueeze(0))

    def piped(paths: Sequence[Path]) -> None:
        for error in scorer({"path": paths})["error"]:
            if error is not None:
                raise RuntimeError(error)

    times = {"own": 0.0, "piped": 0.0, "reading": 0.0}
    own([read_image(photos[0])])
    piped(photos[:1])
    for start in range(0, len(photos), BLOCK):
        part = photos[start : start + BLOCK]
        began = time.perf_counter()
        images = [read_image(path) for path in part]
        times["reading"] += time.perf_counter() - began
        pixels += sum(image[0].numel() for image in images)
        turns = [("own", own, images), ("piped", piped, part)]
        for name, run, given in turns if start // BLOCK % 2 else turns[::-1]:
            began = time.perf_counter()
            run(given)  # type: ignore[operator]
            times[name] += time.perf_counter() - began
    count, size = len(photos), sum(path.stat().st_size for path in photos)
    facts: Row = {"photos": count, "megapixels": pixels / count / 1e6}
    return [
        {"table": "pipeline", **facts, "own": count / times["own"], "piped": count / times["piped"]},
        {"table": "reading", **facts, "seconds": times["reading"] / count, "bytes": size / count},
    ]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """A machine on which so many processes compute without end."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def jobs(photos: Sequence[Path]) -> list[Row]:
    """The report's table ``jobs``."""
    cores, rows = os.cpu_count() or 1, list[Row]()
    for state, others in (("idle", 0), ("busy", cores)):
        for number in (1, cores):
            with tempfile.TemporaryDirectory() as folder, busy(others):
                command = [sys.executable, "-m", "grepq_metric", "score", *map(str, photos), "--jobs", str(number)]
                began = time.perf_counter()
                subprocess.run([*command, "-o", f"{folder}/scores.csv"], check=True, capture_output=True)
                took = time.perf_counter() - began
            rows.append({"table": "jobs", "machine": state, "jobs": number, "photos": len(photos), "rate": len(photos) / took})
    return rows


def long(photos: Sequence[Path], scores: int = SCORES) -> list[Row]:
    """The report's table ``long``: of this process, which must have scored nothing larger."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # or the threads' waiting for one another would count as work
    peak, process, rows = PeakMemory(), psutil.Process(), list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        files = small_files(photos, Path(folder))
        scored = score_files(islice(cycle(files), scores), weights=WEIGHTS, device="cpu")
        errors = 0
        for mark in range(1, MARKS + 1):
            times = []
            for _ in range(TURNS):
                began = time.process_time()
                turn = list(islice(scored, scores // MARKS // TURNS))
                times.append((time.process_time() - began) / len(turn))
                errors += sum(row["error"] is not None for row in turn)
            memory = {"peak": peak.peak(), "resident": process.memory_info().rss / 2**20}
            seconds = {"median": statistics.median(times), "fastest": min(times)}
            rows.append({"table": "long", "photos": scores * mark // MARKS, "errors": errors, **memory, **seconds})
    torch.set_num_threads(threads)
    return rows


def small_files(photos: Sequence[Path], folder: Path, count: int = FILES) -> list[Path]:
    """JPEG files of as many sizes, the last of which is cut, made of photos."""
    draw, files = random.Random(0), []
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as photo:
            size = draw.randint(SMALLEST, LARGEST), draw.randint(SMALLEST, LARGEST)
            file = folder / f"{number}.jpg"
            photo.convert("RGB").resize(size).save(file, "JPEG", quality=95)
        files.append(file)
    files[-1].write_bytes(files[-1].read_bytes()[:-500])
    return files


def markdown(report: Report) -> list[str]:
    """Tables."""
    (pipe,), (read,) = report.table("pipeline"), report.table("reading")
    cells = [
        ["photos", f"{pipe['photos']:,}"],
        ["megapixels of a photo, mean", f"{pipe['megapixels']:.2f}"],
        ["photos a second, images in memory", f"{pipe['own']:.1f}"],
        ["photos a second, files, one process", f"{pipe['piped']:.1f}"],
        ["share of the model's own rate", f"{float(pipe['piped']) / float(pipe['own']):.0%}"],
        ["reading and decoding a photo, milliseconds of one core", f"{float(read['seconds']) * 1e3:.1f}"],
        ["kilobytes of a file, mean", f"{float(read['bytes']) / 1e3:.0f}"],
    ]
    lines = [*table([f"`{WEIGHTS}`", "measured"], cells), ""]
    rows = [[str(r["machine"]), f"{r['jobs']}", f"{r['rate']:.1f}"] for r in report.table("jobs")]
    lines += [*table(["machine", "`--jobs`", "photos a second"], rows), ""]
    rows = [
        [f"{r['photos']:,}", *(f"{r[name]:,.0f}" for name in ("peak", "resident"))]
        + [f"{1e3 * float(r[name]):.2f}" for name in ("median", "fastest")]
        for r in report.table("long")
    ]
    head = ["photos so far", "peak memory, MiB", "memory, MiB", "ms of a core for a photo, median", "fastest"]
    return [*lines, *table(head, rows)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--photos", type=Path, nargs="+", help="folders of photos, from each as many are drawn")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="measure these alone")
    given = parse(parser, arguments, needed=("photos",))
    if given.report_only:
        write_report(read_report(given.out, STUDY), given.out, markdown)
        return
    file, photos = given.out / "parts.json", chosen(given.photos, PHOTOS)
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Row]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    measures: dict[str, Callable[[], list[Row]]] = {
        "long": lambda: long(photos),  # first, since peaks stay
        "pipeline": lambda: pipeline(photos),
        "jobs": lambda: jobs(photos[:JOBS_PHOTOS]),
    }
    for part in (part for part in PARTS if part in given.parts):
        found[part] = measures[part]()
        with whole_file(file) as written:
            written.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if set(found) == set(PARTS):
        data: Row = {"name": " and ".join(folder.name for folder in given.photos), "images": len(photos)}
        rows = [row for part in PARTS for row in found[part]]
        write_report(measured(STUDY, Scorer(WEIGHTS, device="cpu").model.weights_id, data, rows), given.out, markdown)


if __name__ == "__main__":
    main()
