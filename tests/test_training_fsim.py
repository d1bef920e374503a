"""Promise: similarities are FSIM and FSIMc, equal to pyiqa's to 1e-6 in float32, and need no pyiqa."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from grepq_metric.training.distortions import DISTORTIONS
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.similarity import pairwise_fsim, phase_congruency
from grepq_metric.training.views import ContrastiveDataset
from tests.test_training import SMALL, contents  # noqa: F401

KINDS = (("jpeg", 5), ("saturation", 3), ("exposure", 4), ("gaussian_blur", 2), ("white_noise", 5), ("lost_blocks", 3))


@pytest.mark.parametrize("chromatic", [False, True])
@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("coffee", 256, 256), ("cat", 211, 133), ("astronaut", 97, 260), ("retina", 200, 319), ("stereo", 96, 96)],
)
def test_fsim_is_pyiqas(photos, name, height, width, chromatic):
    fsim = pytest.importorskip("pyiqa.archs.fsim_arch").fsim
    image = (photos[name][0, :, :height, :width].permute(1, 2, 0) * 255).round().byte().numpy()
    versions = [image, *(DISTORTIONS[kind](image, level) for kind, level in KINDS)]
    x = torch.from_numpy(np.stack(versions)).permute(0, 3, 1, 2) / 255
    got = pairwise_fsim(x, chromatic)
    for k in range(len(x)):
        expected = fsim(x[k : k + 1].expand_as(x), x, chromatic=chromatic)
        expected[k] = 1
        assert torch.allclose(got[k], expected, rtol=0, atol=1e-6)


def test_a_photo_of_more_than_512_pixels_is_halved_first(photos):
    fsim = pytest.importorskip("pyiqa.archs.fsim_arch").fsim
    x = torch.nn.functional.interpolate(photos["coffee"], (515, 641), mode="bilinear")
    x = torch.cat([x, x.square()])
    assert pairwise_fsim(x, True)[0, 1].item() == pytest.approx(fsim(x[:1], x[1:], chromatic=True).item(), abs=1e-6)


def test_phase_congruency_marks_edges_whatever_their_contrast(photos):
    grey = 255 * photos["cat"].mean(1, keepdim=True)[..., :200, :200]
    strong, faint = phase_congruency(grey), phase_congruency(40 + 0.25 * grey)
    assert torch.allclose(faint, strong, atol=1e-3)
    assert 0 <= strong.min() <= strong.max() <= 1
    slope = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]).abs()
    edges = slope > slope.quantile(0.98)
    assert strong[..., 1:-1, 1:-1][edges].mean() > 1.4 * strong.median()


def test_training_imports_no_pyiqa():
    script = """if True:
        import sys
        sys.modules["pyiqa"] = None
        import grepq_metric.training
        from grepq_metric.training import train_high, train_low
    """
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "zip", "shape", "nan"])
def test_damaged_similarities_in_the_cache_are_made_anew(contents, tmp_path, damage):  # noqa: F811
    dataset = ContrastiveDataset(PhotoList(contents), SMALL, seed=0, cache=tmp_path)
    before = dataset[0].tensors
    (path,) = tmp_path.glob("*.npy")
    whole = path.read_bytes()
    if damage in ("shape", "nan"):
        np.save(path, np.ones((2, 2), np.float32) if damage == "shape" else np.full((5, 5), np.nan, np.float32))
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-7], "garbage": b"x" * 500, "zip": b"PK\x03\x04" + b"0" * 99}[damage])
    after = dataset[0]
    assert after.error is None
    assert all(torch.equal(a, b) for a, b in zip(after.tensors, before, strict=True))
    assert path.read_bytes() == whole
