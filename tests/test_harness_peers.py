"""Promises of the harness's deep peers: authors' checkpoints that run no code, their features, and pyiqa's LIQE and AHIQ."""

import hashlib
import os
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet50
from torchvision.transforms import Normalize, ToTensor

from benchmarks.__main__ import main
from benchmarks.harness import resnets
from benchmarks.harness.datasets import open_dataset
from benchmarks.harness.metrics import UnavailableError, open_metric
from benchmarks.harness.report.collect import collect
from benchmarks.harness.runner import run, stored_rows
from grepq_metric.training.distributed import World
from tests.harness_data import rate, write_csv

IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def rated(tmp_path_factory, photos):
    return rate(tmp_path_factory.mktemp("rated"), photos)


@pytest.fixture(scope="module")
def network():
    """A ResNet-50 of random values, also of the statistics of its normalisations, without the classifier."""
    generator = torch.Generator().manual_seed(0)
    network = resnet50()
    network.fc = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1, generator=generator)
            nn.init.normal_(module.running_mean, 0, 0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory, network):
    """The authors' files by name, in their layouts."""
    folder = tmp_path_factory.mktemp("authors")
    encoder = nn.Sequential(*list(network.children())[:-2])
    projector = {"projector.0.weight": torch.rand(8, 8), "projector.1.running_var": torch.rand(8)}
    contrique = {f"encoder.{key}": value for key, value in encoder.state_dict().items()} | projector
    torch.save(contrique, folder / "CONTRIQUE_checkpoint25.tar")
    turned = {key: -value if key == "conv1.weight" else value for key, value in network.state_dict().items()}
    for name, state in (("content_aware_r50.pth", network.state_dict()), ("quality_aware_r50.pth", turned)):
        model = {f"module.encoder.{key}": value for key, value in state.items()} | {"module.head.0.bias": torch.rand(8)}
        optimizer = {"state": {0: {"momentum_buffer": torch.rand(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
        torch.save({"model": model, "contrast": {"memory": torch.rand(4)}, "optimizer": optimizer, "epoch": 25}, folder / name)
    return {checkpoint.file: folder / checkpoint.file for checkpoint in resnets.CHECKPOINTS.values()}


@pytest.fixture(scope="module")
def converted(files):
    """Specs of both metrics, with files that ``convert-peer`` has written."""
    paths = {}
    for peer, checkpoint in resnets.CHECKPOINTS.items():
        source = files[checkpoint.file]
        paths[peer] = source.with_name(f"{peer}.safetensors")
        assert main(["convert-peer", peer, str(source), "--out", str(paths[peer])]) == 0
    return {
        "contrique": f"contrique:weights={paths['contrique']}",
        "reiqa": f"reiqa:content={paths['reiqa-content']},quality={paths['reiqa-quality']}",
    }


def two_scales(path):
    """A photo and half of it, by torchvision and Pillow alone."""
    photo = Image.open(path).convert("RGB")
    return [ToTensor()(some)[None] for some in (photo, photo.resize((photo.width // 2, photo.height // 2)))]


def test_features_are_those_of_the_authors_description(rated, network, converted):
    path = rated / "3_1.png"
    photo, half = two_scales(path)
    image = open_dataset(str(rated), rated).record.load(path)[None]
    assert torch.equal(image, photo)
    assert torch.equal(resnets.halved(image), half)
    maps = nn.Sequential(*list(network.children())[:-2])
    unit = [(m := maps(x).mean((2, 3))) / m.norm() for x in (photo, half)]
    found = open_metric(converted["contrique"]).features(image)
    assert found.shape == (4096,)
    np.testing.assert_allclose(found, torch.cat(unit, 1)[0], atol=1e-6)
    content = [network(IMAGENET(x))[0] for x in (photo, half)]
    network.conv1.weight.data.neg_()
    try:
        quality = [network(x)[0] for x in (photo, half)]
    finally:
        network.conv1.weight.data.neg_()
    found = open_metric(converted["reiqa"]).features(image)
    assert found.shape == (8192,)
    np.testing.assert_allclose(found, torch.cat(content + quality), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="sides of 2 pixels or more, got 40x1"):
        open_metric(converted["contrique"]).features(image[..., :1, :40])


def test_an_id_follows_the_weights_and_says_whose_file_they_are(files, converted, tmp_path):
    metric = open_metric(converted["contrique"])
    assert metric.id == open_metric(converted["contrique"]).id
    source = files["CONTRIQUE_checkpoint25.tar"]
    assert metric.provenance["authors_sha256"] == {"weights": hashlib.sha256(source.read_bytes()).hexdigest()}
    state = torch.load(source, weights_only=True)
    state["encoder.7.2.conv3.weight"] = state["encoder.7.2.conv3.weight"].clone()
    state["encoder.7.2.conv3.weight"][0, 0] += 0.01
    torch.save(state, tmp_path / "other.tar")
    assert main(["convert-peer", "contrique", str(tmp_path / "other.tar"), "--out", str(tmp_path / "other.safetensors")]) == 0
    assert open_metric(f"contrique:weights={tmp_path / 'other.safetensors'}").id != metric.id


def test_few_labels_and_full_take_the_features(rated, converted, tmp_path, capsys):
    command = ["run", "--dataset", str(rated), "--metrics", converted["contrique"], "--results", str(tmp_path)]
    assert main([*command, "--protocol", "few-labels", "full", "--draws", "2"]) == 0
    rows = {row.protocol: row for row in collect(tmp_path).rows}
    assert rows["few-labels"].name == "contrique"
    assert rows["few-labels"].labels == 50
    assert all(np.isfinite(row.figures["srcc"]) for row in rows.values())
    assert main(command) == 1
    assert "has features and no score" in capsys.readouterr().err


def test_without_weights_it_is_said_where_they_are_and_what_to_run(rated, tmp_path, capsys):
    with pytest.raises(UnavailableError, match=r"CONTRIQUE_checkpoint25\.tar from https://github\.com/pavancm/CONTRIQUE"):
        open_metric("contrique")
    with pytest.raises(UnavailableError, match=r"convert-peer reiqa-quality .* ask for reiqa:content=.*,quality="):
        open_metric("reiqa:content=x.safetensors")
    with pytest.raises(ValueError, match="unknown option 'file' of contrique, expected weights"):
        open_metric("contrique:file=x")
    with pytest.raises(FileNotFoundError, match="no such file: absent"):
        open_metric("contrique:weights=absent.safetensors")
    command = ["run", "--dataset", str(rated), "--results", str(tmp_path), "--metrics", "contrique", "psnr"]
    assert main(command) == 1
    assert "skipped: contrique needs its authors' weights" in capsys.readouterr().err


class Code:
    """What a pickle could do when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_authors_files_run_no_code_and_wrong_ones_are_refused(files, converted, tmp_path, capsys):
    def refused(source, peer="contrique", out="out.safetensors"):
        assert main(["convert-peer", peer, str(source), "--out", str(tmp_path / out)]) == 2
        assert not (tmp_path / out).exists()
        return capsys.readouterr().err

    torch.save({"encoder.0.weight": Code(tmp_path / "ran")}, tmp_path / "evil.tar")
    assert "holds more than tensors, and is not loaded" in refused(tmp_path / "evil.tar")
    assert not (tmp_path / "ran").exists()
    contrique = files["CONTRIQUE_checkpoint25.tar"]
    state = torch.load(contrique, weights_only=True)
    torch.save({**state, "encoder.4.0.conv1.weight": torch.rand(64, 32, 1, 1)}, tmp_path / "shape.tar")
    assert "1 of another shape (layer1.0.conv1.weight)" in refused(tmp_path / "shape.tar")
    del state["encoder.7.2.bn3.bias"]
    torch.save(state, tmp_path / "part.tar")
    assert "1 missing (layer4.2.bn3.bias)" in refused(tmp_path / "part.tar")
    torch.save({"model": 3, "encoder.0.weight": 5}, tmp_path / "odd.tar")
    assert "1 entries that are no tensors" in refused(tmp_path / "odd.tar")
    assert "no tensor named module.encoder.*: expected content_aware_r50.pth" in refused(contrique, "reiqa-content")
    assert "no such file" in refused(tmp_path / "absent.tar")
    assert "ends in .safetensors to write to, got 'out.pth'" in refused(contrique, out="out.pth")
    with pytest.raises(UnavailableError, match="was not written by `python -m benchmarks convert-peer contrique`"):
        open_metric(f"contrique:weights={contrique}")
    content = converted["reiqa"].partition("content=")[2].partition(",")[0]
    with pytest.raises(UnavailableError, match="holds the encoder 'reiqa-content', expected 'reiqa-quality'"):
        open_metric(f"reiqa:content={content},quality={content}")
    (tmp_path / "cut.safetensors").write_bytes(b"short")
    with pytest.raises(UnavailableError, match="is damaged"):
        open_metric(f"contrique:weights={tmp_path / 'cut.safetensors'}")


@pytest.fixture
def light(tmp_path, photos):
    """A folder with a photo of 224 pixels, and a lighter version of it twice."""
    crop = (photos["coffee"][0, :, :224, :224].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(crop).save(tmp_path / "clean.png")
    for name in ("light.png", "again.png"):
        Image.fromarray(255 - (255 - crop) // 2).save(tmp_path / name)
    return tmp_path


def scored(rows, metric, folder):
    """What a metric says of images, their scores and references."""
    dataset = open_dataset(str(write_csv(folder / "labels.csv", ["image", "mos", "reference"], rows)), folder)
    outcome = run(dataset, metric, "zero-shot", folder / "results", World())
    return {name.rpartition("/")[2]: row for name, row in stored_rows(outcome.path.parent, "zero-shot").items()}


NEEDED_BY_LIQE = "pyiqa's LIQE imports pkg_resources, which setuptools has up to 80 (group peers)"


def test_ahiq_of_pyiqa_compares_photos_with_their_references(light, monkeypatch):
    import timm

    create = timm.create_model

    def untrained(name, pretrained):
        assert pretrained
        # AHIQ reads five blocks of the transformer: the others, and wide ones, would only take time.
        return create(name, pretrained=False, **({"depth": 5, "mlp_ratio": 0.25} if name.startswith("vit") else {}))

    monkeypatch.setattr(timm, "create_model", untrained)
    torch.manual_seed(0)
    metric = open_metric("ahiq:pretrained=false,num_crop=1")  # of photos that are as large as its crops
    assert (metric.mode, metric.lower_better) == ("FR", False)
    found = scored([["light.png", 1, "clean.png"], ["again.png", 2, "again.png"]], metric, light)
    assert not any(row.error for row in found.values())
    assert found["light.png"].value != pytest.approx(found["again.png"].value, abs=1e-5)


def test_liqe_of_pyiqa_rates_photos_of_224_pixels_and_says_of_others_why_not(rated, light, monkeypatch):
    pytest.importorskip("pkg_resources", reason=NEEDED_BY_LIQE)
    from pyiqa.archs import clip_model, liqe_arch

    torch.manual_seed(0)
    monkeypatch.setattr(liqe_arch, "load", lambda *_: clip_model.CLIP(64, 224, 1, 64, 32, 77, 49408, 64, 1, 1))
    monkeypatch.setattr(liqe_arch, "DEFAULT_CACHE_DIR", str(light))  # where it keeps what its prompts mean
    metric = open_metric("liqe:pretrained=false")
    assert (metric.mode, metric.lower_better) == ("NR", False)
    found = scored([["clean.png", 2, ""], ["light.png", 1, ""], [str(rated / "0_1.png"), 1, ""]], metric, light)
    assert 1 <= found["clean.png"].value <= 5
    assert found["clean.png"].value != found["light.png"].value
    assert "Short side is less than 224" in found["0_1.png"].error


@pytest.mark.parametrize("name", ["liqe", "ahiq"])
def test_a_download_that_fails_is_said(name, monkeypatch):
    pytest.importorskip("pkg_resources", reason=NEEDED_BY_LIQE)
    import timm
    from pyiqa.archs import liqe_arch

    def offline(*_, **__):
        raise URLError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(liqe_arch, "load", offline)
    with pytest.raises(UnavailableError, match=f"pyiqa cannot create '{name}': URLError: .*Network is unreachable"):
        open_metric(name)
