"""Writes the figures in README.md and docs/*.md, so that none is typed: they come from result files and from running examples.

    python docs/figures.py            # writes them
    python docs/figures.py --check    # names pages that differ, exit status 1

A figure stands between two comments, ``<!-- figures: NAME -->`` and ``<!-- /figures -->``: on lines of their own for a table
or the output of an example, within a line for a single number. NAME is a function here or in examples.py; pictures are copied.
Result files are what the studies (``benchmarks/studies``) and the harness leave in ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from examples import FROM_RUNS, Figure, figure, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PICTURES = {RESULTS / "restoration" / "restoration.webp": ROOT / "docs" / "images" / "restoration.webp"}
"""Pictures that studies draw, and their copies in the site."""
MARKED = re.compile(r"(<!-- figures: (\w+) -->)(.*?)(<!-- /figures -->)", re.DOTALL)
Value = str | int | float
Row = dict[str, Value]
FROM_FILES: dict[str, Figure] = {}
"""Figures that are read from result files, by name."""


# Result files


@cache
def report(study: str) -> dict:
    """What a study has left: date, weights, command, rows.

    Raises:
        FileNotFoundError: it has left nothing.
        ValueError: it is of another schema.
    """
    path = RESULTS / study / f"{study}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["schema"] != 1:
        raise ValueError(f"{path} is of schema {found['schema']}, expected 1")
    return found


def rows_of(study: str, name: str | None = None) -> list[Row]:
    """The rows of a study, or those of one of its tables."""
    return [row for row in report(study)["rows"] if name is None or row["table"] == name]


def measured(study: str) -> str:
    """When and with which weights; a line that goes below a table."""
    found = report(study)
    threads = f", {found['threads']} threads" if "threads" in found else ""
    torch = f", torch {found['torch']}" if "torch" in found else ""
    return f"*{found['date']}, `{found['weights']}`{torch}{threads}*"


@cache
def zero_shot_scores() -> list[float]:
    """Scores of the default metric of all photos of BIQ2021 that were measured."""
    (path,) = RESULTS.glob("biq2021_dev/biq2021_dev-*/grepq-sem-*/zero-shot.csv")
    with path.open(newline="", encoding="utf-8") as stream:
        return sorted(float(row["value"]) for row in csv.DictReader(stream) if row["value"])


def quantile(percent: int) -> float:
    """The score below which so many percent of BIQ2021's photos lie."""
    return statistics.quantiles(zero_shot_scores(), n=100, method="inclusive")[percent - 1]


@figure(FROM_FILES)
def score_quantiles() -> str:
    percents = (10, 25, 50, 75, 90)
    return table(
        ["photos with a lower score", *(f"{percent} %" for percent in percents)],
        [["`grepq-sem`", *(f"{quantile(percent):.3f}" for percent in percents)]],
    )


REFERENCE = ROOT / "grepq_metric" / "assets" / "reference.json"


@figure(FROM_FILES)
def reference_scores() -> str:
    found = json.loads(REFERENCE.read_text(encoding="utf-8"))
    percents = (5, 16, 50, 84, 95)
    rows = []
    for identity, quantiles in found["scores"].items():
        if "+" not in identity:  # the modes have nearly the same
            rows.append([f"`{identity}`", *(f"{quantiles[2 * percent]:.3f}" for percent in percents)])
    header = ["photos with a lower score", *(f"{percent} %" for percent in percents)]
    return f"{table(header, rows)}\n\n*{found['date']}, {found['name']}; `{found['made_by']}`*"


@figure(FROM_FILES)
def reference_facts() -> str:
    found = json.loads(REFERENCE.read_text(encoding="utf-8"))
    rows = [[name, *(f"{values[2 * percent]:.2f}" for percent in (10, 50, 90))] for name, values in found["facts"].items()]
    return table(["photos with less of it", "10 %", "50 %", "90 %"], rows)


@figure(FROM_FILES)
def sizes() -> str:
    rows = [row for row in rows_of("sizes") if row["table"] == "size"]
    cells = ([f"`{r['metric']}`", f"{r['size']:,}", f"{r['srcc']:.3f}", f"{r['change']:+.2f}"] for r in rows)
    return table(["metric", "pixels of the longer side", "SRCC with full size", "mean change (standard deviations)"], cells)


@figure(FROM_FILES)
def mixed_sizes() -> str:
    rows = [row for row in rows_of("sizes") if row["table"] == "mixed"]
    cells = (
        [f"`{r['metric']}`", f"{r['resolution']:,}" if r["resolution"] else "full size", f"{r['srcc']:.3f}"] for r in rows
    )
    header = ["metric", "resolution", "SRCC with all photos at 640 pixels"]
    return f"{table(header, cells)}\n\n{measured('sizes')}"


@figure(FROM_FILES)
def photos() -> str:
    return f"{len(zero_shot_scores()):,}"


@figure(FROM_FILES)
def names() -> str:
    from grepq_metric.catalog import ENTRIES

    rows = []
    for entry in ENTRIES:
        least, best = entry.score_range
        network = "first use" if entry.download else "never"
        joined = " + ".join(
            {"low": "Q_L", "semantic": "Q_S", "high": "Q_H", "decoder": "Q"}[pathway] for pathway in entry.pathways
        )
        pathways = " + ".join(entry.pathways)
        score = f"{joined}, in ({least:g}, {best:g}{']' if entry.pathways == ('low',) else ')'}"
        rows.append([f"`{entry.name}`", f"`{entry.tag}`", pathways, score, network, entry.source])
    return table(["name", "tag", "pathway", "score", "network", "made of"], rows)


@figure(FROM_FILES)
def photo_terms() -> str:
    text = (ROOT / "grepq_metric/assets/grepq-ll/PHOTOS.md").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


SHOWN = {
    "grepq-sem": "`grepq-sem`",
    "grepq-lite": "`grepq-lite`",
    "grepq-ll": "`grepq-ll`",
    "untrained": "the same network before training",
    "brisque-package": "BRISQUE (package `brisque`)",
    "niqe-package": "NIQE (package `scikit-video`)",
    "piqe": "PIQE (pyiqa)",
    "mdfs-lite": "MDFS on EfficientNet-Lite2, our reading",
}
"""Metrics by the start of their ids."""


def shown(identity: Value) -> str:
    """A metric's name for readers, without the hash of its id."""
    return SHOWN.get(re.sub(r"-[0-9a-f]{8}$", "", str(identity)), str(identity))


def agreement(rows: Iterable[tuple[Value, Value, Sequence[Value], Value]]) -> str:
    """A table of metrics, their SRCC, its interval, and PLCC."""
    cells = ([shown(name), f"{rank:.3f} ({low:.3f} to {high:.3f})", f"{plcc:.3f}"] for name, rank, (low, high), plcc in rows)
    return table(["metric", "SRCC (95 % interval)", "PLCC, no fit"], cells)


@figure(FROM_FILES)
def training_gain() -> str:
    rows = rows_of("training_gain")
    cells = ((row["metric"], row["srcc"], (row["srcc_low"], row["srcc_high"]), row["plcc"]) for row in rows)
    return f"{agreement(cells)}\n\n{measured('training_gain')}"


@figure(FROM_FILES)
def leaderboard() -> str:
    (path,) = RESULTS.glob("biq2021_dev/**/summary.json")
    rows = [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if row["protocol"] == "zero-shot"]
    return agreement((row["metric"], row["srcc"], row["srcc_interval"], row["plcc"]) for row in rows)


@figure(FROM_FILES)
def srcc() -> str:
    return f"{next(row['srcc'] for row in rows_of('training_gain') if str(row['metric']).startswith('grepq-ll')):.3f}"


@figure(FROM_FILES)
def synthetic() -> str:
    rows = rows_of("synthetic")
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    found = {(row["distortion"], row["metric"]): f"{row['srcc']:.2f}" for row in rows}
    parts = []
    for name in ("types", "overall"):
        kinds = dict.fromkeys(row["distortion"] for row in rows if row["table"] == name)
        cells = ([str(kind), *(found[kind, metric] for metric in metrics)] for kind in kinds)
        parts.append(table(["distortion" if name == "types" else "over all", *map(shown, metrics)], cells))
    return "\n\n".join([*parts, measured("synthetic")])


def _compared(study: str, key: str, rows: Sequence[Row]) -> str:
    """A table of what a study compares by opinion scores and by synthetic distortions."""
    columns = {
        column: re.sub(r"^SRCC with FSIM.*", "with FSIM", re.sub(r" (of the \d+ )?(of the )?types$", "", column))
        for column in rows[0]
        if column.startswith(("SRCC on", "median of", "lowest of", "SRCC with FSIM"))
    }
    names = {"median": "synthetic: median", "lowest": "lowest type"}
    cells = (
        [
            shown(row[key]),
            f"{row['srcc']:.3f} ({row['srcc_low']:.3f} to {row['srcc_high']:.3f})",
            *(f"{row[column]:.2f}" for column in columns),
        ]
        for row in rows
    )
    header = [key, "SRCC (95 % interval)", *(names.get(name, name.removeprefix("SRCC ")) for name in columns.values())]
    return f"{table(header, cells)}\n\n{measured(study)}"


def _tables(study: str) -> str:
    """The tables of a study as its own report has them."""
    tables, _, _ = (RESULTS / study / f"{study}.md").read_text(encoding="utf-8").rpartition("\n\n")  # and a footer
    return "\n\n".join([tables, *report(study).get("notes", []), measured(study)])


@figure(FROM_FILES)
def semantic_head() -> str:
    return _compared("semantic_head", "head", rows_of("semantic_head"))


@figure(FROM_FILES)
def fusion() -> str:
    return _compared("fusion", "metric", rows_of("fusion", "metrics"))


@figure(FROM_FILES)
def mdfs() -> str:
    return _compared("mdfs", "variant", rows_of("mdfs", "variants"))


@figure(FROM_FILES)
def modes() -> str:
    cells = (
        [
            *(f"`{row['metric']}`", str(row["mode"]), f"{row['srcc_exact']:.4f}"),
            f"{row['srcc']:.3f} ({row['srcc_low']:.3f} to {row['srcc_high']:.3f})",
            f"{row['times_faster']:.2f}",
        ]
        for row in rows_of("modes")
    )
    header = ["metric", "mode", "SRCC with exact", "SRCC with people (95 % interval)", "times faster"]
    return f"{table(header, cells)}\n\n{measured('modes')}"


@figure(FROM_FILES)
def throughput() -> str:
    return _tables("throughput")


@figure(FROM_FILES)
def cluster() -> str:
    """How many machines like the measured one score 100 million photos within a day."""
    (read,) = rows_of("throughput", "reading")
    rates = {row["jobs"]: float(row["rate"]) for row in rows_of("throughput", "jobs") if row["machine"] == "idle"}
    cores, photos, day = max(rates), 100e6, 86400
    core = rates[cores] / int(cores)
    times = {
        row["metric"]: float(row["seconds"]) for row in rows_of("speed", "time") if row["height"] == 384 and row["batch"] == 1
    }
    cells = []
    for metric in ("grepq-sem", "grepq-sem, bf16", "grepq-lite, dense", "grepq-lite", "grepq"):
        if metric not in times:
            continue
        rate = core * times["grepq-sem"] / times[metric]
        hours = photos / rate / 3600
        shown, comma, mode = metric.partition(", ")
        cells.append([f"`{shown}`{comma}{mode}", f"{rate:.1f}", f"{hours:,.0f}", f"{photos / rate / day:,.0f}"])
    lines = table(["metric", "photos a second and core", "core-hours of 100 million", "cores for one day"], cells)
    size, decode = float(read["bytes"]), float(read["seconds"])
    reading = f"Reading: {photos * size / 1e12:.1f} TB in all, {photos * size / day / 1e9 * 8:.1f} Gbit/s within one day."
    return f"{lines}\n\n{reading}\nDecoding, which the rates contain: {photos * decode / 3600:,.0f} core-hours."


@figure(FROM_FILES)
def speed() -> str:
    return _tables("speed")


@figure(FROM_FILES)
def qfm() -> str:
    return _tables("qfm")


@figure(FROM_FILES)
def qfm_gain() -> str:
    packaged, ridge = (float(row["srcc"]) for row in rows_of("qfm", "folds"))
    return f"{packaged - ridge:.3f}"


@figure(FROM_FILES)
def nested_biq2021() -> str:
    return f"{next(row['srcc'] for row in rows_of('few_labels', 'nested') if row['head'] == 'grepq-lite, shrunk'):.3f}"


@figure(FROM_FILES)
def few_labels() -> str:
    rows = rows_of("few_labels", "accuracy")
    budgets, heads = (list(dict.fromkeys(row[key] for row in rows)) for key in ("labels", "head"))
    found = {(row["head"], row["labels"]): f"{row['srcc']:.3f}" for row in rows}
    cells = ([_head(head), *(found[head, budget] for budget in budgets)] for head in heads)
    return f"{table(['head', *(f'{n} labels' for n in budgets)], cells)}\n\n{measured('few_labels')}"


def _head(head: Value) -> str:
    name, _, kind = str(head).partition(", ")
    return ", ".join([f"`{name}`" if name.startswith("grepq") else name, kind.replace("image", "whole image")])


@figure(FROM_FILES)
def nested_heads() -> str:
    cells = (
        [_head(row["head"]), f"{row['srcc']:.3f} ({row['srcc_low']:.3f} to {row['srcc_high']:.3f})"]
        for row in rows_of("few_labels", "nested")
    )
    return table(["head", "SRCC (95 % interval)"], cells)


@figure(FROM_FILES)
def travel() -> str:
    rows = rows_of("few_labels", "travel")
    fitted = [str(row["tested"]) for row in rows]
    cells = ([str(row["tested"]), *(f"{row[key]:.3f}" for key in ("score", *fitted))] for row in rows)
    return table(["tested on", "score alone", *(f"fitted to {name}" for name in fitted)], cells)


@figure(FROM_FILES)
def intervals() -> str:
    return table(
        ["head", "labels", "share, median (least to most of the draws)", "width"],
        (
            [
                _head(row["head"]),
                str(row["labels"]),
                f"{row['coverage']:.3f} ({row['coverage_least']:.3f} to {row['coverage_most']:.3f})",
                f"{row['width']:.2f}",
            ]
            for row in rows_of("few_labels", "accuracy")
            if str(row["head"]).startswith("grepq-sem") and "coverage" in row
        ),
    )


@figure(FROM_FILES)
def selection() -> str:
    rows = rows_of("few_labels", "suggestions")
    ways = [way for way in dict.fromkeys(row["way"] for row in rows) if way != "random"]
    found = {(row["head"], row["labels"], row["way"]): row for row in rows}
    cells = []
    for head, labels in dict.fromkeys((row["head"], row["labels"]) for row in rows):
        line = [_head(head), str(labels), f"{found[head, labels, 'random']['srcc']:.3f}"]
        for way in ways:
            row = found[head, labels, way]
            line.append(f"{row['srcc']:.3f} ({row['gain']:+.3f}, {row['better']}/{row['halves']})")
        cells.append(line)
    return table(["head", "labels", "random", *map(str, ways)], cells)


@figure(FROM_FILES)
def loss_cost() -> str:
    cells = ([str(row["loss"]), f"{row['seconds']:.2f}", f"{row['memory_mib']:,.0f}"] for row in rows_of("loss_cost", "cost"))
    return f"{table(['loss', 'seconds', 'peak memory, MiB'], cells)}\n\n{measured('loss_cost')}"


@figure(FROM_FILES)
def loss_subset() -> str:
    keys = {"loss": ".3f", "patches": "", "bias": "+.3f", "standard_deviation": ".3f", "cosine": ".2f"}
    return table(
        ["photos", "loss of all patches", "patches", "bias", "standard deviation", "cosine of gradients"],
        (
            [str(row["images"]), *(format(row[key], how) for key, how in keys.items())]
            for row in rows_of("loss_cost", "subsets")
        ),
    )


@cache
def restored() -> dict[tuple[str, int], dict[str, float]]:
    """Figures of the five photos of scikit-image, by loss and seed."""
    lines = (RESULTS / "restoration" / "restoration.jsonl").read_text(encoding="utf-8").splitlines()
    runs = [json.loads(line) for line in lines]
    return {(run["loss"], run["seed"]): run["figures"]["scikit-image"] for run in runs}


COLUMNS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "fsim": "FSIM",
    "grepq-ll": "`grepq-ll`",
    "brisque-package": "BRISQUE (lower is better)",
}
DIGITS = {"psnr": 2, "brisque-package": 1}


@figure(FROM_FILES)
def restoration() -> str:
    cells = []
    for (loss, seed), figures in restored().items():
        if seed == 0:
            hidden = ("psnr", "ssim", "fsim") if loss == "clean photo" else ()
            values = ("" if key in hidden else f"{figures[key]:.{DIGITS.get(key, 3)}f}" for key in COLUMNS)
            cells.append([loss, *values])
    return f"{table(['fine-tuned with', *COLUMNS.values()], cells)}\n\n{measured('restoration')}"


@figure(FROM_FILES)
def restoration_changes() -> str:
    runs = restored()
    seeds = sorted(seed for loss, seed in runs if loss == "L1 + 0.03 GRepQ")
    parts = []
    for key, name in COLUMNS.items():
        changes = sorted((runs["L1 + 0.03 GRepQ", seed][key] - runs["L1", seed][key] for seed in seeds), key=abs)
        digits = DIGITS.get(key, 3)
        unit = " dB" if key == "psnr" else ""
        name = name.removesuffix(" (lower is better)")
        parts.append(f"{name} by {changes[0]:+.{digits}f} to {changes[-1]:+.{digits}f}{unit}")
    text = f"In each of {len(seeds)} seeds, 0.03 GRepQ changes {', '.join(parts[:-1])} and {parts[-1]}."
    return text.replace("FSIM by", "FSIM\nby")


@figure(FROM_FILES)
def tiny_clip() -> str:
    rows = rows_of("tiny_clip")
    cells = ([str(row["figure"]), f"{row['before']:.3f}", f"{row['after']:.3f}"] for row in rows)
    return f"{table(['Q_H of the small CLIP', 'before', 'after'], cells)}\n\n{measured('tiny_clip')}"


@figure(FROM_FILES)
def fuzzed() -> str:
    found = json.loads((ROOT / "tests" / "fuzz.json").read_text(encoding="utf-8"))
    heads = ["what was changed", "cases", "seed", "what came of them", "longest", "most memory"]
    cells = []
    for name, one in found.items():
        outcomes = "; ".join(f"{outcome}: {count:,}" for outcome, count in one["outcomes"].items())
        worst = [f"{one['worst_seconds']:.2f} s", f"{one['worst_megabytes']} MB"]
        cells.append([name, f"{one['cases']:,}", str(one["seed"]), outcomes, *worst])
    dates = ", ".join(sorted({one["date"] for one in found.values()}))
    return f"{table(heads, cells)}\n\n{dates}, `python -m tests.fuzz --cases N --seed SEED`"


@figure(FROM_FILES)
def faults() -> str:
    found = json.loads((ROOT / "tests" / "faults.json").read_text(encoding="utf-8"))
    titles = {
        "kill": "SIGKILL",
        "disk": "a disk that is full",
        "clock": "SIGKILL, and a clock set back",
        "readonly": "caches that can't be written",
        "closed": "nobody reads its output",
        "crowd": "two and eight at once on one cache",
    }
    cells, dates = [], set()
    for fault, title in titles.items():
        for name, one in sorted(found[fault].items()):
            outcomes = "; ".join(f"{outcome}: {count}" for outcome, count in sorted(one["outcomes"].items()))
            cells.append([title, f"`{name}`", str(one["points"]), outcomes, f"{one['left']} ({one['size'] / 1e6:.1f} MB)"])
            dates.add(one["date"])
    heads = ["fault", "command", "points", "how the runs ended", "files left over, at most"]
    told = "`python -m tests.faults --fault FAULT --points N --seed 0`"
    return f"{table(heads, cells)}\n\n{', '.join(sorted(dates))}, {told}"


@figure(FROM_FILES)
def determinism() -> str:
    return _tables("determinism")


@figure(FROM_FILES)
def studies() -> str:
    cells = []
    for path in sorted(RESULTS.glob("*/*.json")):
        if path.stem == path.parent.name:
            source = (ROOT / "benchmarks/studies" / f"{path.stem}.py").read_text(encoding="utf-8")
            question = source.partition('"""')[2].partition("\n")[0]
            found = report(path.stem)
            cells.append([f"`{path.stem}`", question, found["date"], f"`{found['command']}`"])
    return table(["study", "question", "measured", "command"], cells)


@figure(FROM_FILES)
def release_steps() -> str:
    from tools.release import PYTHONS, STEPS, fresh_environment

    steps = [[f"`{name}`", str(function.__doc__)] for name, function in STEPS.items() if not name.startswith("python-")]
    names = ", ".join(f"`python-{version}`" for version in PYTHONS)
    return table(["step", "what must be true"], [*steps, [names, str(fresh_environment.__doc__)]])


def fill(text: str, registry: dict[str, Figure]) -> str:
    """A page with the figures of a registry written anew, and all others as they are.

    Raises:
        KeyError: a name is in no registry.
    """

    def write(match: re.Match[str]) -> str:
        start, name, old, end = match.groups()
        if name not in registry:
            if name not in FROM_FILES and name not in FROM_RUNS:
                raise KeyError(f"no figure is called {name!r}")
            return match[0]
        return f"{start}\n\n{registry[name]()}\n\n{end}" if "\n" in old else f"{start}{registry[name]()}{end}"

    return MARKED.sub(write, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the figures of all pages; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, name the pages that differ")
    parser.add_argument("--from-files", action="store_true", help="only figures of result files: run no examples")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    registry = FROM_FILES if given.from_files else {**FROM_FILES, **FROM_RUNS}
    differ = []
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = fill(old, registry)
        if new != old:
            differ.append(page.relative_to(ROOT))
            if not given.check:
                page.write_text(new, encoding="utf-8")
    for source, shown in PICTURES.items():
        if not shown.exists() or shown.read_bytes() != source.read_bytes():
            differ.append(shown.relative_to(ROOT))
            if not given.check:
                shown.write_bytes(source.read_bytes())
    for path in differ:
        print(f"{path}: {'figures differ, run python docs/figures.py' if given.check else 'written'}")
    return int(given.check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
