"""What a step with `GRepQLoss` costs, and what a random subset of patches does to its value.

    python -m benchmarks.studies.loss_cost --out DIR

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
import torchvision.transforms.v2.functional as TF

from benchmarks.harness.runner import PeakMemory
from benchmarks.studies.synthetic import references, to_tensor
from grepq_metric import GRepQLoss

SHAPE = (4, 3, 512, 512)
KINDS = ("L1", "LPIPS (AlexNet)", "LPIPS (VGG)", "GRepQ", "GRepQ, checkpoint=False", "GRepQ, patches=16")
SUBSETS = (4, 8, 16)
DRAWS = 10


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


def versions() -> dict[str, list[torch.Tensor]]:
    """Squares of scikit-image's photos, and what a restoration network might make of them."""
    side = 288
    clean = [to_tensor(photo)[..., :side, :side] for photo in references(None).values()]
    generator = torch.Generator().manual_seed(0)
    noisy = [x + 25 / 255 * torch.randn(x.shape, generator=generator) for x in clean]
    return {"clean": clean, "noisy": noisy, "blurred": [TF.gaussian_blur(x, 13, 2.0) for x in clean]}


def subsets(images: dict[str, list[torch.Tensor]], draws: int = DRAWS) -> list[str]:
    """What random subsets of patches do to the value of the loss and to its gradient."""
    lines = [
        "| images | loss of all patches | patches | bias | standard deviation | cosine of gradients |",
        "|---|---|---|---|---|---|",
    ]
    whole = GRepQLoss()
    for kind, group in images.items():
        full = [_value_and_gradient(whole, x) for x in group]
        for count in SUBSETS:
            some, bias, spread, cosine = GRepQLoss(patches=count), [], [], []
            torch.manual_seed(0)
            for x, (value, gradient) in zip(group, full, strict=True):
                drawn = [_value_and_gradient(some, x) for _ in range(draws)]
                values = [v for v, _ in drawn]
                bias.append(np.mean(values) - value)
                spread.append(np.std(values, ddof=1))
                cosine += [torch.cosine_similarity(g, gradient, dim=0).item() for _, g in drawn]
            mean = np.mean([value for value, _ in full])
            figures = f"{np.mean(bias):+.4f} | {np.mean(spread):.4f} | {np.mean(cosine):.2f}"
            lines.append(f"| {kind} | {mean:.4f} | {count} | {figures} |")
            print(lines[-1], flush=True)
    return lines


def _value_and_gradient(loss: GRepQLoss, x: torch.Tensor) -> tuple[float, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x)
    return value.item(), torch.autograd.grad(value, x)[0].flatten()


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
        command = [
            sys.executable,
            "-m",
            "benchmarks.studies.loss_cost",
            "--kind",
            kind,
            "--steps",
            str(arguments.steps),
            "--out",
            ".",
        ]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        lines.append(f"| {kind} | {found['seconds']:.3f} | {found['memory']:.0f} |")
        print(lines[-1], flush=True)
    images = versions()
    height, width = images["clean"][0].shape[-2:]
    patches = GRepQLoss().model.low.patch_features(images["clean"][0]).shape[1:3].numel()
    lines += ["", *subsets(images), ""]
    lines += [f"Means over {len(images['clean'])} photos of {width}x{height}, {patches} patches each, and {DRAWS} draws."]
    date = datetime.now(timezone.utc).date().isoformat()
    lines += [
        f"Steps: a batch of {SHAPE[0]} images of {SHAPE[2]}x{SHAPE[3]}, median of {arguments.steps}.",
        f"{date}, {GRepQLoss().model.weights_id}, torch {torch.__version__}, {torch.get_num_threads()} threads.",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "loss_cost.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
