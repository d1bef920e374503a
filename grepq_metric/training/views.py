"""Photos to training samples of the low-level encoder: distorted versions, their similarities, fragment views."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grepq_metric.files import whole_file
from grepq_metric.pathways.base import as_plain
from grepq_metric.training.distortions import DISTORTIONS, distort
from grepq_metric.training.photos import PhotoDataset, PhotoList
from grepq_metric.training.recipe import Recipe
from grepq_metric.training.similarity import pairwise_fsim


def distorted(photo: Tensor, recipe: Recipe, seed: int) -> np.ndarray:
    """Versions of a photo ``(3, H, W)`` in [0, 1] by a recipe: ``(D, 3, H, W)`` uint8 of a region, the undistorted one first.

    The seed decides on the place of the region and on the distortions.
    """
    image = (photo * 255).round().byte().permute(1, 2, 0).numpy()
    if side := recipe.region:
        rng = np.random.default_rng(seed)
        top, left = (rng.integers(length - side + 1) for length in image.shape[:2])
        image = np.ascontiguousarray(image[top : top + side, left : left + side])
    made = [image, *(distort(image, version, seed) for version in recipe.distortions_of(seed))]
    return np.stack(made).transpose(0, 3, 1, 2)


def network_input(images: Tensor) -> Tensor:
    """Images ``(N, 3, H, W)`` uint8 as networks take them in a training: in [0, 1], channels last."""
    return images.float().div(255).contiguous(memory_format=torch.channels_last)


class ContrastiveDataset(PhotoDataset):
    """Two views of all versions of a content, ``(2, D, 3, S, S)`` uint8, and the FSIM ``(D, D)`` between versions.

    Args:
        photos: the contents.
        recipe: what a sample is made of.
        seed: of the order of contents, the choice of distortions and the places of fragments.
        cache: folder for the similarities, computed once for each content.
    """

    def __init__(self, photos: PhotoList, recipe: Recipe, seed: int, cache: Path) -> None:
        super().__init__(photos, seed)
        self.recipe, self.cache = recipe, Path(cache)
        self.cache.mkdir(parents=True, exist_ok=True)

    def make(self, index: int, position: int) -> tuple[Tensor, Tensor]:
        """Views and similarities of content `index`, with the places of the fragments drawn for `position`."""
        versions, key = self.versions(index)
        try:
            similarity = self._similarity(versions, key)
        except OSError as error:
            raise OSError(f"cannot cache similarities in {self.cache}: {error}") from error
        return self.views(versions, np.random.default_rng([self.seed, position])), similarity

    def views(self, versions: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Two views of all versions: ``(D, 3, H, W)`` -> ``(2, D, 3, S, S)`` uint8, the second one flipped at random."""
        views = [self._view(versions, rng) for _ in range(2)]
        for axis in (2, 3):
            if rng.random() < 0.5:
                views[1] = np.flip(views[1], axis)
        return torch.from_numpy(np.stack(views))

    def versions(self, index: int) -> tuple[np.ndarray, str]:
        """``(D, 3, H, W)`` uint8 versions of a photo, the undistorted one first, and their cache key.

        Raises:
            InputError: the photo can't be read or is smaller than a view; the message names it.
        """
        least = max(self.recipe.view_size, self.recipe.region)
        data = self.photos.read(index)
        photo = self.photos.decode(index, data, least)
        digest = hashlib.sha256(data).hexdigest()
        content_seed = int(hashlib.sha256(f"{self.seed} {digest}".encode()).hexdigest()[:12], 16)
        chosen = self.recipe.distortions_of(content_seed)
        made = [[[name, DISTORTIONS[name].strengths[level - 1], level] for name, level in version] for version in chosen]
        key = json.dumps([digest, content_seed, self.recipe.region, made, self.recipe.chromatic])
        return distorted(photo, self.recipe, content_seed), hashlib.sha256(key.encode()).hexdigest()[:32]

    def _similarity(self, versions: np.ndarray, key: str) -> Tensor:
        path = self.cache / f"{key}.npy"
        kept = _load(path, len(versions))
        if kept is not None:
            return torch.from_numpy(kept)
        similarity = pairwise_fsim(torch.from_numpy(versions).float() / 255, self.recipe.chromatic)
        with whole_file(path) as part:
            np.save(part, similarity.numpy())
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

    def identity(self) -> dict[str, object]:
        """What the samples depend on, for the run's record and for refusing to resume another run."""
        return {**self.photos.identity(), "recipe": as_plain(self.recipe), "seed": self.seed}


def _load(path: Path, versions: int) -> np.ndarray | None:
    """Similarities that are kept; None where there are none or the file is damaged, so that they are made anew."""
    try:
        with path.open("rb") as stream:
            similarity = np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError):
        return None
    whole = similarity.shape == (versions, versions) and similarity.dtype == np.float32 and np.isfinite(similarity).all()
    return similarity if whole else None
