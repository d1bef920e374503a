"""What does a step with `GRepQLoss` cost, and what does a random subset of patches do to its value?

    python -m benchmarks.studies.loss_cost --out benchmarks/results/loss_cost

A step is the loss of a batch of 4 images of 512x512 and its gradient with respect to them. Each kind runs in a process of its
own, whose peak memory is compared with that of a process that only holds the images and the loss. LPIPS has random weights:
they cost what trained ones cost.

Needs pyiqa and scikit-image, and takes about five minutes on two cores that do nothing else.
``--report-only`` writes the Markdown anew from the figures in --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF

from benchmarks.harness.machine import PeakMemory
from benchmarks.harness.toy import references, to_tensor
from benchmarks.studies.reporting import Report, Row, measured, parse, read_report, study_parser, table, write_report
from grepq_metric import GRepQLoss

STUDY = "loss_cost"
WEIGHTS = "grepq-ll"
"""Of the loss: those with the pathway that has patches and checkpoints."""
SHAPE = (4, 3, 512, 512)
KINDS = ("L1", "LPIPS (AlexNet)", "LPIPS (VGG)", "GRepQ", "GRepQ, checkpoint=False", "GRepQ, patches=16")
SUBSETS = (4, 8, 16)
DRAWS = 10
SIDE = 288
"""Of the photos whose patches are drawn."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Restored and clean images -> a loss."""


def make(kind: str) -> Loss:
    """A loss of one of `KINDS`."""
    if kind == "L1":
        return torch.nn.functional.l1_loss
    if kind.startswith("LPIPS"):
        import torchvision.models
        from pyiqa.archs.lpips_arch import LPIPS

        name, net = ("alexnet", "alex") if "Alex" in kind else ("vgg16", "vgg")
        plain = getattr(torchvision.models, name)
        # pyiqa's trunk fetches its weights even where random ones are asked for.
        with patch.object(torchvision.models, name, lambda **_: plain(weights=None)):
            return LPIPS(pretrained=False, pnet_rand=True, net=net).requires_grad_(False)
    if "checkpoint" in kind:
        return GRepQLoss(WEIGHTS, checkpoint=False)
    return GRepQLoss(WEIGHTS, patches=16) if "patches" in kind else GRepQLoss(WEIGHTS)


def step(kind: str, steps: int) -> dict[str, float]:
    """Seconds of a step, the median, and peak memory in MiB above what was held before."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(SHAPE, generator=generator)
    restored = torch.rand(SHAPE, generator=generator).requires_grad_()
    loss = make(kind)
    memory = PeakMemory()
    before, seconds = memory.peak(), []
    for _ in range(steps):
        began = time.perf_counter()
        torch.autograd.grad(loss(restored, clean).mean(), restored)
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), "memory_mib": memory.peak() - before}


def costs(steps: int) -> list[Row]:
    """Time and memory of each of `KINDS`, measured in processes of their own: the report's table ``cost``."""
    module, rows = [sys.executable, "-m", "benchmarks.studies.loss_cost", "--out", "."], list[Row]()
    for kind in KINDS:
        run = subprocess.run([*module, "--kind", kind, "--steps", str(steps)], check=True, stdout=subprocess.PIPE, text=True)
        found: Row = {"table": "cost", "loss": kind, **json.loads(run.stdout.splitlines()[-1])}
        rows.append(found)
        print(found, flush=True)
    return rows


def versions() -> dict[str, list[torch.Tensor]]:
    """Squares ``(1, 3, SIDE, SIDE)`` of scikit-image's photos, and what a restoration network might make of them."""
    clean = [to_tensor(photo)[..., :SIDE, :SIDE] for photo in references().values()]
    generator = torch.Generator().manual_seed(0)
    noisy = [x + 25 / 255 * torch.randn(x.shape, generator=generator) for x in clean]
    return {"clean": clean, "noisy": noisy, "blurred": [TF.gaussian_blur(x, [13, 13], [2.0, 2.0]) for x in clean]}


def subsets(images: dict[str, list[torch.Tensor]], counts: Sequence[int] = SUBSETS, draws: int = DRAWS) -> list[Row]:
    """What random subsets of patches do to the value of the loss and to its gradient: the report's table ``subsets``.

    Args:
        images: ``(1, 3, H, W)`` each, by kind.
        counts: patches of a subset.
        draws: of each subset.
    """
    rows: list[Row] = []
    whole = GRepQLoss(WEIGHTS)
    for kind, group in images.items():
        full = [_value_and_gradient(whole, x) for x in group]
        for count in counts:
            some, bias, spread, cosine = GRepQLoss(WEIGHTS, patches=count), list[float](), list[float](), list[float]()
            torch.manual_seed(0)
            for x, (value, gradient) in zip(group, full, strict=True):
                drawn = [_value_and_gradient(some, x) for _ in range(draws)]
                values = [v for v, _ in drawn]
                bias.append(float(np.mean(values)) - value)
                spread.append(float(np.std(values, ddof=1)))
                cosine += [torch.cosine_similarity(g, gradient, dim=0).item() for _, g in drawn]
            means = {"bias": bias, "standard_deviation": spread, "cosine": cosine, "loss": [value for value, _ in full]}
            row: Row = {"table": "subsets", "images": kind, "patches": count, "photos": len(group), "draws": draws}
            rows.append(row | {key: float(np.mean(values)) for key, values in means.items()})
            print(rows[-1], flush=True)
    return rows


def _value_and_gradient(loss: GRepQLoss, x: torch.Tensor) -> tuple[float, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x)
    return value.item(), torch.autograd.grad(value, x)[0].flatten()


def patches_of(image: torch.Tensor, loss: GRepQLoss) -> int:
    """Number of patches that the loss of all patches takes of an image."""
    config = loss.model.config
    size, stride = config["patch_size"], config["patch_stride"]
    return int(np.prod([(side - size) // stride + 1 for side in image.shape[-2:]]))


def markdown(report: Report) -> list[str]:
    """Two tables: cost, and subsets of patches."""
    cost = ([str(row["loss"]), f"{row['seconds']:.3f}", f"{row['memory_mib']:.0f}"] for row in report.table("cost"))
    figures = (
        [
            str(row["images"]),
            f"{row['loss']:.4f}",
            str(row["patches"]),
            f"{row['bias']:+.4f}",
            f"{row['standard_deviation']:.4f}",
            f"{row['cosine']:.2f}",
        ]
        for row in report.table("subsets")
    )
    return [
        *table(["loss", "s/step", "peak memory, MiB"], cost),
        "",
        *table(["images", "loss of all patches", "patches", "bias", "standard deviation", "cosine of gradients"], figures),
    ]


def measure(steps: int) -> Report:
    """Measure everything."""
    images, loss = versions(), GRepQLoss(WEIGHTS)
    count = len(images["clean"])
    notes = [
        f"Subsets: means over {count} photos of {SIDE}x{SIDE}, {patches_of(images['clean'][0], loss)} patches each, and "
        f"{DRAWS} draws.",
        f"Steps: a batch of {SHAPE[0]} images of {SHAPE[2]}x{SHAPE[3]}, median of {steps}.",
    ]
    rows = [*costs(steps), *subsets(images)]
    return measured(STUDY, loss.model.weights_id, {"name": "scikit-image", "images": count}, rows, notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)  # what the processes of `costs` are given
    given = parse(parser, arguments)
    if given.kind:
        print(json.dumps(step(given.kind, given.steps)))
        return
    write_report(read_report(given.out, STUDY) if given.report_only else measure(given.steps), given.out, markdown)


if __name__ == "__main__":
    main()
