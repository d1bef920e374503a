"""Recipes: which distortions, levels and views a training sample of the low-level encoder is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from grepq_metric.errors import InputError
from grepq_metric.pathways.base import check_number
from grepq_metric.training.distortions import DISTORTIONS, LEVELS, STAGES


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
        self._check_draws()
        for name, least in (("chain", 1), ("grid", 1), ("fragment", 1), ("region", 0)):
            check_number(name, getattr(self, name), least, 1e6, whole=True)
        if self.region and self.region < self.view_size:
            raise InputError(f"region must be 0 or at least the {self.view_size} pixels of a view, got {self.region}")
        for name, above in (("power", 1e-6), ("temperature", 1e-6), ("order", 0)):
            check_number(name, getattr(self, name), above, 1e6)
        for name in ("chromatic", "anchors"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}")

    def _check_draws(self) -> None:
        unknown = sorted({str(name) for name in self.types if name not in DISTORTIONS})
        if unknown or not self.types:
            raise InputError(f"unknown distortion types {unknown}, expected some of {sorted(DISTORTIONS)}")
        check_number("types_per_content", self.types_per_content, 1, len(self.types), whole=True)
        if not self.levels:
            raise InputError(f"levels must be some of 1 to {LEVELS}, got none")
        for level in self.levels:
            check_number("each of the levels", level, 1, LEVELS, whole=True)
        check_number("levels_per_type", self.levels_per_type, 1, len(self.levels), whole=True)

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
            others: list[tuple[str, int]] = []
            if self.chain > 1:
                drawn = rng.permutation(np.delete(np.arange(len(self.types)), own))[: rng.integers(self.chain)]
                others = [(self.types[t], int(rng.choice(self.levels))) for t in drawn]
            for level in levels:
                version = [(self.types[own], int(level)), *others]
                versions.append(sorted(version, key=lambda d: STAGES.index(DISTORTIONS[d[0]].stage)))
        return versions


RECIPES = {
    "paper": Recipe(),
    "broad": Recipe(
        types=(
            *("gaussian_blur", "lens_blur", "motion_blur", "jpeg", "jpeg2000", "webp", "white_noise", "chroma_noise"),
            *("impulse_noise", "speckle_noise", "exposure", "contrast", "saturation", "colour_cast", "downsampling"),
            *("pixelation", "quantisation", "oversharpening"),
        ),
        levels=(1, 2, 3, 4, 5),
        grid=4,
        chromatic=True,
    ),
    "wild": Recipe(
        types=(
            *("gaussian_blur", "lens_blur", "motion_blur", "jpeg", "jpeg2000", "webp", "white_noise", "chroma_noise"),
            *("impulse_noise", "speckle_noise", "exposure", "contrast", "saturation", "colour_cast", "downsampling"),
            *("pixelation", "quantisation", "oversharpening", "sensor_noise", "low_light", "smearing", "haze", "gamma"),
            *("mean_shift", "hue_shift", "chroma_blur", "fringing", "jitter", "lost_blocks", "banding"),
            *("phone_camera", "night_camera", "digital_zoom") * 4,
        ),
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
    "varied": Recipe(
        types=(
            *("gaussian_blur", "lens_blur", "motion_blur", "jpeg", "jpeg2000", "webp", "white_noise", "chroma_noise"),
            *("impulse_noise", "speckle_noise", "exposure", "contrast", "saturation", "colour_cast", "downsampling"),
            *("pixelation", "quantisation", "oversharpening", "sensor_noise", "low_light", "smearing", "haze", "gamma"),
            *("mean_shift", "hue_shift", "chroma_blur", "fringing", "jitter", "lost_blocks", "banding", "zoom_blur"),
            *("glass_blur", "median_filter", "lost_pixels", "ringing", "aliasing", "halos", "equalisation", "painting"),
            *("checkerboard", "melting", "recompression"),
            *("phone_camera", "night_camera", "digital_zoom") * 5,
        ),
        types_per_content=2,
        levels=(1, 2, 3, 4, 5),
        chain=3,
        region=320,
        grid=1,
        fragment=96,
        chromatic=True,
    ),
}
"""Named recipes. ``paper`` is the paper's. ``broad`` draws 4 of 18 types at 2 of 5 levels, in smaller views. ``wild``, that of
the packaged low-level weights, draws from 33 types, those of cameras more often, and applies up to 3 to a version; its views
are patches as the zero-shot score takes them, versions are compared across photos, too, and the distance to undistorted photos
is to follow FSIM. ``varied``, for the semantic pathway, draws from 45 types, also those of processing and of generated
pictures, in larger regions. The names are written out: a new distortion changes none of them."""


def make_recipe(base: str | Recipe = "paper", changes: Mapping[str, object] | None = None) -> Recipe:
    """A recipe with changes.

    Args:
        base: a name in `RECIPES`, or a recipe.
        changes: values of its fields; one value stands for a list of one, and ``types="all"`` for all in the registry.

    Raises:
        InputError: there is no such recipe or field, or a value is of another type or out of range.

    Examples:
        >>> from grepq_metric.training.recipe import make_recipe
        >>> make_recipe("paper", {"grid": 4, "types": ["jpeg", "haze"], "types_per_content": 2}).versions
        5
    """
    if isinstance(base, str):
        if base not in RECIPES:
            raise InputError(f"unknown recipe {base!r}, expected one of {', '.join(RECIPES)}")
        base = RECIPES[base]
    elif not isinstance(base, Recipe):
        raise InputError(f"recipe must be one of {', '.join(RECIPES)} or a Recipe, got {base!r}")
    known = [field.name for field in fields(Recipe)]
    made: dict[str, object] = {}
    for key, given in (changes or {}).items():
        if key not in known:
            raise InputError(f"unknown setting {key!r} of a recipe, expected one of {', '.join(known)}")
        made[key] = _like(getattr(base, key), tuple(DISTORTIONS) if (key, given) == ("types", "all") else given, key)
    return replace(base, **made)  # type: ignore[arg-type]  # each value is of its field's type


def _like(before: object, given: object, key: str) -> object:
    """A given value in the type of the one that it replaces."""
    value: object = given
    if isinstance(before, tuple):
        value = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        fits = all(type(part) is type(before[0]) for part in value)
    else:
        value = float(given) if isinstance(before, float) and type(given) is int else given
        fits = type(value) is type(before)
    if not fits:
        raise InputError(f"{key} of a recipe must be like {before!r}, got {given!r}")
    return value
