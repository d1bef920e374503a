"""Promises: any size and type that the documentation names works, gradients are finite, and bad input is named."""

import pytest
import torch

SIZES = [(1, 1), (1, 300), (2, 3), (31, 95), (48, 48), (49, 96), (95, 97), (96, 96), (97, 143), (143, 144), (257, 131)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_scores(model, photos, size):
    x = photos["cat"][..., : size[0], : size[1]]
    parts = model.components(x)
    assert 0 < parts["low"].item() <= 0.5
    assert 0 < parts["high"].item() < 1
    assert model.features(x).shape == (1, 1024 + 256)
    assert model.features(x).isfinite().all()


def test_a_small_image_is_mirrored_and_a_tiny_one_repeated(photos):
    from grepq_metric.inputs import pad_to

    small = photos["cat"][..., :60, :60]
    padded = pad_to(small, 96)
    assert padded.shape == (1, 3, 96, 96)
    assert torch.equal(padded[..., 18:78, 18:78], small)
    assert torch.equal(padded[..., 18, 17 - torch.arange(18)], small[..., 0, 1 + torch.arange(18)])
    tiny = pad_to(photos["cat"][..., :1, :1], 96)
    assert (tiny == photos["cat"][..., :1, :1]).all()


def test_grey_is_three_equal_channels(model, photos):
    grey = photos["cat"].mean(1, keepdim=True)
    assert torch.equal(model(grey), model(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images_have_finite_scores_and_gradients(model, value):
    x = torch.full((1, 3, 150, 200), value, requires_grad=True)
    score = model(x)
    score.sum().backward()
    assert score.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("size", [(96, 96), (150, 200), (20, 30)], ids=str)
def test_gradients_reach_the_image(model, photos, size):
    x = photos["coffee"][..., : size[0], : size[1]].clone().requires_grad_()
    model(x).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


def test_the_gradient_is_the_slope_of_the_score(model, photos):
    import copy

    exact = copy.deepcopy(model).double()
    x = photos["coffee"][..., :100, :150].double().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(exact(x).sum(), x)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    step = 1e-8  # few ReLUs change sides within it
    slope = (exact(x + step * direction) - exact(x - step * direction)).item() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-3)


def test_the_gradient_is_finite_where_the_distance_is_zero():
    from grepq_metric.pathways.low import LowLevelPathway

    pathway = LowLevelPathway()
    pathway.pristine_mean.fill_(0.25)
    z = torch.full((1, 4, 128), 0.25, dtype=torch.float64, requires_grad=True)
    pathway.pristine_cov.copy_(torch.eye(128))
    distance = pathway.distance(z)
    distance.sum().backward()
    assert distance.item() < 1e-10
    assert z.grad.isfinite().all()


def test_float64_input_and_model(model, photos):
    import copy

    exact = copy.deepcopy(model).double()
    x = photos["rocket"]
    assert exact(x.double()).dtype == torch.float64
    assert model(x.double()).dtype == torch.float64
    assert exact(x.double()).item() == pytest.approx(model(x).item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_close_and_keeps_float32_results(model, photos, dtype):
    expected = model.components(photos["rocket"])
    with torch.autocast("cpu", dtype):
        got = model.components(photos["rocket"])
    for part in ("score", "low", "high"):
        assert got[part].dtype == torch.float32
        assert got[part].item() == pytest.approx(expected[part].item(), abs=0.03)


def test_autocast_moves_the_packaged_weights_little(photos):
    from grepq_metric import GRepQ

    packaged = GRepQ.from_pretrained("grepq-ll")
    for name in ("cat", "coffee", "stereo"):
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                got = packaged(photos[name]).item()
            assert got == pytest.approx(packaged(photos[name]).item(), abs=5e-4)


def test_pristine_statistics_keep_float64_under_any_conversion(model):
    import copy

    for convert in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.float(), lambda m: m.double()):
        converted = convert(copy.deepcopy(model))
        assert torch.equal(converted.low.pristine_cov, model.low.pristine_cov)
        assert converted.low.pristine_cov.dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_equals_cpu(model, photos):
    import copy

    on_device = copy.deepcopy(model).cuda()
    assert on_device(photos["cat"].cuda()).item() == pytest.approx(model(photos["cat"]).item(), abs=1e-4)


def test_the_model_moves_between_devices(model):
    import copy

    moved = copy.deepcopy(model).to("meta")
    assert {t.device.type for t in moved.state_dict().values()} == {"meta"}


BAD = {
    "three dimensions": (torch.rand(3, 96, 96), r"\(3, 96, 96\)"),
    "two channels": (torch.rand(1, 2, 96, 96), r"\(1, 2, 96, 96\)"),
    "channels last": (torch.rand(1, 96, 96, 3), r"\(1, 96, 96, 3\)"),
    "no images": (torch.rand(0, 3, 96, 96), r"\(0, 3, 96, 96\)"),
    "no pixels": (torch.rand(1, 3, 0, 96), r"\(1, 3, 0, 96\)"),
    "bytes": (torch.zeros(1, 3, 96, 96, dtype=torch.uint8), "uint8"),
    "0 to 255": (torch.full((1, 3, 96, 96), 255.0), "255"),
    "NaN": (torch.full((1, 3, 96, 96), torch.nan), "nan"),
    "infinity": (torch.full((1, 3, 96, 96), torch.inf), "inf"),
    "no tensor": ([[0.5]], "list"),
}


@pytest.mark.parametrize(("x", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("method", ["__call__", "components", "features", "distance_map"])
def test_bad_input_is_named(model, method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(x)


def test_a_model_without_weights_refuses_to_score():
    from grepq_metric import GRepQ

    with pytest.raises(ValueError, match="no weights"):
        GRepQ(pathways=["low"])(torch.rand(1, 3, 96, 96))


def test_a_model_without_the_low_level_pathway_has_no_map():
    from grepq_metric import GRepQ

    with pytest.raises(ValueError, match="low-level"):
        GRepQ(pathways=["high"]).distance_map(torch.rand(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pathways": ["middle"]}, "middle"),
        ({"pathways": []}, "pathways"),
        ({"storage": "int8"}, "int8"),
        ({"patch_stride": 0}, "patch_stride"),
        ({"ridge": 0}, "ridge"),
        ({"distance_scale": -1}, "-1"),
        ({"logit_scale": 0}, "logit_scale"),
    ],
)
def test_bad_options_are_named(options, message):
    from grepq_metric import GRepQ

    with pytest.raises(ValueError, match=message):
        GRepQ(**options)
