"""What a step with `GRepQLoss` costs, and what a random subset of patches does to its value.

    python -m benchmarks.loss_cost --out DIR

A step is the loss of a batch of 4 images of 512x512 and its gradient with respect to them. Each kind runs in a process of its
own, whose peak memory is compared with that of a process that only holds the images and the loss. LPIPS has random weights:
they cost what trained ones cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.runner import PeakMemory
from benchmarks.synthetic import references, to_tensor
from grepq_metric import GRepQLoss

SHAPE = (4, 3, 512, 512)
KINDS = ("L1", "LPIPS (AlexNet)", "LPIPS (VGG)", "GRepQ", "GRepQ, checkpoint=False", "GRepQ, patches=16")
SUBSETS = (4, 16, 64)


def make(kind: str):
    """A loss of restored and clean images."""
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
    options = {"checkpoint": False} if "checkpoint" in kind else {"patches": 16} if "patches" in kind else {}
    return GRepQLoss(**options)


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
    return {"seconds": statistics.median(seconds), "memory": memory.peak() - before}


@torch.inference_mode()
def subsets(draws: int = 40) -> list[str]:
    """Bias and standard deviation of the loss of random subsets of patches, on photos of scikit-image."""
    lines = [
        "| patches | bias, mean over photos | least to most | standard deviation, mean over photos |",
        "|---|---|---|---|",
    ]
    photos = [to_tensor(photo) for photo in references(None).values()]
    whole, features = GRepQLoss(), []
    low = whole.model.low
    for photo in photos:
        features.append(low.patch_features(photo).flatten(1, 2))

    def value(z):
        return (1 - 2 * low.quality(low.distance(z))).item()

    torch.manual_seed(0)
    for count in SUBSETS:
        bias, spread = [], []
        for z in features:
            values = [value(z[:, torch.randperm(z.shape[1])[:count]]) for _ in range(draws)]
            bias.append(np.mean(values) - value(z))
            spread.append(np.std(values, ddof=1))
        lines.append(f"| {count} | {np.mean(bias):+.4f} | {min(bias):+.4f} to {max(bias):+.4f} | {np.mean(spread):.4f} |")
    values = [value(z) for z in features]
    return [
        *lines,
        "",
        f"Patches of the photos: {[z.shape[1] for z in features]}; losses: {np.round(values, 4).tolist()}.",
    ]


def main() -> None:
    """Measure, print tables and write them to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(step(arguments.kind, arguments.steps)))
        return
    lines = ["| loss | s/step | peak memory, MiB |", "|---|---|---|"]
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.loss_cost", "--kind", kind, "--steps", str(arguments.steps), "--out", "."]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        lines.append(f"| {kind} | {found['seconds']:.3f} | {found['memory']:.0f} |")
        print(lines[-1], flush=True)
    lines += ["", *subsets()]
    date = datetime.now(timezone.utc).date().isoformat()
    lines += [
        "",
        f"{date}, {GRepQLoss().model.weights_id}, torch {torch.__version__}, {torch.get_num_threads()} threads, a batch of",
    ]
    lines += [f"{SHAPE[0]} images of {SHAPE[2]}x{SHAPE[3]}, median of {arguments.steps} steps."]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "loss_cost.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
