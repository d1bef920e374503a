"""Rated photos and made-up metrics, for the tests of the harness."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.harness.metrics import Metric

ROOT = Path(__file__).parents[1]


def write_csv(path, header, rows):
    """Write a table; its path."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def rate(folder, photos):
    """80 crops of real photos at 20 contents with references and made-up scores, as ``labels.csv`` of `folder`."""
    rng, rows = np.random.default_rng(0), []
    for content in range(20):
        photo = photos[("coffee", "cat")[content % 2]][0]
        top, left = (int(rng.integers(side - 96)) for side in photo.shape[1:])
        crop = (photo[:, top : top + 96, left : left + 96].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(crop).save(folder / f"original_{content}.png")
        for level in range(4):
            noise = crop + rng.normal(0, 12 * level + 2, crop.shape)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{content}_{level}.png")
            mos = 4 - level + 0.2 * rng.normal()
            rows.append([f"{content}_{level}.png", mos, f"original_{content}.png"])
    write_csv(folder / "labels.csv", ["image", "mos", "reference"], rows)
    return folder


def metric_of(function, name="made-0001", **facts):
    """A metric that is a function of image, reference and name."""
    values = {"mode": "NR", "lower_better": False, "score": function, "provenance": {"made": "up"}} | facts
    return Metric(name, name.partition("-")[0], **values)


def by_level(image, reference, name):
    """Minus the level of noise, which the name of a rated image says."""
    return -float(name.partition("_")[2][0])


def means(image):
    """Mean and deviation of each channel: ``(6,)``."""
    return torch.cat([image.mean((0, 2, 3)), image.std((0, 2, 3))]).numpy()
