"""Promises of the cheaper modes: bfloat16 and a reduced resolution; each is part of the id."""

import json

import pytest
import torch
import torch.nn.functional as F

from grepq_metric import GRepQ
from grepq_metric.errors import InputError, WeightsError

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


@pytest.mark.parametrize("name", ["grepq-ll", "grepq-lite"])
def test_the_dense_mode_is_near_the_exact_one_and_has_an_id_of_its_own(name, photos, tmp_path):
    exact, dense = GRepQ.from_pretrained(name), GRepQ.from_pretrained(name, speed="dense", resolution=1024)
    assert dense.weights_id.startswith(f"{exact.weights_id}+dense-")
    assert dense.weights_id.endswith("+1024px")
    dense.save_pretrained(tmp_path)
    again = GRepQ.from_pretrained(tmp_path)
    assert (again.speed, again.weights_id) == ("dense", dense.weights_id)
    assert GRepQ.from_pretrained(tmp_path, speed="exact", resolution=None).weights_id == exact.weights_id
    again.low.dense.linear.bias.data += 1
    assert again.weights_id.split("+")[0] == exact.weights_id
    assert again.weights_id != dense.weights_id
    for photo in photos.values():
        with torch.inference_mode():
            one, other = dense.components(photo), exact.components(photo)
            assert dense.low.patch_features(photo).shape == exact.low.patch_features(photo).shape
        assert 0 < abs(one["distance"] - other["distance"]).item() < 0.35 * other["distance"].item()
        assert one["semantic"] is None or torch.equal(one["semantic"], other["semantic"])
        assert dense.distance_map(photo).shape == exact.distance_map(photo).shape


def test_dense_windows_lie_where_patches_lie():
    low = GRepQ.from_pretrained("grepq-ll", speed="dense").low
    x = torch.rand(1, 3, 200, 300)
    with torch.inference_mode():
        windows, cells = low.windows(x), low.encoder.backbone.conv1(x)
    assert cells.shape[2:] == (100, 150)
    assert windows.shape == (1, 3, 5, 512)
    changed = x.clone()
    changed[..., 192:, :] = 0  # below the last patch
    with torch.inference_mode():
        assert torch.equal(low.windows(changed), windows)


def test_the_first_layers_of_a_large_image_give_the_same_in_tiles(monkeypatch):
    from grepq_metric.pathways import low as module

    dense = GRepQ.from_pretrained("grepq-ll", speed="dense")
    x = torch.rand(1, 3, 419, 530, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = dense(x)
        monkeypatch.setattr(module, "TILE", 100)
        assert dense(x) == pytest.approx(whole, abs=1e-7)
        monkeypatch.setattr(module, "REACH", 4)
        assert dense(x) != pytest.approx(whole, abs=1e-7)


def test_dense_scores_do_not_depend_on_the_batch_and_have_gradients(photos):
    dense = GRepQ.from_pretrained("grepq-ll", speed="dense")
    x = torch.cat([photos[name][..., :200, :250] for name in ("astronaut", "coffee", "cat")])
    with torch.inference_mode():
        assert dense(x) == pytest.approx(torch.cat([dense(one[None]) for one in x]), abs=1e-6)
    grads = []
    for checkpoint in (True, False):
        y = x.clone().requires_grad_()
        dense.parts(dense.prepare(y), checkpoint=checkpoint)["score"].sum().backward()
        grads.append(y.grad)
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-8)
    assert (grads[0].flatten(1).abs().sum(1) > 0).all()
    y = x.double().requires_grad_()
    model = dense.double()
    (slope,) = torch.autograd.grad(model(y).sum(), y)
    step = 1e-7 * slope.sign()
    with torch.inference_mode():
        change = (model(y + step) - model(y - step)).sum().item() / 2
    assert change == pytest.approx((slope * step).sum().item(), rel=1e-2)
    assert model.low.parts(y.detach(), patches=3)["quality"].shape == (3,)


def test_a_dense_graph_gives_the_same_score(photos):
    dense = GRepQ.from_pretrained("grepq-ll", speed="dense").requires_grad_(False)
    x = photos["coffee"]
    program = torch.export.export(dense, (x,))
    assert program.module()(x) == pytest.approx(dense(x), abs=1e-5)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ("grepq-ll", {"speed": "fast"}, "speed must be one of"),
        ("grepq-sem", {"speed": "dense"}, "is about the low-level pathway"),
        ("grepq-lite", {"speed": "dense", "pathways": ["semantic"]}, "is about the low-level pathway"),
        ("grepq-ll", {"speed": "dense", "patch_stride": 40}, "multiple of 16, got 40"),
    ],
)
def test_what_has_no_dense_mode_is_refused(weights, options, message):
    with pytest.raises(InputError, match=message):
        GRepQ.from_pretrained(weights, **options)


def test_weights_without_a_dense_mode_say_how_to_get_one(tmp_path):
    model = GRepQ.from_pretrained("grepq-ll")
    model.low.drop_dense()
    model.save_pretrained(tmp_path)
    assert GRepQ.from_pretrained(tmp_path).weights_id == GRepQ.from_pretrained("grepq-ll").weights_id
    with pytest.raises(InputError, match="no dense mode: `grepq pristine`"):
        GRepQ.from_pretrained(tmp_path, speed="dense")


def test_the_dense_values_are_looked_at(tmp_path):
    model = GRepQ.from_pretrained("grepq-ll", speed="dense")
    model.low.dense.pristine_cov.mul_(-1)
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"low\.dense\.pristine_cov is no covariance"):
        GRepQ.from_pretrained(tmp_path)


def test_pristine_photos_give_weights_a_dense_mode_of_their_own(photo_folder):
    from grepq_metric.training.photos import PhotoList
    from grepq_metric.training.pristine import Selection, set_pristine_statistics

    model, packaged = GRepQ.from_pretrained("grepq-ll"), GRepQ.from_pretrained("grepq-ll", speed="dense")
    model.low.drop_dense()
    photos = PhotoList([photo_folder])
    with pytest.warns(UserWarning, match="pristine patches"):
        assert set_pristine_statistics(model, photos, Selection()) == []
    assert model.low.dense.pristine_mean.isfinite().all()
    config = model.config
    again = GRepQ.from_parts(config, model.state_dict(), source="memory", speed="dense")
    assert again.weights_id.split("+")[1] != packaged.weights_id.split("+")[1]
    x = photos.image(0)[None]
    with torch.inference_mode():
        features, exact = again.low.patch_features(x), GRepQ.from_pretrained("grepq-ll").low.patch_features(x)
        own = packaged.low.patch_features(x)
    scale = exact.std()
    assert (features - exact).pow(2).mean().sqrt() < scale
    assert (own - exact).pow(2).mean().sqrt() < 0.5 * scale
    with pytest.warns(UserWarning, match="pristine patches"):
        set_pristine_statistics(model, photos, Selection(patch_size=64))  # not on the grid of the score
    assert model.low.dense is None
