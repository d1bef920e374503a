"""Draw the loss and learning rate of training runs from their logs.

    python -m benchmarks.studies.learning_curves RUN [RUN ...] --out FILE.png

RUN is a folder with log.jsonl, such as OUT/training of ``grepq train``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def main() -> None:
    """Read the logs and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=(3, 1), layout="constrained")
    for run in arguments.runs:
        log = [json.loads(line) for line in (run / "log.jsonl").open()]
        step, loss, lr = (np.array([entry[key] for entry in log]) for key in ("step", "loss", "lr"))
        window = max(len(loss) // 40, 1)
        mean = np.convolve(loss, np.ones(window) / window, "valid")
        (line,) = top.plot(step[window - 1 :], mean, label=f"{run.name}, mean of {window} steps")
        top.plot(step, loss, color=line.get_color(), alpha=0.2, linewidth=0.6)
        bottom.plot(step, lr, color=line.get_color())
    top.set_ylabel("loss")
    top.legend()
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
