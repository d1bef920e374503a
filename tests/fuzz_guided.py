"""The targets of `tests.fuzz`, with cases that Atheris chooses by which lines of the package the last ones have reached.

    python -m tests.fuzz_guided --target images --cases 10000 --seed 0

Needs ``pip install atheris``. A case that does what it may not ends the run with its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["grepq_metric"], enable_loader_override=False):
    from tests import fuzz

import torch


def main() -> None:
    """Run a target; the process ends with it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_guided", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", choices=sorted(fuzz.TARGETS), required=True)
    parser.add_argument("--cases", type=int, default=10000, help="that Hypothesis makes of what Atheris gives it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, metavar="FILE", help="add the figures to this JSON file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run, found = fuzz.test_of(given.target)

    def one(data: bytes) -> None:
        with fuzz.quiet():
            run.hypothesis.fuzz_one_input(data)
        if found.outcomes.total() >= given.cases:
            tools = {name: version(name) for name in ("atheris", "hypothesis")}
            fuzz.report(f"{given.target}, guided", found, given.seed, tools, "", given.record)
            os._exit(0)  # libFuzzer would go on

    with tempfile.TemporaryDirectory() as folder:
        options = [
            f"-seed={given.seed + 1}",
            f"-artifact_prefix={folder}/",
            "-verbosity=0",
            "-max_len=8192",
            "-rss_limit_mb=0",
        ]
        atheris.Setup([sys.argv[0], *options], one)  # its seed 0 is a random one
        atheris.Fuzz()


if __name__ == "__main__":
    main()
