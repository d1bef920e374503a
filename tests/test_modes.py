"""Promises of the cheaper modes: bfloat16 and a reduced resolution; each is part of the id."""

import json

import pytest
import torch
import torch.nn.functional as F

from grepq_metric import GRepQ
from grepq_metric.errors import InputError

NAMES = ("grepq-sem", "grepq-ll", "grepq-lite")


@pytest.mark.parametrize("name", NAMES)
def test_a_mode_is_part_of_the_id_and_survives_saving(name, tmp_path):
    exact = GRepQ.from_pretrained(name)
    mode = GRepQ.from_pretrained(name, precision="bf16", resolution=512)
    assert mode.weights_id == f"{exact.weights_id}+bf16+512px"
    mode.save_pretrained(tmp_path / "mode")
    again = GRepQ.from_pretrained(tmp_path / "mode")
    assert (again.precision, again.resolution, again.weights_id) == ("bf16", 512, mode.weights_id)
    exact.save_pretrained(tmp_path / "exact")
    assert not {"precision", "resolution"} & set(json.loads((tmp_path / "exact/config.json").read_text()))
    assert GRepQ.from_pretrained(tmp_path / "exact", resolution=300).weights_id == f"{exact.weights_id}+300px"
    assert GRepQ.from_pretrained(tmp_path / "mode", precision="fp32", resolution=None).weights_id == exact.weights_id


@pytest.mark.parametrize("name", NAMES)
def test_a_reduced_image_has_the_score_of_one_reduced_beforehand(name, photos):
    exact, mode = GRepQ.from_pretrained(name), GRepQ.from_pretrained(name, resolution=256)
    photo = photos["coffee"]
    height, width = photo.shape[2:]
    assert width > height > 256
    small = F.interpolate(photo, [round(height * 256 / width), 256], mode="bicubic", antialias=True).clamp(0, 1)
    with torch.inference_mode():
        assert mode(photo).item() == exact(small).item()
        assert mode(small).item() == exact(small).item()  # not larger: as it is
        assert abs(mode(photo) - exact(photo)).item() > 1e-3
        assert torch.equal(mode.features(photo), exact.features(small))
    if exact.semantic is not None:
        assert mode.quality_map(photo).shape == exact.quality_map(small).shape
    if exact.low is not None:
        assert torch.equal(mode.distance_map(photo), exact.distance_map(small))


def test_a_long_strip_keeps_a_pixel_and_is_padded():
    mode = GRepQ.from_pretrained("grepq-sem", resolution=96)
    assert 0 < mode(torch.rand(1, 3, 2, 900)).item() < 1


def test_gradients_reach_the_full_image(photos):
    mode = GRepQ.from_pretrained("grepq-sem", resolution=128)
    x = photos["coffee"].clone().requires_grad_()
    mode(x).sum().backward()
    assert x.grad.shape == x.shape
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near_and_gives_float32_results(name, photos):
    exact, mode = GRepQ.from_pretrained(name), GRepQ.from_pretrained(name, precision="bf16")
    x = torch.cat([photos[k][..., :260, :260] for k in ("astronaut", "coffee", "cat")])
    with torch.inference_mode():
        near, score, features = mode(x), exact(x), mode.features(x)
    assert near.dtype == features.dtype == torch.float32
    difference = (near - score).abs().max().item()
    assert 0 < difference < 0.05, difference
    assert features.std() > 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"precision": "fp16"}, "precision must be one of"),
        ({"precision": None}, "precision must be one of"),
        ({"resolution": 95}, "resolution"),
        ({"resolution": 512.5}, "resolution"),
        ({"resolution": True}, "resolution"),
    ],
)
def test_what_is_no_mode_is_refused(option, message):
    with pytest.raises(InputError, match=message):
        GRepQ.from_pretrained("grepq-sem", **option)


def test_modes_reach_pyiqa_and_the_loss(photos):
    pyiqa = pytest.importorskip("pyiqa")
    from grepq_metric import GRepQLoss

    exact = GRepQ.from_pretrained("grepq-sem", resolution=200)(photos["coffee"]).item()
    metric = pyiqa.create_metric("grepq-sem", resolution=200, device="cpu")
    assert metric(photos["coffee"]).item() == pytest.approx(exact, abs=1e-6)
    assert GRepQLoss("grepq-sem", resolution=200).model.resolution == 200
