"""Photos to training samples of the low-level encoder: distorted versions, their similarities, fragment views."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grepq_metric.errors import InputError
from grepq_metric.heads.features import store_array
from grepq_metric.training.distortions import DISTORTIONS, LEVELS, STAGES, distort
from grepq_metric.training.photos import PhotoDataset, PhotoList
from grepq_metric.training.similarity import pairwise_fsim


@dataclass(frozen=True)
class Recipe:
    """What one training sample is made of.

    Attributes:
        types: names of distortions in the registry to draw from; a name that is given twice is drawn twice as often.
        types_per_content: how many of them each content gets; which, depends on the content and the seed.
        levels: levels (1 to 5) to draw from.
        levels_per_type: how many of them each type gets.
        chain: most distortions that one version gets, one after the other as in a camera; how many, and which besides its
            own, is drawn for each of the content's types. 1: only its own.
        region: side of the one square of each photo, at a random place, that is distorted, compared and shown in views;
            0: the whole photo. FSIM halves a photo of 512 pixels, and hardly sees in it a blur that people see.
        grid: fragments along each side of a view.
        fragment: side of a square fragment in pixels.
        chromatic: compare versions by FSIMc, which sees colour, and not by FSIM.
        power: exponent of the contrastive weights, see `contrastive_weights`.
        temperature: of the contrastive loss.
        anchors: also compare each version with the undistorted ones of the other photos in the batch, see
            `quality_aware_contrastive_loss`.
        order: weight of a second loss, see `distortion_order_loss`; 0: none.
    """

    types: tuple[str, ...] = ("gaussian_blur", "jpeg", "white_noise", "exposure")
    types_per_content: int = 4
    levels: tuple[int, ...] = (2, 4)
    levels_per_type: int = 2
    chain: int = 1
    region: int = 0
    grid: int = 7
    fragment: int = 32
    chromatic: bool = False
    power: float = 1.0
    temperature: float = 0.5
    anchors: bool = False
    order: float = 0.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.types) - set(DISTORTIONS))
        if unknown:
            raise InputError(f"unknown distortion types {unknown}, expected some of {sorted(DISTORTIONS)}")
        if not 1 <= self.types_per_content <= len(self.types):
            raise InputError(f"types_per_content must be 1 to {len(self.types)}, got {self.types_per_content}")
        if not all(1 <= level <= LEVELS for level in self.levels):
            raise InputError(f"levels must be 1 to {LEVELS}, got {self.levels}")
        if not 1 <= self.levels_per_type <= len(self.levels):
            raise InputError(f"levels_per_type must be 1 to {len(self.levels)}, got {self.levels_per_type}")
        for name in ("chain", "grid", "fragment"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.region and self.region < self.view_size:
            raise InputError(f"region must be 0 or at least the {self.view_size} pixels of a view, got {self.region}")
        if not (self.power > 0 and self.temperature > 0):
            raise InputError(f"power and temperature must be positive, got {self.power} and {self.temperature}")
        if self.order < 0:
            raise InputError(f"order must be 0 or more, got {self.order}")

    @property
    def versions(self) -> int:
        """Versions of one content, the undistorted one included: D in the paper."""
        return 1 + self.types_per_content * self.levels_per_type

    @property
    def view_size(self) -> int:
        """Side of a view in pixels."""
        return self.grid * self.fragment

    def distortions_of(self, seed: int) -> list[list[tuple[str, int]]]:
        """The distorted versions that the content with this seed gets, each a list of (type, level)."""
        rng = np.random.default_rng(seed)
        types = rng.permutation(len(self.types))[: self.types_per_content]
        versions = []
        for own in types:
            levels = np.sort(rng.permutation(self.levels)[: self.levels_per_type])
            others = []
            if self.chain > 1:
                drawn = rng.permutation(np.delete(np.arange(len(self.types)), own))[: rng.integers(self.chain)]
                others = [(self.types[t], int(rng.choice(self.levels))) for t in drawn]
            for level in levels:
                version = [(self.types[own], int(level)), *others]
                versions.append(sorted(version, key=lambda d: STAGES.index(DISTORTIONS[d[0]].stage)))
        return versions


RECIPES = {
    "paper": Recipe(),
    "broad": Recipe(types=tuple(DISTORTIONS)[:18], levels=(1, 2, 3, 4, 5), grid=4, chromatic=True),
    "wild": Recipe(
        types=(*DISTORTIONS, *3 * ("phone_camera", "night_camera", "digital_zoom")),
        levels=(1, 2, 3, 4, 5),
        chain=3,
        region=256,
        grid=1,
        fragment=96,
        chromatic=True,
        power=3.0,
        temperature=0.2,
        anchors=True,
        order=0.5,
    ),
}
"""Named recipes. ``paper`` is the paper's. ``broad`` draws 4 of 18 types at 2 of 5 levels, in smaller views. ``wild`` draws
from all types, those of cameras more often, and applies up to 3 to a version; its views are patches as the zero-shot score
takes them, versions are compared across photos, too, and the distance to undistorted photos is to follow FSIM."""


def recipe(name: str, changes: Mapping[str, object] | None = None) -> Recipe:
    """A named recipe with changes: values of its fields; one value stands for a list of one, and ``types="all"`` for all.

    Raises:
        ValueError: there is no such recipe or field, or a value is of another type or out of range.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}, expected one of {', '.join(RECIPES)}")
    values = {f.name: getattr(RECIPES[name], f.name) for f in fields(Recipe)}
    for key, value in (changes or {}).items():
        if key not in values:
            raise InputError(f"unknown setting {key!r} of a recipe, expected one of {', '.join(values)}")
        if key == "types" and value == "all":
            value = tuple(DISTORTIONS)
        kind = type(values[key])
        if kind is tuple:
            value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
            value = value if all(type(v) is type(values[key][0]) for v in value) else None
        elif kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise InputError(f"{key} of a recipe must be like {values[key]!r}, got {changes[key]!r}")
        values[key] = value
    return Recipe(**values)


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
            ValueError: the photo can't be read or is smaller than a view; the message names it.
        """
        least = max(self.recipe.view_size, self.recipe.region)
        data = self.photos.read(index)
        image = (self.photos.decode(index, data, least) * 255).round().byte().permute(1, 2, 0).numpy()
        digest = hashlib.sha256(data).hexdigest()
        content_seed = int(hashlib.sha256(f"{self.seed} {digest}".encode()).hexdigest()[:12], 16)
        if side := self.recipe.region:
            rng = np.random.default_rng(content_seed)
            top, left = (rng.integers(length - side + 1) for length in image.shape[:2])
            image = np.ascontiguousarray(image[top : top + side, left : left + side])
        chosen = self.recipe.distortions_of(content_seed)
        stack = [image, *(distort(image, version, content_seed) for version in chosen)]
        made = [[[name, DISTORTIONS[name].strengths[level - 1], level] for name, level in version] for version in chosen]
        key = json.dumps([digest, content_seed, self.recipe.region, made, self.recipe.chromatic])
        return np.stack(stack).transpose(0, 3, 1, 2), hashlib.sha256(key.encode()).hexdigest()[:32]

    def _similarity(self, versions: np.ndarray, key: str) -> Tensor:
        path = self.cache / f"{key}.npy"
        if path.exists():
            return torch.from_numpy(np.load(path))
        similarity = pairwise_fsim(torch.from_numpy(versions).float() / 255, self.recipe.chromatic)
        store_array(path, similarity.numpy())
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

    def identity(self) -> dict:
        """What the samples depend on, for the run's record and for refusing to resume another run."""
        recipe = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.recipe).items()}
        return {**self.photos.identity(), "recipe": recipe, "seed": self.seed}
