"""``python -m benchmarks``: run metrics on datasets, report what they scored, list what there is."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; an expected error is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="score datasets with metrics; what is there already is skipped")
    run.add_argument("--dataset", nargs="+", required=True, help="names, CSV files (image,mos[,reference][,split][,group])")
    run.add_argument(
        "--metrics", nargs="+", required=True, help="names with options (grepq:weights=DIR), or CSV files of scores"
    )
    run.add_argument("--results", type=Path, required=True, help="folder of result files")
    run.add_argument("--protocol", nargs="+", choices=("zero-shot", "few-labels", "full"), default=["zero-shot"])
    run.add_argument(
        "--data-root", type=Path, default=Path("datasets"), help="folder of the named datasets (default: datasets)"
    )
    run.add_argument("--allow-partial", action="store_true", help="accept a copy of a dataset that lacks images")
    run.add_argument("--retry-failed", action="store_true", help="run images once more on which a metric failed")
    run.add_argument("--draws", type=int, default=20, help="random draws of labels (default: 20)")
    run.add_argument("--device", default="cpu", help="torch device (default: cpu)")

    report = commands.add_parser("report", help="tables and a page of a results folder")
    report.add_argument("--results", type=Path, required=True, help="folder of result files")
    report.add_argument("--out", type=Path, required=True, help="folder for leaderboard.md, .csv, .tex and index.html")
    report.add_argument(
        "--failures",
        choices=("all", "own"),
        default="all",
        help="an image on which a metric failed is excluded for all metrics of the dataset, or for its own (default: all)",
    )

    commands.add_parser("list", help="datasets and metrics by name")
    given = parser.parse_args(arguments)
    try:
        return {"run": _run, "report": _report, "list": _list}[given.command](given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    from benchmarks.harness.datasets import open_dataset
    from benchmarks.harness.metrics import open_metric
    from benchmarks.harness.runner import run
    from grepq_metric.training.distributed import World

    if given.draws < 1:
        raise ValueError(f"--draws must be at least 1, got {given.draws}")
    world, status = World(given.device), 0
    with world.joined(timeout=timedelta(days=2)):  # a process that is done waits for the others
        if not world.leads:
            world.barrier()  # while the first process downloads what is not there
        # All that was asked for must be there before the first image is scored.
        datasets = [open_dataset(spec, given.data_root, given.allow_partial) for spec in given.dataset]
        metrics = [open_metric(spec, str(world.device)) for spec in given.metrics]
        if world.leads:
            world.barrier()
        for dataset in datasets:
            for metric in metrics:
                for protocol in given.protocol:
                    try:
                        path = run(
                            dataset,
                            metric,
                            protocol,
                            given.results,
                            world,
                            draws=given.draws,
                            retry_failed=given.retry_failed,
                        )
                    except ValueError as error:
                        # This combination can't be; the others can.
                        print(f"not run: {error}", file=sys.stderr)
                        status = 1
                        continue
                    if path is not None:
                        print(path)
    return status


def _report(given: argparse.Namespace) -> int:
    from benchmarks.harness.report import write_report

    for path in write_report(given.results, given.out, given.failures):
        print(path)
    return 0


def _list(given: argparse.Namespace) -> int:
    from benchmarks.harness.datasets import RECORDS
    from benchmarks.harness.metrics import known_metrics

    print("Datasets:")
    for record in RECORDS.values():
        facts = f"{record.images} images, {record.kind}, {record.mos_range[0]:g} to {record.mos_range[1]:g}"
        direction = ", lower is better" if record.lower_better else ""
        print(
            f"  {record.name:10} {record.title}: {facts}{direction}; {record.licence}{'; ' * bool(record.note)}{record.note}"
        )
        for overlap in record.overlaps:
            print(f"  {'':10} overlaps {overlap}")
    print(
        "  FILE.csv   columns image, mos and, if known, reference, split, group; options lower_better, low, high, kind, name"
    )
    print("Metrics (some of pyiqa's download weights):")
    modes = known_metrics()
    for mode, text in (("NR", "no reference"), ("FR", "full reference")):
        print(f"  {text}: {' '.join(sorted(name for name in modes if modes[name] == mode))}")
    print("  FILE.csv: scores computed elsewhere, columns image and score; options lower_better, name")
    return 0


if __name__ == "__main__":
    sys.exit(main())
