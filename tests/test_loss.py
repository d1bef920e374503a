"""Promises of the loss term, beyond those of all that gives a number for an image (test_metric_like.py)."""

import importlib
import sys
import types
import warnings

import pyiqa
import pytest
import torch
from pyiqa.losses import build_loss

from grepq_metric import GRepQ, GRepQLoss, catalog, grepq

TOLERANCE = {("low",): 2e-3, ("semantic",): 2e-2, ("low", "semantic"): 2e-2, ("decoder",): 5e-2}
"""Of a loss in bfloat16, by the pathways of its model."""


@pytest.fixture(scope="module", params=[entry.name for entry in catalog.ENTRIES if not entry.download])
def loss(request):
    return GRepQLoss(request.param)


@pytest.fixture(scope="module")
def low_level():
    return GRepQLoss("grepq-ll")


def gradient(loss, x):
    x = x.clone().requires_grad_()
    loss(x).sum().backward()
    return x.grad


def test_it_is_one_minus_the_score_over_the_best(low_level, photos, model, tmp_path):
    x = photos["cat"]
    losses = ((low_level, "grepq-ll", 0.5), (GRepQLoss(), "grepq-sem", 1), (GRepQLoss("grepq-lite"), "grepq-lite", 1.5))
    for loss, name, best in losses:
        score = GRepQ.from_pretrained(name)(x).detach()
        assert loss(x).item() == pytest.approx(1 - score.item() / best, abs=1e-6)
        assert 0 < loss(x).item() < 1
    model.save_pretrained(tmp_path)
    both = GRepQLoss(tmp_path, reduction="none")
    assert both(x) == pytest.approx(1 - model(x).squeeze(1) / 1.5, abs=1e-5)


def test_it_agrees_with_pyiqa_as_loss(loss, photos):
    x = photos["astronaut"]
    theirs, best = pyiqa.create_metric(loss.model.name, as_loss=True, device="cpu"), loss.model.best
    assert loss(x).item() == pytest.approx(1 - theirs(x).item() / best, abs=1e-6)
    assert torch.allclose(gradient(loss, x), -gradient(theirs, x) / best, rtol=1e-3, atol=1e-7)


def test_pyiqa_builds_it_from_an_option_file(photos):
    built = build_loss({"type": "GRepQLoss", "loss_weight": 0.1, "reduction": "sum"})
    x = photos["rocket"]
    assert built(x, torch.zeros_like(x)).item() == pytest.approx(0.1 * GRepQLoss()(x).item(), rel=1e-5)


def test_the_class_for_basicsr_fits_its_models(photos, monkeypatch):
    """BasicSR, which no longer installs, takes the pair of a perceptual and a style loss; its registry is pyiqa's."""
    from pyiqa.utils.registry import LOSS_REGISTRY, Registry

    package = {name: types.ModuleType(name) for name in ("basicsr", "basicsr.utils", "basicsr.utils.registry")}
    package["basicsr.utils.registry"].LOSS_REGISTRY = Registry("loss")
    for name, module in package.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "grepq_metric.integrations.basicsr", raising=False)
    importlib.import_module("grepq_metric.integrations.basicsr")
    built = package["basicsr.utils.registry"].LOSS_REGISTRY.get("GRepQPerceptualLoss")(loss_weight=0.03)
    x = photos["stereo"]
    perceptual, style = built(x, torch.zeros_like(x))
    assert perceptual.item() == pytest.approx(0.03 * GRepQLoss()(x).item(), rel=1e-5)
    assert style is None
    assert "GRepQLoss" in LOSS_REGISTRY


def test_weights_are_frozen_and_stay_in_evaluation_mode(loss):
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    network = torch.nn.ModuleDict({"net": torch.nn.Conv2d(3, 3, 1), "loss": loss}).train()
    assert network["net"].training
    assert not any(module.training for module in loss.model.modules())
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss(torch.rand(2, 3, 100, 100))
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 3, 144, 144),
        torch.ones(1, 3, 96, 96),
        torch.full((1, 1, 150, 97), 0.5),
        torch.rand(1, 3, 48, 48).repeat(1, 1, 4, 4),  # all patches are the same
        torch.rand(1, 3, 100, 100) * 1.6 - 0.3,  # overshoots, as networks in training do
        torch.rand(1, 3, 20, 30),
    ],
    ids=["black", "white", "grey", "identical patches", "overshooting", "small"],
)
def test_gradients_are_finite(loss, x):
    value = gradient(loss, x)
    assert value.shape == x.shape
    assert value.isfinite().all()


def test_the_gradient_is_finite_where_the_distance_is_zero(low_level, photos):
    low = low_level.model.low
    z = low.patch_features(photos["stereo"]).flatten(1, 2).detach().double()
    mean = low.pristine_mean.clone()
    try:
        low.pristine_mean.copy_(z[0, 0])
        z = z[:, :1].requires_grad_()
        low.distance(z).sum().backward()
    finally:
        low.pristine_mean.copy_(mean)
    assert z.grad.isfinite().all()


def test_checkpoints_change_memory_and_not_values(photos):
    x = photos["coffee"][..., :240, :240]
    plain, saving = (GRepQLoss("grepq-ll", checkpoint=value, chunk_size=4) for value in (False, True))
    kept = {}
    for name, loss in (("plain", plain), ("saving", saving)):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            loss(x.clone().requires_grad_())
        kept[name] = sum(sizes)
    assert kept["saving"] < kept["plain"] / 4
    assert torch.allclose(gradient(plain, x), gradient(saving, x), rtol=1e-4, atol=1e-9)


def test_a_subset_of_patches_is_random_repeatable_and_biased_upwards(photos):
    x = photos["coffee"]
    whole, some = (GRepQLoss("grepq-ll", reduction="none", patches=count) for count in (None, 6))
    torch.manual_seed(0)
    values = torch.stack([some(x) for _ in range(12)])
    torch.manual_seed(0)
    assert torch.equal(some(x), values[0])
    assert len(values.unique()) == 12
    assert values.mean() > whole(x)
    assert torch.equal(GRepQLoss("grepq-ll", patches=10_000)(x), GRepQLoss("grepq-ll")(x))
    assert gradient(some, x).isfinite().all()


def test_mixed_precision(loss, photos):
    x = photos["cat"]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(x)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(x).item(), abs=TOLERANCE[loss.model.pathways])
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(network(x))
    scaler.scale(value).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 65536  # no gradient overflowed
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in network.parameters())


def test_what_overflowed_gives_nan_and_no_error(loss):
    x = torch.full((1, 3, 96, 96), torch.inf, requires_grad=True)
    assert loss(x).isnan()


def test_a_scaler_skips_the_step_where_something_overflowed(loss, photos):
    network = torch.nn.Conv2d(3, 3, 1)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    # At 1e30 features are finite, but not their distance; those of the semantic pathway are bounded, but for infinity.
    for factor in (1e30, torch.inf) if loss.model.pathways == ("low",) else (torch.inf,):
        scaler, before = torch.amp.GradScaler("cpu"), network.weight.detach().clone()
        value = loss(network(photos["cat"][..., :144, :192]) * factor)
        assert value.isnan()
        scaler.scale(value).backward()
        assert network.weight.grad.isnan().any()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(network.weight, before)
        assert scaler.get_scale() == 32768
        optimizer.zero_grad()


def test_another_scale_of_values_is_noticed_in_the_first_call_and_again_and_an_overshoot_is_not(photos, monkeypatch):
    monkeypatch.setattr("grepq_metric.loss.LOOK_EVERY", 2)
    loss, x = GRepQLoss(), photos["stereo"]
    with pytest.warns(UserWarning, match=r"expects values in \[0, 1\], got . to 255: they look like \[0, 255\]"):
        loss((x * 255).round())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(x * 2 - 1)  # the second call, in which nobody looks
    with pytest.warns(UserWarning, match=r"they look like \[-1, 1\]: pass \(x \+ 1\) / 2") as caught:
        loss(x * 2 - 1)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GRepQLoss()(x * 1.6 - 0.3)


def test_a_few_steps_lower_it(loss, photos):
    x = photos["stereo"] + 0.15 * torch.randn(photos["stereo"].shape, generator=torch.Generator().manual_seed(0))
    x = x.requires_grad_()
    first = loss(x).item()
    for _ in range(5):
        (step,) = torch.autograd.grad(loss(x), x)
        x = (x - 0.01 * step / step.abs().mean()).detach().requires_grad_()
    assert loss(x).item() < 0.8 * first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": "max"}, "reduction must be one of mean, sum, none, got 'max'"),
        ({"patches": 0}, "patches must be None or a whole number of at least 1, got 0"),
        ({"patches": 1.5}, "patches must be None or a whole number of at least 1, got 1.5"),
        ({"loss_weight": float("nan")}, "loss_weight must be a finite number, got nan"),
        ({"loss_weight": float("inf")}, "loss_weight must be a finite number, got inf"),
        (
            {"loss_wieght": 1},
            "unknown option 'loss_wieght', expected some of weights, reduction, .* did you mean 'loss_weight'",
        ),
        ({"ridge": float("inf")}, "ridge must be a number"),
        ({"weights": "grepq-xl"}, "unknown weights 'grepq-xl'"),
        ({"weights": 0.1}, "weights must be a name or a folder, got 0.1; the weight of the loss is loss_weight"),
    ],
)
def test_bad_settings_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        GRepQLoss(**arguments)


def test_patches_need_the_low_level_pathway(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="patches=4 needs the low-level pathway"):
        GRepQLoss(tmp_path, pathways=["high"], patches=4)
    with pytest.raises(ValueError, match="patches=4 needs the low-level pathway, which grepq-sem lacks"):
        GRepQLoss(patches=4)
    assert GRepQLoss("grepq-lite", patches=4).patches == 4


def test_bad_images_are_explained(loss):
    with pytest.raises(ValueError, match=r"expected a tensor \(N, 3, H, W\)"):
        loss(torch.rand(3, 96, 96))
    with pytest.raises(ValueError, match="expected floating point values"):
        loss(torch.zeros(1, 3, 96, 96, dtype=torch.uint8))


def test_the_function_takes_a_path_for_a_folder(tmp_path, monkeypatch, model, photos):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    model.save_pretrained("grepq-ll")
    assert grepq(photos["stereo"], weights=Path("grepq-ll")).item() == pytest.approx(model(photos["stereo"]).item(), abs=1e-6)
    assert grepq(photos["stereo"]).item() == pytest.approx(
        GRepQ.from_pretrained(catalog.DEFAULT)(photos["stereo"]).item(), abs=1e-6
    )
