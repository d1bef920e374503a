"""What must work without pyiqa: everything but the plugin. Runs beside a folder `photos`; see .ci/run."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
from pathlib import Path

import torch


def grepq(*arguments: str) -> str:
    """Run the command line and give what it prints."""
    return subprocess.run(["grepq", *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Score, fit, train, and use the loss and the torchmetrics class."""
    for package in ("pyiqa", "transformers", "facexlib", "datasets"):
        assert importlib.util.find_spec(package) is None, f"{package} is still installed"
    photos = sorted(str(path) for path in Path("photos").glob("*.[jp][pn]g"))

    assert "Examples" in grepq("--help")
    grepq("score", *photos, "-o", "alone.csv", "--map", "alone-maps")
    with open("alone.csv", newline="") as stream:
        scores = [float(row["score"]) for row in csv.DictReader(stream)]
    assert len(scores) == len(photos)
    assert all(0 < score < 1 for score in scores)

    with open("labels.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("image", "mos"), *zip(photos, range(len(photos)), strict=True)])
    grepq("fit", "labels.csv", "-o", "head.safetensors", "--no-cache")
    assert "mos" in grepq("score", photos[0], "--head", "head.safetensors", "--format", "csv")

    from grepq_metric import GRepQLoss, read_image
    from grepq_metric.integrations.torchmetrics import GRepQMetric
    from grepq_metric.training import train_low

    model = train_low("photos", "trained", steps=2, batch=2, workers=0, device="cpu")
    x = read_image(photos[0])[None, :, :192, :192]
    assert model is not None
    assert torch.isfinite(model(x)).all()
    x.requires_grad_()
    GRepQLoss()(x).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    metric = GRepQMetric()
    metric.update(x.detach())
    assert 0 < metric.compute() < 1
    print("works without pyiqa: score, fit, train, loss, torchmetrics")


if __name__ == "__main__":
    main()
