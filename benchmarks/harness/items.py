"""What a data set of opinion scores consists of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from grepq_metric.files import sha256
from grepq_metric.images import read_image

PHOTOS = "photos"
TRACKS = (PHOTOS, "omnidirectional", "medical")
"""What images are: flat pictures, whole spheres, or scans. A table holds metrics and images of one track only."""


@dataclass(frozen=True)
class Item:
    """One image with an opinion score.

    Attributes:
        name: unique in the dataset.
        path: image file.
        mos: opinion score as the dataset gives it.
        reference: file of the undistorted image, if there is one.
        split: ``train``, ``val`` or ``test`` of the official split, if there is one.
        content: what images that show the same share; None: its own.
    """

    name: str
    path: Path
    mos: float
    reference: Path | None = None
    split: str | None = None
    content: str | None = None


@dataclass(frozen=True)
class Record:
    """What is known of a dataset.

    Attributes:
        name: as on the command line.
        title: as in the literature and in `published.csv`.
        kind: ``authentic`` or ``synthetic`` distortions, or ``generated`` images.
        images: number of images with scores; None: not known.
        mos_range: least and greatest possible score.
        licence: terms, in short.
        read: items of a dataset below a folder.
        lower_better: a lower opinion score is better (DMOS).
        overlaps: training data that share images with it.
        note: anything else that a reader of a table must know.
        load: an image of the dataset as the protocol wants it, ``(3, H, W)`` in [0, 1]; by default the whole file.
        track: one of `TRACKS`.
    """

    name: str
    title: str
    kind: str
    images: int | None
    mos_range: tuple[float, float]
    licence: str
    read: Callable[[Path], list[Item]]
    lower_better: bool = False
    overlaps: tuple[str, ...] = ()
    note: str = ""
    load: Callable[[Path], torch.Tensor] = read_image
    track: str = PHOTOS


@dataclass(frozen=True)
class Dataset:
    """A dataset that has been read.

    Attributes:
        record: what is known of it.
        items: its images, ordered by name.
        absent: names of images that a partial copy lacks.
    """

    record: Record
    items: list[Item]
    absent: list[str] = field(default_factory=list)

    @cached_property
    def images_sha256(self) -> str:
        """Of all names, image files and references."""
        hashes: dict[Path, str] = {}
        facts = []
        for item in self.items:
            for path in (item.path, item.reference):
                if path is not None and path not in hashes:
                    hashes[path] = sha256(path)
            facts.append([item.name, hashes[item.path], hashes[item.reference] if item.reference else None])
        return _digest(facts)

    @cached_property
    def scores_sha256(self) -> str:
        """Of all names and opinion scores, and of their direction."""
        return _digest([self.record.lower_better, [[item.name, item.mos] for item in self.items]])

    @property
    def parts_sha256(self) -> str:
        """Of splits and contents, which say what heads are fitted to and tested on, and change no score."""
        return _digest([[item.name, item.split, item.content] for item in self.items])

    @property
    def id(self) -> str:
        """Name and a hash of images, opinion scores and track. Splits and contents do not enter: no score depends on them."""
        track = [self.record.track] if self.record.track != PHOTOS else []
        return f"{self.record.name}-{_digest([self.images_sha256, self.scores_sha256, *track])[:8]}"

    @property
    def mos(self) -> np.ndarray:
        """``(N,)`` opinion scores, higher is better: a DMOS is negated."""
        return np.array([item.mos for item in self.items]) * (-1 if self.record.lower_better else 1)

    @property
    def contents(self) -> list[str]:
        """What each image shows; an image without a content is its own."""
        return [item.content or item.name for item in self.items]

    @property
    def tested(self) -> bool:
        """Whether it has an official test split."""
        return any(item.split == "test" for item in self.items)


def _digest(facts: list) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
