"""``python -m benchmarks``: run metrics on datasets, report what they scored, list what there is, convert authors' weights."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from grepq_metric.errors import GRepQError

if TYPE_CHECKING:
    from benchmarks.harness.items import Dataset
    from benchmarks.harness.metrics import Metric
    from grepq_metric.training.distributed import World

OFFLINE = "offline"
PARTLY, WRONG, INTERRUPTED = 1, 2, 130
EXIT = """exit status:
  0    all that was asked for is done
  1    a part is done; what is not, and why, stands on standard error
  2    nothing is done: a name, an option or a file is wrong
  130  interrupted by Ctrl-C; the same command continues"""
RUN = """examples:
  python -m benchmarks run --dataset toy --metrics offline --results results
  python -m benchmarks run --dataset photos/labels.csv --metrics grepq-sem theirs.csv:lower_better=true --results results
  python -m benchmarks run --dataset koniq10k --metrics grepq-ll --protocol few-labels full --results results"""
REPORT = """example:
  python -m benchmarks report --dataset photos/labels.csv --results results --out report

Results hold no opinion scores: they are read from your copy of each dataset. Of a dataset that is not given, only what
needs none of them is reported."""
CONVERT = """examples:
  python -m benchmarks convert-peer contrique CONTRIQUE_checkpoint25.tar --out contrique.safetensors
  python -m benchmarks convert-peer reiqa-content content_aware_r50.pth --out reiqa-content.safetensors
  python -m benchmarks convert-peer reiqa-quality quality_aware_r50.pth --out reiqa-quality.safetensors

Then ask for --metrics contrique:weights=FILE or reiqa:content=FILE,quality=FILE."""
DATASETS = "names, CSV files (image,mos[,reference][,split][,content]), or folders with a labels.csv"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; what is wrong is one line on standard error. The exit status is that of `EXIT`."""
    given = _parser().parse_args(arguments)
    try:
        return {"run": _run, "report": _report, "list": _list, "convert-peer": _convert}[given.command](given)
    except KeyboardInterrupt as stop:
        print(f"interrupted: {str(stop) or 'nothing was scored'}; the same command continues", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        _say("error", error.strerror if error.filename is None and error.strerror else error)
    except (GRepQError, ValueError) as error:
        _say("error", _with_flag(error))
    return WRONG


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=EXIT, formatter_class=shape)
    commands = parser.add_subparsers(dest="command", required=True)

    text = "score datasets with metrics; what is there already is skipped"
    run = commands.add_parser("run", help=text, description=text, epilog=f"{RUN}\n\n{EXIT}", formatter_class=shape)
    metrics = f"names with options (grepq:weights=DIR), CSV files of scores, or {OFFLINE!r}: all that download nothing"
    run.add_argument("--metrics", nargs="+", required=True, metavar="METRIC", help=metrics)
    run.add_argument("--protocol", nargs="+", choices=("zero-shot", "few-labels", "full"), default=["zero-shot"])
    run.add_argument("--retry-failed", action="store_true", help="run images once more on which a metric failed")
    run.add_argument("--draws", type=int, default=20, help="random draws of labels (default: %(default)s)")
    run.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")

    text = "tables and a page of a results folder"
    report = commands.add_parser("report", help=text, description=text, epilog=f"{REPORT}\n\n{EXIT}", formatter_class=shape)
    report.add_argument("--out", type=Path, required=True, help="folder for index.html, leaderboard.* and summary.json")
    report.add_argument("--thumbnails", action="store_true", help="embed small pictures of the largest residuals in the page")
    report.add_argument(
        "--failures",
        choices=("all", "own"),
        default="all",
        help="an image on which a metric failed is excluded for all metrics of the dataset, or for its own (default: all)",
    )
    for command in (run, report):
        command.add_argument("--dataset", nargs="+", required=command is run, default=[], metavar="DATASET", help=DATASETS)
        command.add_argument("--results", type=Path, required=True, help="folder of result files")
        command.add_argument(
            "--data-root", type=Path, default=Path("datasets"), help="folder of the named datasets (default: %(default)s)"
        )
        command.add_argument("--allow-partial", action="store_true", help="accept a copy of a dataset that lacks images")

    text = "weights of CONTRIQUE or Re-IQA, from a checkpoint that their authors publish"
    convert = commands.add_parser(
        "convert-peer", help=text, description=text, epilog=f"{CONVERT}\n\n{EXIT}", formatter_class=shape
    )
    convert.add_argument("peer", choices=("contrique", "reiqa-content", "reiqa-quality"), help="whose checkpoint it is")
    convert.add_argument("checkpoint", type=Path, help="the authors' file; only tensors are read, and no code in it is run")
    convert.add_argument("--out", type=Path, required=True, help="safetensors file to write")

    text = "datasets and metrics by name"
    commands.add_parser("list", help=text, description=text, epilog=EXIT, formatter_class=shape)
    return parser


def _say(what: str, text: object) -> None:
    """One line on standard error, whatever names and messages hold."""
    print(f"{what}: {' '.join(str(text).split())}", file=sys.stderr)


def _with_flag(error: Exception) -> str:
    """A message of the library, with the flag that helps."""
    from benchmarks.harness.datasets import PartialCopyError

    return f"{error}. --allow-partial takes what is there" if isinstance(error, PartialCopyError) else str(error)


def _run(given: argparse.Namespace) -> int:
    from benchmarks.harness.datasets import open_dataset
    from grepq_metric.training.distributed import World

    if given.draws < 1:
        raise ValueError(f"--draws must be at least 1, got {given.draws}")
    world, complete = World(given.device), True
    with world.joined(timeout=timedelta(days=2)):  # a process that is done waits for the others
        if not world.leads:
            world.barrier()  # while the first process downloads what is not there
        # All names and options must be right before the first image is scored.
        datasets = [open_dataset(spec, given.data_root, given.allow_partial) for spec in given.dataset]
        metrics, missing = _open_metrics(given.metrics, str(world.device))
        if world.leads:
            world.barrier()
        if _differ(missing, world):
            raise ValueError("a metric can be had on some of the processes and not on others")
        for reason in missing if world.leads else ():
            _say("skipped", reason)
        if not metrics:
            raise ValueError("none of the metrics can be had")
        for dataset in datasets:
            for metric, chosen in metrics:
                for protocol in given.protocol:
                    complete &= _run_one(dataset, metric, protocol, chosen, given, world)
    return 0 if complete and not missing else PARTLY


def _open_metrics(specs: list[str], device: str) -> tuple[list[tuple[Metric, bool]], list[str]]:
    """Metrics, each with whether it was named and not only one of all; and why others can't be had."""
    from benchmarks.harness.metrics import UnavailableError, offline_metrics, open_metric

    named = {spec: True for spec in specs if spec != OFFLINE}
    wanted = {**dict.fromkeys(offline_metrics() if OFFLINE in specs else (), False), **named}
    metrics, missing = [], []
    for spec, chosen in wanted.items():
        try:
            metrics.append((open_metric(spec, device), chosen))
        except UnavailableError as error:
            missing.append(str(error))
    return metrics, missing


def _differ(missing: list[str], world: World) -> bool:
    """Whether the processes lack different numbers of metrics, and would wait for each other in vain."""
    import torch

    count = torch.tensor(float(len(missing)), device=world.device)
    return world.mean(count).item() != len(missing)


def _run_one(dataset: Dataset, metric: Metric, protocol: str, chosen: bool, given: argparse.Namespace, world: World) -> bool:
    """Run one combination; whether it was done. One that can't be is no reason not to run the others."""
    from benchmarks.harness.runner import run, unsuitable

    if not chosen and unsuitable(dataset, metric, protocol):
        return True  # of all metrics, those that fit
    try:
        outcome = run(dataset, metric, protocol, given.results, world, draws=given.draws, retry_failed=given.retry_failed)
    except ValueError as error:
        if world.leads:
            _say("not run", error)
        return False
    if outcome is None:
        return True
    print(outcome.path)
    if outcome.failed:
        what = f"{outcome.failed} of {outcome.images} images of {dataset.record.name}"
        _say("failed", f"{metric.name} on {what}, for example {outcome.example}")
    return outcome.failed < outcome.images


def _report(given: argparse.Namespace) -> int:
    from benchmarks.harness.datasets import open_dataset
    from benchmarks.harness.machine import command
    from benchmarks.harness.report import write_report

    datasets = [open_dataset(spec, given.data_root, given.allow_partial) for spec in given.dataset]
    made_by = command("benchmarks")
    paths, missing = write_report(given.results, given.out, datasets, given.failures, given.thumbnails, made_by)
    for path in paths:
        print(path)
    for reason in missing:
        _say("not reported", reason)
    if missing:
        print("--dataset names the copies whose opinion scores are read", file=sys.stderr)
    return PARTLY if missing else 0


def _convert(given: argparse.Namespace) -> int:
    from benchmarks.harness.resnets import convert

    convert(given.peer, given.checkpoint, given.out)
    print(given.out)
    return 0


def _list(given: argparse.Namespace) -> int:
    from benchmarks.harness.datasets import RECORDS
    from benchmarks.harness.items import TRACKS
    from benchmarks.harness.metrics import known_metrics, offline_metrics

    print("Datasets:")
    for record in RECORDS.values():
        facts = f"{record.images} images, {record.kind}, {record.mos_range[0]:g} to {record.mos_range[1]:g}"
        direction = ", lower is better" if record.lower_better else ""
        terms = "; ".join(filter(None, (record.licence, record.note)))
        print(f"  {record.name:10} {record.title}: {facts}{direction}; {terms}")
        for overlap in record.overlaps:
            print(f"  {'':10} overlaps {overlap}")
    print(
        "  FILE.csv   columns image, mos and, if known, reference, split, content; "
        "options lower_better, low, high, kind, name, track"
    )
    print(f"  {'':10} tracks, none of which meets another in a table: {', '.join(TRACKS)}")
    modes, offline = known_metrics(), set(offline_metrics())
    print(f"Metrics (*: downloads nothing; --metrics {OFFLINE} stands for all of these):")
    for mode, text in (("NR", "no reference"), ("FR", "full reference")):
        names = sorted(name for name in modes if modes[name] == mode)
        print(f"  {text}: {' '.join(f'{name}*' if name in offline else name for name in names)}")
    print("  contrique:weights=FILE and reiqa:content=FILE,quality=FILE: their authors' weights, as convert-peer writes them")
    print("  FILE.csv: scores computed elsewhere, columns image and score; options lower_better, name, track")
    return 0


if __name__ == "__main__":
    sys.exit(main())
