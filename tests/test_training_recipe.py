"""Promise: a recipe is what it was when weights were trained by it; a new distortion changes none."""

import json

import numpy as np
import pytest

from grepq_metric.training.distortions import DISTORTIONS, distortion
from grepq_metric.training.recipe import RECIPES, make_recipe
from grepq_metric.training.views import ContrastiveDataset
from grepq_metric.weights import packaged_folder

PAPER = ("gaussian_blur", "jpeg", "white_noise", "exposure")
BROAD = (
    *("gaussian_blur", "lens_blur", "motion_blur", "jpeg", "jpeg2000", "webp", "white_noise", "chroma_noise", "impulse_noise"),
    *("speckle_noise", "exposure", "contrast", "saturation", "colour_cast", "downsampling", "pixelation", "quantisation"),
    "oversharpening",
)
CAMERAS = ("phone_camera", "night_camera", "digital_zoom")
WILD = (
    *BROAD,
    *(
        "sensor_noise",
        "low_light",
        "smearing",
        "haze",
        "gamma",
        "mean_shift",
        "hue_shift",
        "chroma_blur",
        "fringing",
        "jitter",
    ),
    *("lost_blocks", "banding"),
    *(CAMERAS + CAMERAS + CAMERAS + CAMERAS),
)


@pytest.mark.parametrize(("name", "types"), [("paper", PAPER), ("broad", BROAD), ("wild", WILD)])
def test_the_distortions_of_a_recipe_are_pinned(name, types):
    assert RECIPES[name].types == types


def test_wild_is_the_recipe_of_the_packaged_weights(tmp_path):
    record = json.loads((packaged_folder("grepq-ll") / "config.json").read_text())["provenance"]["recipe"]
    assert make_recipe("wild", record) == RECIPES["wild"]

    class Nothing:
        def identity(self):
            return {}

    assert ContrastiveDataset(Nothing(), RECIPES["wild"], 0, tmp_path).identity()["recipe"] == record


def test_a_new_distortion_changes_no_recipe():
    before = {name: (recipe, recipe.distortions_of(3)) for name, recipe in RECIPES.items()}
    try:

        @distortion(1, 2, 3, 4, 5, stage="light")
        def darkness(image, strength, rng):
            return (image / (1 + strength)).astype(np.uint8)

        assert "darkness" in make_recipe("paper", {"types": "all"}).types  # which is what to ask for to get it
        assert {name: (make_recipe(name), make_recipe(name).distortions_of(3)) for name in RECIPES} == before
    finally:
        DISTORTIONS.pop("darkness", None)


def test_a_recipe_may_be_changed_from_another_one():
    own = make_recipe(RECIPES["wild"], {"levels": 5, "levels_per_type": 1, "power": 2})
    assert (own.levels, own.power, own.types) == ((5,), 2.0, WILD)
    assert make_recipe(own) == own
