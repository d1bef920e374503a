"""Promises of training: method.md's distortions, similarities, fragments and loss, and runs that resume bit for bit."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from grepq_metric import GRepQ
from grepq_metric.training.data import RECIPES, ContrastiveDataset, Recipe, list_photos
from grepq_metric.training.distortions import DISTORTIONS, distortion
from grepq_metric.training.losses import quality_aware_contrastive_loss
from grepq_metric.training.low import LowLevelTraining, train_low_level
from grepq_metric.training.pristine import Selection, colourfulness, feature_statistics, sharpness
from grepq_metric.training.similarity import contrastive_weights, pairwise_fsim

SMALL = Recipe(types=("gaussian_blur", "white_noise"), types_per_content=2, levels=(1, 5), grid=2)


@pytest.fixture(scope="module")
def image(photos):
    return (photos["coffee"][0].permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.fixture(scope="module")
def contents(tmp_path_factory, photos):
    from torchvision.utils import save_image

    folder = tmp_path_factory.mktemp("contents")
    for name in ("astronaut", "coffee", "cat", "rocket"):
        save_image(photos[name][..., :128, :144], folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("name", sorted(DISTORTIONS))
def test_each_distortion_grows_with_its_level_and_repeats_with_its_seed(image, name):
    function = DISTORTIONS[name]
    before = image.copy()
    for seed in (1, 2, 3):
        errors = []
        for level in range(1, 6):
            result = function(image, level, seed)
            assert result.shape == image.shape
            assert result.dtype == np.uint8
            assert np.array_equal(result, function(image, level, seed))
            errors.append(np.square(result.astype(float) - image).mean())
        assert errors == sorted(errors)
        assert errors[0] > 0
        assert errors[4] > 2 * errors[0]
    assert np.array_equal(image, before)


def test_distortions_refuse_a_level_that_they_lack(image):
    with pytest.raises(ValueError, match="1 to 5, got 6"):
        DISTORTIONS["jpeg"](image, 6)
    with pytest.raises(ValueError, match="5 strengths, got 2"):
        distortion(1, 2)


def test_the_registry_holds_what_the_recipes_need():
    wanted = {"gaussian_blur", "jpeg", "white_noise", "exposure", "jpeg2000", "saturation", "contrast", "pixelation"}
    assert wanted | {"downsampling", "motion_blur"} <= set(DISTORTIONS)
    assert RECIPES["paper"].versions == RECIPES["broad"].versions == 9
    assert RECIPES["paper"].view_size == 224
    assert set(RECIPES["paper"].types) == {name for name, _ in RECIPES["paper"].distortions_of(5)}
    assert len({name for seed in range(50) for name, _ in RECIPES["broad"].distortions_of(seed)}) == len(DISTORTIONS)


@pytest.mark.parametrize("chromatic", [False, True])
def test_pairwise_fsim_is_pyiqas(image, chromatic):
    from pyiqa.archs.fsim_arch import fsim

    versions = [image, DISTORTIONS["saturation"](image, 3), DISTORTIONS["jpeg"](image, 5), DISTORTIONS["exposure"](image, 4)]
    x = torch.from_numpy(np.stack(versions)).permute(0, 3, 1, 2) / 255
    got = pairwise_fsim(x, chromatic)
    for k in range(4):
        for j in range(4):
            expected = fsim(x[k : k + 1], x[j : j + 1], chromatic=chromatic).item()
            assert got[k, j].item() == pytest.approx(expected, abs=1e-5)


def test_weights_follow_the_formula():
    assert contrastive_weights(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.0, 2 - 2 / 1.25, 1.0])


def reference_loss(z1, z2, a, temperature):
    """The formula with loops, for one content."""
    versions = len(z1)
    e = [
        [math.exp(F.cosine_similarity(z1[k], z2[j], dim=0).item() / temperature) for j in range(versions)]
        for k in range(versions)
    ]
    rows = [-math.log(sum(a[k][j] * e[k][j] for j in range(versions)) / sum(e[k])) for k in range(versions)]
    columns = [
        -math.log(sum(a[k][j] * e[k][j] for k in range(versions)) / sum(e[k][j] for k in range(versions)))
        for j in range(versions)
    ]
    return sum(rows) / versions + sum(columns) / versions


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_the_loss_follows_the_formula(temperature):
    generator = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(2, 3, 9, 128, generator=generator)
    s = torch.rand(3, 9, 9, generator=generator)
    a = contrastive_weights(s)
    expected = sum(reference_loss(z1[i], z2[i], a[i].tolist(), temperature) for i in range(3)) / 3
    assert quality_aware_contrastive_loss(z1, z2, a, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_has_finite_gradients_with_weights_of_zero():
    z1 = torch.randn(1, 3, 8, requires_grad=True)
    loss = quality_aware_contrastive_loss(z1, torch.randn(1, 3, 8), torch.eye(3).unsqueeze(0))
    loss.backward()
    assert z1.grad.isfinite().all()


def test_views_are_fragments_at_the_same_places_of_all_versions(contents, tmp_path):
    dataset = ContrastiveDataset(list_photos([contents]), SMALL, seed=0, cache=tmp_path)
    index = np.broadcast_to(np.arange(128 * 144).reshape(128, 144), (5, 3, 128, 144))
    # 16-bit positions do not fit the 8-bit view: look at the high and the low byte with the same random places.
    halves = [dataset._view((part % 256).astype(np.uint8), np.random.default_rng(7)) for part in (index // 256, index)]
    places = halves[0].astype(int) * 256 + halves[1]
    assert places.shape == (5, 3, 64, 64)
    assert (places == places[0, 0]).all()
    for row in range(2):
        for column in range(2):
            y, x = np.divmod(places[0, 0, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32], 144)
            assert (y == y[0, 0] + np.arange(32)[:, None]).all()
            assert (x == x[0, 0] + np.arange(32)).all()
            assert 64 * row <= y.min()
            assert y.max() < 64 * (row + 1)
            assert 72 * column <= x.min()
            assert x.max() < 72 * (column + 1)


def test_samples_depend_on_their_position_alone_and_similarities_are_cached(contents, tmp_path, monkeypatch):
    first = ContrastiveDataset(list_photos([contents]), SMALL, seed=0, cache=tmp_path)
    samples = [first[i] for i in range(8)]
    assert len(list(tmp_path.glob("*.npy"))) == 4
    monkeypatch.setattr("grepq_metric.training.data.pairwise_fsim", None)
    again = ContrastiveDataset(list_photos([contents]), SMALL, seed=0, cache=tmp_path)
    for i in (5, 0, 7):
        assert all(torch.equal(a, b) for a, b in zip(again[i], samples[i], strict=True))
    views, weights = samples[0]
    assert views.shape == (2, 5, 3, 64, 64)
    assert torch.equal(weights.diagonal(), torch.ones(5))
    assert not torch.equal(views[0], views[1])
    epochs = [[first[4 * e + i][1] for i in range(4)] for e in range(2)]
    assert {w.sum().item() for w in epochs[0]} == {w.sum().item() for w in epochs[1]}


def test_photos_that_can_not_be_used_are_named_before_the_run_starts(contents, tmp_path):
    with pytest.raises(ValueError, match=r"4 of 4 .*224 pixels.*\.png \(144x128\)"):
        train_low_level([contents], tmp_path, LowLevelTraining())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"1 of 5 .*x\.jpg"):
        train_low_level([contents, tmp_path / "bad"], tmp_path, LowLevelTraining(recipe=SMALL))
    with pytest.raises(ValueError, match="stop_after"):
        train_low_level([contents], tmp_path, LowLevelTraining(recipe=SMALL), stop_after=0)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_a_new_log(contents, tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "log.jsonl").write_text('{"step": 1, "loss": 9}\n{"step": 2, "lo')
    train_low_level([contents], tmp_path, LowLevelTraining(recipe=SMALL, batch=2, steps=2), workers=0)
    assert [json.loads(line)["step"] for line in (tmp_path / "training" / "log.jsonl").open()] == [1, 2]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_resumed_run_is_the_same_bit_for_bit(contents, tmp_path, precision):
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=6, precision=precision)
    options = {"workers": 0, "cache": tmp_path / "cache", "checkpoint_every": 2}
    whole, finished = train_low_level([contents], tmp_path / "whole", training, **options)
    assert finished
    _, finished = train_low_level([contents], tmp_path / "parts", training, stop_after=3, **options)
    assert not finished
    parts, finished = train_low_level([contents], tmp_path / "parts", training, resume=True, **options)
    assert finished
    for key, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[key]), key
    logs = [
        [(e["step"], e["loss"], e["lr"]) for e in map(json.loads, (tmp_path / d / "training/log.jsonl").open())]
        for d in ("whole", "parts")
    ]
    assert logs[0] == logs[1]
    assert [step for step, _, _ in logs[0]] == [1, 2, 3, 4, 5, 6]
    assert logs[0][0][2] == 1e-4
    assert logs[0][3][2] == pytest.approx((1e-4 + 1e-6) / 2)


def test_training_lowers_the_loss(contents, tmp_path):
    training = LowLevelTraining(recipe=SMALL, batch=4, steps=25, lr=5e-4)
    train_low_level([contents], tmp_path, training, workers=0)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "training/log.jsonl").open()]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_run_is_not_continued_by_accident_nor_with_other_settings(contents, tmp_path):
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=1)
    train_low_level([contents], tmp_path, training, workers=0)
    with pytest.raises(FileExistsError, match="--resume"):
        train_low_level([contents], tmp_path, training, workers=0)
    with pytest.raises(ValueError, match=r"'lr': 0\.0001"):
        train_low_level(
            [contents], tmp_path, LowLevelTraining(recipe=SMALL, batch=2, steps=1, lr=1e-3), resume=True, workers=0
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(types=("fog",)), "fog"),
        (lambda: Recipe(types_per_content=5), "1 to 4, got 5"),
        (lambda: Recipe(levels=(0, 2)), "levels"),
        (lambda: Recipe(levels_per_type=3), "1 to 2, got 3"),
        (lambda: Recipe(grid=0), "grid"),
        (lambda: LowLevelTraining(precision="int8"), "int8"),
        (lambda: LowLevelTraining(lr=0), "lr"),
        (lambda: LowLevelTraining(steps=0), "steps"),
        (lambda: Selection(sharpness=1), "sharpness"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sharpness_and_colourfulness_follow_the_formulas(photos):
    patches = photos["coffee"].unfold(2, 96, 96).unfold(3, 96, 96).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)[:3]
    taps = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
    window = torch.from_numpy(np.outer(taps, taps) / taps.sum() ** 2).view(1, 1, 7, 7)
    grey = (patches.double() * torch.tensor([0.2989, 0.587, 0.114]).double().view(1, 3, 1, 1)).sum(1, keepdim=True)
    padded = F.pad(grey, (3, 3, 3, 3), mode="reflect")
    std = (F.conv2d(padded**2, window) - F.conv2d(padded, window) ** 2).clamp_min(0).sqrt()
    assert torch.allclose(sharpness(patches), std.sum((1, 2, 3)), rtol=1e-3)
    r, g, b = patches.double().numpy().transpose(1, 0, 2, 3)
    rg, yb = abs(r - g), abs(0.5 * (r + g) - b)
    axes = (1, 2)
    expected = np.sqrt(rg.std(axes) ** 2 + yb.std(axes) ** 2) + np.sqrt(rg.mean(axes) ** 2 + yb.mean(axes) ** 2)
    assert np.allclose(colourfulness(patches), expected)


def test_selection_keeps_sharp_then_colourful_patches(photos):
    import torchvision.transforms.v2.functional as TF

    photo = photos["coffee"][0, :, :96, :96]
    blurred, grey = TF.gaussian_blur(photo, 15), TF.rgb_to_grayscale(photo, 3)
    row = torch.cat([photo, blurred, grey, photo[:, :, :20]], dim=2)
    assert torch.equal(Selection()(row), photo.unsqueeze(0))
    assert len(Selection(sharpness=0, colourfulness=0)(row)) >= 2
    assert len(Selection()(photo[:, :50])) == 0
    assert len(Selection()(grey)) == 0


def test_statistics_are_the_unbiased_ones(model, photos):
    patches = photos["cat"].unfold(2, 96, 64).unfold(3, 96, 64).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    with torch.inference_mode():
        z = model.low.encoder(patches).double().numpy()
    mean, cov, count = feature_statistics(model.low.encoder, [patches[:5], patches[5:5], patches[5:]], chunk_size=3)
    assert count == len(patches)
    assert np.allclose(mean, z.mean(0), rtol=1e-4, atol=1e-6)
    assert np.allclose(cov, np.cov(z.T, ddof=1), rtol=1e-3, atol=1e-6)
    with pytest.warns(UserWarning, match="3 pristine patches for 128"):
        feature_statistics(model.low.encoder, [patches[:3]])
    with pytest.raises(ValueError, match="at least 2 patches"):
        feature_statistics(model.low.encoder, [patches[:1]])


def test_the_command_line_makes_weights_that_score(contents, photo_folder, tmp_path, photos):
    out = tmp_path / "mine"
    base = [sys.executable, "-c", "from grepq_metric.cli import main; main()"]
    train = ["train", "low", "--photos", contents, "--out", out, "--types", "gaussian_blur,jpeg,white_noise,exposure"]
    train += ["--grid", "2", "--steps", "3", "--batch", "2", "--workers", "1"]
    for extra, said in ((["--stop-after", "2"], "stopped after step 2"), (["--resume"], "mine-")):
        result = subprocess.run([*base, *map(str, train), *extra], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert said in result.stdout
    model = GRepQ.from_pretrained(out)
    assert model.provenance["steps"] == 3
    assert model.provenance["pristine"]["photos"] == 4
    assert 0 < model(photos["cat"]).item() < 0.5
    run = json.loads((out / "training/run.json").read_text())
    assert run["seed"] == 0
    assert run["recipe"]["grid"] == 2
    command = ["pristine", "--photos", photo_folder, "--weights", out, "--sharpness", "0.5", "--colourfulness", "0.5"]
    result = subprocess.run([*base, *map(str, command)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    again = GRepQ.from_pretrained(out)
    assert again.weights_id != model.weights_id
    assert again.weights_id in (out / "README.md").read_text()
    assert again.provenance["pristine"]["sharpness"] == 0.5
    assert again.provenance["pristine"]["patches"] > model.provenance["pristine"]["patches"]
