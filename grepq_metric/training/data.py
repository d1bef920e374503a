"""Photos to training samples of the low-level encoder: distorted versions, their similarities, fragment views."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from grepq_metric.images import find_images, read_image
from grepq_metric.training.distortions import DISTORTIONS, LEVELS
from grepq_metric.training.similarity import contrastive_weights, pairwise_fsim


@dataclass(frozen=True)
class Recipe:
    """What one training sample is made of.

    Attributes:
        types: names of distortions in the registry to draw from.
        types_per_content: how many of them each content gets; which, depends on the content and the seed.
        levels: levels (1 to 5) to draw from.
        levels_per_type: how many of them each type gets.
        grid: fragments along each side of a view.
        fragment: side of a square fragment in pixels.
        chromatic: compare versions by FSIMc, which sees colour, and not by FSIM.
    """

    types: tuple[str, ...] = ("gaussian_blur", "jpeg", "white_noise", "exposure")
    types_per_content: int = 4
    levels: tuple[int, ...] = (2, 4)
    levels_per_type: int = 2
    grid: int = 7
    fragment: int = 32
    chromatic: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.types) - set(DISTORTIONS))
        if unknown:
            raise ValueError(f"unknown distortion types {unknown}, expected some of {sorted(DISTORTIONS)}")
        if not 1 <= self.types_per_content <= len(self.types):
            raise ValueError(f"types_per_content must be 1 to {len(self.types)}, got {self.types_per_content}")
        if not all(1 <= level <= LEVELS for level in self.levels):
            raise ValueError(f"levels must be 1 to {LEVELS}, got {self.levels}")
        if not 1 <= self.levels_per_type <= len(self.levels):
            raise ValueError(f"levels_per_type must be 1 to {len(self.levels)}, got {self.levels_per_type}")
        if self.grid < 1 or self.fragment < 1:
            raise ValueError(f"grid and fragment must be at least 1, got {self.grid} and {self.fragment}")

    @property
    def versions(self) -> int:
        """Versions of one content, the undistorted one included: D in the paper."""
        return 1 + self.types_per_content * self.levels_per_type

    @property
    def view_size(self) -> int:
        """Side of a view in pixels."""
        return self.grid * self.fragment

    def distortions_of(self, seed: int) -> list[tuple[str, int]]:
        """The (type, level) pairs that the content with this seed gets."""
        rng = np.random.default_rng(seed)
        types = rng.permutation(len(self.types))[: self.types_per_content]
        return [
            (self.types[t], int(level))
            for t in types
            for level in np.sort(rng.permutation(self.levels)[: self.levels_per_type])
        ]


RECIPES = {
    "paper": Recipe(),
    "broad": Recipe(types=tuple(DISTORTIONS), levels=(1, 2, 3, 4, 5), grid=4, chromatic=True),
}
"""Named recipes. ``paper`` is the paper's; ``broad`` draws 4 of all types at 2 of 5 levels, in smaller views."""


def list_photos(folders: list[Path]) -> list[Path]:
    """All photos below the folders, in a fixed order.

    Raises:
        FileNotFoundError: a folder does not exist, or there is no photo in it.
    """
    photos: list[Path] = []
    for folder in folders:
        found = list(find_images(folder, recursive=True))
        if not found:
            raise FileNotFoundError(f"no photos in {folder}")
        photos += found
    return photos


def check_sizes(photos: list[Path], size: int) -> None:
    """Read the headers of all photos, so that a long run does not end at one that can't be used.

    Raises:
        ValueError: photos can't be opened or have a side below `size` pixels; the message names some.
    """
    bad = []
    for path in photos:
        try:
            with Image.open(path) as image:
                if min(image.size) < size:
                    bad.append(f"{path} ({image.width}x{image.height})")
        except OSError as error:
            bad.append(f"{path} ({error})")
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(photos)} photos can't be used, expected images of at least {size} pixels on each side: "
            f"{'; '.join(bad[:3])}. Remove them, or for small ones take a smaller --grid"
        )


def photos_sha256(photos: list[Path]) -> str:
    """One SHA-256 for the contents of photos, in their order."""
    digest = hashlib.sha256()
    for path in photos:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class ContrastiveDataset(Dataset):
    """Samples of a whole training run, addressed by their position in it.

    Sample i depends on i, the seed and the photo alone, so that a resumed run continues with the very samples that an
    uninterrupted one would have seen.

    Args:
        photos: image files, the contents.
        recipe: what a sample is made of.
        seed: of the order of contents, the choice of distortions and the places of fragments.
        cache: folder for the similarities, computed once for each content.

    Each item is ``(views, weights)``: ``(2, D, 3, S, S)`` uint8 and ``(D, D)`` float32.
    """

    def __init__(self, photos: list[Path], recipe: Recipe, seed: int, cache: Path) -> None:
        self.photos, self.recipe, self.seed, self.cache = photos, recipe, seed, Path(cache)
        self.cache.mkdir(parents=True, exist_ok=True)
        self._epoch, self._order = -1, np.empty(0, int)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        epoch, rank = divmod(position, len(self.photos))
        if epoch != self._epoch:  # shuffling all photos for each sample would cost more than the sample, with many photos
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.photos))
        versions, key = self.versions(self.photos[self._order[rank]])
        weights = contrastive_weights(self._similarity(versions, key))
        rng = np.random.default_rng([self.seed, position])
        views = [self._view(versions, rng) for _ in range(2)]
        for axis in (2, 3):
            if rng.random() < 0.5:
                views[1] = np.flip(views[1], axis)
        return torch.from_numpy(np.stack(views)), weights

    def versions(self, path: Path) -> tuple[np.ndarray, str]:
        """``(D, 3, H, W)`` uint8 versions of a photo, the undistorted one first, and their cache key."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        image = (read_image(path) * 255).round().byte().permute(1, 2, 0).numpy()
        content_seed = int(hashlib.sha256(f"{self.seed} {digest}".encode()).hexdigest()[:12], 16)
        chosen = self.recipe.distortions_of(content_seed)
        stack = [image, *(DISTORTIONS[name](image, level, content_seed) for name, level in chosen)]
        made = [[name, DISTORTIONS[name].strengths[level - 1], level] for name, level in chosen]
        key = json.dumps([digest, content_seed, made, self.recipe.chromatic])
        return np.stack(stack).transpose(0, 3, 1, 2), hashlib.sha256(key.encode()).hexdigest()[:32]

    def _similarity(self, versions: np.ndarray, key: str) -> Tensor:
        path = self.cache / f"{key}.npy"
        if path.exists():
            return torch.from_numpy(np.load(path))
        similarity = pairwise_fsim(torch.from_numpy(versions).float() / 255, self.recipe.chromatic)
        # Several workers may write the same content; only a finished file ever gets the name.
        with tempfile.NamedTemporaryFile(dir=self.cache, suffix=".part", delete=False) as part:
            np.save(part, similarity.numpy())
        os.replace(part.name, path)
        return similarity

    def _view(self, versions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One view of all versions: the same random place in each grid cell, fragments put side by side."""
        grid, fragment = self.recipe.grid, self.recipe.fragment
        height, width = versions.shape[-2:]
        view = np.empty((*versions.shape[:2], grid * fragment, grid * fragment), np.uint8)
        for row in range(grid):
            for column in range(grid):
                top, bottom = row * height // grid, (row + 1) * height // grid
                left, right = column * width // grid, (column + 1) * width // grid
                y = rng.integers(top, bottom - fragment + 1)
                x = rng.integers(left, right - fragment + 1)
                view[..., row * fragment : (row + 1) * fragment, column * fragment : (column + 1) * fragment] = versions[
                    ..., y : y + fragment, x : x + fragment
                ]
        return view

    def __len__(self) -> int:
        return len(self.photos)

    def identity(self) -> dict:
        """What the samples depend on, for the run's record and for refusing to resume another run."""
        return {
            "contents": len(self.photos),
            "contents_sha256": photos_sha256(self.photos),
            "recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.recipe).items()},
            "seed": self.seed,
        }
