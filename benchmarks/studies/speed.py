"""How fast are our metrics, and how much memory do they take, beside what a user would pick instead?

    python -m benchmarks.studies.speed --out benchmarks/results/speed

For each size of photo and batch a process of its own builds all metrics and calls them in turn, several times: what is
compared are medians of one process, as multiples of the time of pyiqa's ``clipiqa``. Batches are in float32. At the largest
size, and for peak memory, each metric has a process of its own, which is ended when it takes more than a minute
or 12 GB. Peers are pyiqa's networks with random weights, and so is CLIP: that changes no time, and no score is reported.
``, bf16`` means ``precision="bf16"`` for ours, and autocast for peers; ``, dense`` means ``speed="dense"``.

Also: the share of the machine's rate of multiplying matrices that our metrics reach, and how long a first score takes from the
start of Python, by parts.

Needs pyiqa, its package ``clip`` (setuptools before 81) and scikit-image, and takes a quarter of an hour on two cores that do
nothing else. With ``--device cuda`` it runs on a graphics card. ``--report-only`` writes Markdown and picture anew.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.harness.machine import PeakMemory
from benchmarks.harness.toy import references, to_tensor
from benchmarks.harness.untrained import PEERS, Metric, grepq
from benchmarks.studies.reporting import Report, Row, measured, parse, read_report, study_parser, table, write_report
from grepq_metric import GRepQ
from grepq_metric.files import whole_file

STUDY = "speed"
YARDSTICK = "clipiqa"
BF16, DENSE = ", bf16", ", dense"
PACKAGED = ("grepq-sem", "grepq-lite", "grepq-ll")
PAPERS = {"grepq-hl": ["high"], "grepq": ["low", "high"]}
WITHOUT_NETWORK = ("niqe", "brisque", "piqe")
OURS = (*PACKAGED, *PAPERS)
DENSELY = ("grepq-lite", "grepq-ll")
NAMES = tuple(
    name + mode
    for name in (*OURS, *PEERS)
    for mode in ("", BF16, DENSE)
    if not mode or (name in DENSELY if mode == DENSE else name not in WITHOUT_NETWORK)
)
SIZES = ((384, 512), (768, 1024), (3000, 4000))
"""Height and width."""
BATCHES = (1, 8)
REPEATS = {(SIZES[0], 1): 7, (SIZES[0], 8): 2, (SIZES[1], 1): 3, (SIZES[1], 8): 1}
"""What is measured in one process for all metrics: calls of each, after one that is not counted."""
LIMIT_S, LIMIT_GB = 60, 12


def build(name: str, device: str) -> Metric:
    """A metric of `NAMES`, on a device."""
    plain, _, mode = name.partition(", ")
    half = name.endswith(BF16)
    if plain in OURS:
        options: dict[str, Any] = {"precision": "bf16"} if half else {"speed": "dense"} if mode else {}
        model = GRepQ.from_pretrained(plain, **options) if plain in PACKAGED else grepq(PAPERS[plain], **options)
        return model.requires_grad_(False).to(device)
    peer = PEERS[plain]()
    peer = peer.to(device) if isinstance(peer, torch.nn.Module) else peer
    return partial(_autocast, peer, device) if half else peer


def _autocast(metric: Metric, device: str, x: Tensor) -> Tensor:
    with torch.autocast(device, torch.bfloat16):
        return metric(x)


def photo(size: tuple[int, int], batch: int, device: str) -> Tensor:
    """A real photo at a size, taken several times: ``(batch, 3, H, W)``."""
    x = to_tensor(references()["coffee"])
    return F.interpolate(x, size, mode="bicubic").clamp(0, 1).expand(batch, -1, -1, -1).contiguous().to(device)


def seconds(metric: Metric, x: Tensor) -> float:
    """Of one call."""
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    with torch.inference_mode():
        metric(x)
    wait()
    return time.perf_counter() - began


def together(size: tuple[int, int], batch: int, names: Sequence[str], device: str) -> list[Row]:
    """Times of metrics that are called in turn."""
    x = photo(size, batch, device)
    metrics = {name: build(name, device) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    reasons: dict[str, str] = {}
    for i in range(1 + REPEATS.get((size, batch), 1)):
        for name, metric in metrics.items():
            if name in reasons:
                continue
            try:
                took = seconds(metric, x)
            except Exception as error:
                reasons[name] = f"{type(error).__name__}: {error}"[:200]
                continue
            times[name] += [took] if i else []
    rows: list[Row] = []
    for name in names:
        facts: Row = {"metric": name, "height": size[0], "width": size[1], "batch": batch}
        found: Row = {"reason": reasons[name]} if name in reasons else {"seconds": statistics.median(times[name]) / batch}
        rows.append({**facts, **found})
    return rows


def alone(size: tuple[int, int], name: str, device: str) -> Row:
    """Time of a call after one on a small photo, and peak memory of both, in MiB above what the process held before."""
    metric, warm, x, cuda = build(name, device), photo(SIZES[0], 1, device), photo(size, 1, device), device != "cpu"
    memory = PeakMemory()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else memory.peak()
    seconds(metric, warm)
    took = seconds(metric, x)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else memory.peak()
    return {"seconds": took, "memory_mib": peak - before, "process_mib": memory.peak()}


def flops(name: str, size: tuple[int, int]) -> float:
    """Floating-point operations of a score, two for each multiplication with addition."""
    metric, x = build(name, "cpu"), photo(size, 1, "cpu")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        metric(x)
    return float(counter.get_total_flops())


def multiplying(device: str) -> float:
    """Operations a second in multiplying float32 matrices of 2,048 x 2,048, the best of ten."""
    a = torch.rand(2048, 2048, device=device)
    return 2 * 2048**3 / min(seconds(lambda x: x @ x, a) for _ in range(10))


START = """
import time; began = time.perf_counter()
import torch; torched = time.perf_counter()
from grepq_metric import GRepQ, read_image
imported = time.perf_counter()
model = GRepQ.from_pretrained("grepq-sem").requires_grad_(False); loaded = time.perf_counter()
with torch.inference_mode():
    model(read_image({photo!r}).unsqueeze(0))
scored = time.perf_counter()
print(torched - began, imported - torched, loaded - imported, scored - loaded)
"""


def start(out: Path) -> list[Row]:
    """How long a first score takes from the start of Python, in medians of three: whole, and by parts."""
    import PIL.Image

    with whole_file(out / "photo.jpg") as part:
        PIL.Image.fromarray(references()["coffee"]).save(part, "JPEG")
    path = out / "photo.jpg"
    whole, parts = list[float](), list[list[float]]()
    for _ in range(4):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "grepq_metric", "score", str(path)], check=True, capture_output=True)
        whole.append(time.perf_counter() - began)
        code = START.format(photo=str(path))
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        parts.append([float(value) for value in run.stdout.split()])
    path.unlink()
    names = ("import of torch", "imports of ours", "weights", "reading and the first score")
    rows: list[Row] = [{"table": "start", "part": "grepq score photo.jpg", "seconds": statistics.median(whole[1:])}]
    for name, values in zip(names, zip(*parts[1:], strict=True), strict=True):
        rows.append({"table": "start", "part": name, "seconds": statistics.median(values)})
    return rows


def _child(*options: object) -> list[Row] | str:
    """Rows of this module in a process of its own, or why there are none."""
    command = [sys.executable, "-m", f"benchmarks.studies.{STUDY}", "--out", ".", *map(str, options)]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_GB * 2**30, LIMIT_GB * 2**30))

    alone = "--alone" in options
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S if alone else None, preexec_fn=limit if alone else None
        )
    except subprocess.TimeoutExpired:
        return f"more than {LIMIT_S} s"
    if run.returncode:
        out_of_memory = "memory" in run.stderr or "alloc" in run.stderr
        return f"more than {LIMIT_GB} GB" if out_of_memory else (run.stderr.strip().splitlines() or ["ended"])[-1][:200]
    return list(json.loads(run.stdout.splitlines()[-1]))


def times(names: Sequence[str], device: str) -> list[Row]:
    """The report's table ``time``: metrics in turn, and alone at the largest size."""
    rows: list[Row] = []
    for size, batch in tqdm(list(REPEATS), desc="in turn", unit="case"):
        chosen = [name for name in names if batch == 1 or not name.endswith(BF16)]
        found = _child("--together", *size, batch, "--device", device, "--metrics", *chosen)
        if isinstance(found, str):
            raise RuntimeError(f"{size}, batches of {batch}: {found}")
        rows += [{"table": "time", **row} for row in found]
    return rows


def memories(names: Sequence[str], device: str) -> list[Row]:
    """The report's table ``memory``, with the times at the largest size."""
    rows: list[Row] = []
    exact = [name for name in names if not name.endswith(BF16)]
    for size, name in tqdm(list(product(SIZES[1:], exact)), desc="alone", unit="metric"):
        found = _child("--alone", *size, "--device", device, "--metrics", name)
        facts: Row = {"table": "memory", "metric": name, "height": size[0], "width": size[1]}
        rows.append({**facts, "reason": found} if isinstance(found, str) else {**facts, **found[0]})
        print(rows[-1], flush=True)
    return rows


def efficiency(rows: Sequence[Row], device: str) -> list[Row]:
    """The report's table ``rate``: operations of our packaged metrics, and the share of the machine's rate."""
    top, found = multiplying(device), list[Row]()
    for row in rows:
        if row["metric"] in PACKAGED and row["batch"] == 1 and "seconds" in row:
            count = flops(str(row["metric"]), (int(row["height"]), int(row["width"])))
            share = count / float(row["seconds"]) / top
            found.append(
                {"table": "rate", **{k: row[k] for k in ("metric", "height", "width")}, "flops": count, "share": share}
            )
    return [{"table": "machine", "flops": top}, *found]


def _cell(row: Row | None, key: str, form: str) -> str:
    return "" if row is None else format(float(row[key]), form) if key in row else str(row["reason"])


def _shown(name: str) -> str:
    plain, comma, mode = name.partition(", ")
    return f"`{plain}`{comma}{mode}"


def markdown(report: Report) -> list[str]:
    """Tables of times, of memory, of the start, and of the rate."""
    found = {(r["metric"], r["height"], r["width"], r["batch"]): r for r in report.table("time")}
    memory = {(r["metric"], r["height"], r["width"]): r for r in report.table("memory")}
    lines, sizes = list[str](), [f"{width}x{height}" for height, width in SIZES]
    cells = []
    for name in dict.fromkeys(str(r["metric"]) for r in report.table("time")):
        row = [_shown(name)]
        for size, batch in product(SIZES[:2], BATCHES):
            one, yard = found.get((name, *size, batch)), found.get((YARDSTICK, *size, batch))
            ratio = f" ({float(one['seconds']) / float(yard['seconds']):.2f})" if one and yard and "seconds" in one else ""
            row.append(_cell(one, "seconds", ".3f") + ratio)
        cells.append([*row, _cell(memory.get((name, *SIZES[2])), "seconds", ".1f")])
    header = ["metric", *(f"{size}, batch of {batch}" for size, batch in product(sizes[:2], BATCHES)), sizes[2]]
    lines += [f"Seconds a photo (multiples of `{YARDSTICK}`):", "", *table(header, cells), ""]
    rows = (
        [_shown(name), *(_cell(memory.get((name, *size)), "memory_mib", ",.0f") for size in SIZES[1:])]
        for name in dict.fromkeys(str(r["metric"]) for r in report.table("memory"))
    )
    lines += [
        "Peak memory of a score in MiB, without Python, weights and photo:",
        "",
        *table(["metric", *sizes[1:]], rows),
        "",
    ]
    parts = ([str(r["part"]), f"{r['seconds']:.2f}"] for r in report.table("start"))
    lines += ["From the start of Python to the first score:", "", *table(["part", "seconds"], parts), ""]
    shares = (
        [f"`{r['metric']}`", f"{r['width']}x{r['height']}", f"{float(r['flops']) / 1e9:.1f}", f"{float(r['share']):.0%}"]
        for r in report.table("rate")
    )
    (machine,) = report.table("machine")
    lines += [f"Multiplying float32 matrices: {float(machine['flops']) / 1e9:.0f} GFLOP/s.", ""]
    return [*lines, *table(["metric", "size", "GFLOP", "of that rate"], shares)]


def picture(path: Path, report: Report) -> None:
    """Time against pixels, in float32."""
    import matplotlib.pyplot as plt

    points: dict[str, list[tuple[float, float]]] = {}
    for row in [*report.table("time"), *(r for r in report.table("memory") if r["height"] == SIZES[2][0])]:
        if row.get("batch", 1) == 1 and "seconds" in row and not str(row["metric"]).endswith(BF16):
            pixels = float(row["height"]) * float(row["width"])
            points.setdefault(str(row["metric"]), []).append((pixels, float(row["seconds"])))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, line in points.items():
        axes.loglog(*zip(*sorted(line), strict=True), "o-" if name.partition(",")[0] in OURS else "x--", label=name)
    axes.set(xlabel="pixels", ylabel="seconds")
    axes.legend(fontsize="small", ncols=2)
    with whole_file(path) as part:
        figure.savefig(part, dpi=100, format="png")
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report and the picture to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--metrics", nargs="+", choices=NAMES, default=NAMES, metavar="METRIC")
    # What the processes of `times` and `memories` are given.
    parser.add_argument("--together", nargs=3, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--alone", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parse(parser, arguments)
    if given.together:
        height, width, batch = given.together
        print(json.dumps(together((height, width), batch, given.metrics, given.device)))
        return
    if given.alone:
        print(json.dumps([alone(tuple(given.alone), given.metrics[0], given.device)]))
        return
    if given.report_only:
        report = read_report(given.out, STUDY)
    else:
        given.out.mkdir(parents=True, exist_ok=True)
        rows = times(given.metrics, given.device)
        rows = [*rows, *memories(given.metrics, given.device), *start(given.out), *efficiency(rows, given.device)]
        identities = ", ".join(GRepQ.from_pretrained(name).weights_id for name in PACKAGED if name in given.metrics)
        notes = [f"Medians of {', '.join(map(str, REPEATS.values()))} calls; {given.device}."]
        report = measured(STUDY, identities, {"name": "scikit-image's coffee, resized", "images": 1}, rows, notes)
    write_report(report, given.out, markdown)
    picture(given.out / f"{STUDY}.png", report)


if __name__ == "__main__":
    main()
