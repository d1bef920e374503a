"""Promises of the semantic pathway's network: it is timm's, and tiles of large images change nothing."""

import pytest
import timm
import torch

from grepq_metric import GRepQ
from grepq_metric.pathways import semantic
from grepq_metric.pathways.efficientnet import SCALES, EfficientNetLite
from grepq_metric.pathways.tiles import in_tiles
from tests.conftest import randomise


@pytest.mark.parametrize("architecture", SCALES)
def test_the_network_is_timms(architecture, photos):
    theirs = timm.create_model(architecture, pretrained=False, features_only=True).eval()
    randomise(theirs, 5)
    ours = EfficientNetLite(architecture).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for height, width in ((131, 98), (64, 161)):
        x = 2 * photos["coffee"][..., :height, :width] - 1
        with torch.inference_mode():
            for one, other in zip(ours(x), theirs(x), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


def whole_and_tiles(height, width, less=0, side=64):
    network = GRepQ.from_pretrained("grepq-sem").semantic.backbone
    x = 2 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height)) - 1

    def run(step, x):
        return in_tiles(x, step.run, step.stride, max(step.reach - less, 0), side)

    with torch.inference_mode():
        return network(x), network(x, run)


@pytest.mark.parametrize("height", [301, 302, 303, 304, 517])
@pytest.mark.parametrize("width", [130, 257])
def test_tiles_give_the_maps_of_the_whole_image(height, width):
    for one, other in zip(*whole_and_tiles(height, width), strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 2e-6 * other.abs().max()


def test_tiles_that_see_less_would_give_others():
    found = [(one - other).abs().max() < 1e-4 for one, other in zip(*whole_and_tiles(302, 130, less=1), strict=True)]
    assert not all(found)


@pytest.mark.parametrize("name", ["grepq-sem", "grepq-lite"])
def test_a_large_image_has_the_score_and_the_map_that_it_has_as_a_whole(name, photos, monkeypatch):
    model, calls = GRepQ.from_pretrained(name), []

    def counted(*arguments):
        calls.append(arguments)
        return in_tiles(*arguments)

    monkeypatch.setattr(semantic, "in_tiles", counted)
    x = photos["rocket"]
    with torch.inference_mode():
        whole, parts = model(x), model.quality_map(x)
        assert not calls
        monkeypatch.setattr(semantic, "LARGEST", 2**17)
        torch.testing.assert_close(model(x), whole, atol=1e-6, rtol=0)
        torch.testing.assert_close(model.quality_map(x), parts, atol=1e-6, rtol=0)
    assert len({arguments[0].shape for arguments in calls}) > 3  # at several resolutions


def test_gradients_are_not_cut_into_tiles(photos, monkeypatch):
    model = GRepQ.from_pretrained("grepq-sem")

    def gradient():
        x = photos["rocket"].clone().requires_grad_()
        model(x).sum().backward()
        return x.grad

    whole = gradient()
    monkeypatch.setattr(semantic, "LARGEST", 2**17)
    torch.testing.assert_close(gradient(), whole)
