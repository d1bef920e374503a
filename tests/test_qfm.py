"""Promises of QFM-IQM, our reading: the contracts of GRepQ, small weights folders, any network of timm."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

import grepq_metric
from grepq_metric import QFMIQM, GRepQ, GRepQLoss, GRepQRegressor, InputError, Scorer, WeightsError, load_model
from grepq_metric.pathways import DecoderConfig, DecoderPathway
from tests.command import grepq
from tests.conftest import randomise

TAG = "grepq-sem.9dee7f58"
SMALL = {"architecture": "tf_efficientnet_lite2", "stages": 5, "width": 16, "heads": 2, "queries": 3, "members": 2}


def made(**options):
    """A model with the backbone of grepq-sem and a random decoder."""
    model = QFMIQM(decoder=SMALL, backbone=TAG, labels=(1.0, 5.0), name="made", **options).requires_grad_(False)
    model.decoder.backbone.load_state_dict(GRepQ.from_pretrained("grepq-sem").semantic.backbone.state_dict())
    randomise(model.decoder.decoders, 3)
    model.decoder.mean.normal_(generator=torch.Generator().manual_seed(1))
    for decoder in model.decoder.members():
        decoder.head.weight.mul_(3)
    return model


@pytest.fixture(scope="module")
def qfm():
    return made()


@pytest.fixture(scope="module")
def folder(qfm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qfm") / "made"
    qfm.save_pretrained(folder)
    return folder


def test_scores_lie_in_their_range_and_differ(qfm, photos):
    scores = torch.cat([qfm(x) for x in photos.values()])
    assert scores.shape == (len(photos), 1)
    assert bool(((scores > 0) & (scores < 1)).all())
    assert scores.unique().numel() == len(photos)


def test_a_score_is_the_decoders_logit_of_standardised_tokens(qfm, photos):
    x, pathway = photos["coffee"], qfm.decoder
    maps = [m.double() for m in qfm.decoder.maps(x)]
    rows, columns = maps[-1].shape[-2:]
    cells = []
    for i in range(rows):
        for j in range(columns):
            token = []
            for m in maps[:-1]:
                h, w = m.shape[-2:]
                part = m[0, :, i * h // rows : -(-(i + 1) * h // rows), j * w // columns : -(-(j + 1) * w // columns)]
                token += [part.mean((1, 2)), part.var((1, 2), correction=0).clamp_min(1e-10).sqrt()]
            cells.append(torch.cat([*token, maps[-1][0, :, i, j]]))
    tokens = torch.stack(cells)
    torch.testing.assert_close(qfm.decoder.tokens(x)[0].flatten(1).T.double(), tokens, atol=2e-3, rtol=1e-3)
    z, logits = ((tokens - pathway.mean) / pathway.scale).clamp(-8, 8).float(), []
    for decoder in pathway.members():
        memory = decoder.norm(decoder.embed(z))
        found = decoder.last_norm(decoder.layer(decoder.queries[None], memory[None]))
        logits.append(decoder.head(found).mean())
    assert qfm(x).item() == pytest.approx(torch.sigmoid(torch.stack(logits).mean()).item(), abs=1e-4)


def test_the_order_of_tokens_does_not_matter(qfm, photos):
    tokens = qfm.decoder.tokens(photos["cat"]).flatten(2).mT
    shuffled = tokens[:, torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(qfm.decoder.logits(tokens), qfm.decoder.logits(shuffled))


def test_mos_has_the_scale_of_the_labels(qfm, photos):
    x = photos["astronaut"]
    assert qfm.mos(x).item() == pytest.approx(1 + 4 * qfm(x).item())


def test_components_and_features(qfm, photos):
    x = photos["rocket"]
    assert set(qfm.components(x)) == {"score", "decoder"}
    torch.testing.assert_close(qfm.components(x)["decoder"], qfm(x))
    features = qfm.features(x)
    assert features.shape == (1, 32)
    assert qfm.feature_blocks() == (16, 16)
    heads = [decoder.head(own) for decoder, own in zip(qfm.decoder.members(), features.chunk(2, 1), strict=True)]
    torch.testing.assert_close(torch.stack(heads).mean(0).sigmoid(), qfm(x))
    torch.testing.assert_close(qfm.features(x, "score"), qfm(x))
    with pytest.raises(InputError, match="no semantic pathway"):
        qfm.features(x, "semantic")


def test_a_window_of_the_map_is_an_image_of_its_cells(qfm, photos):
    x = photos["retina"]
    found = qfm.quality_map(x)[0, 0]
    tokens = qfm.decoder.tokens(x)[0]
    assert found.shape == tokens.shape[1:]
    assert qfm.cell == 32
    for i, j in ((0, 0), (2, 3)):
        part = tokens[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].flatten(1).T
        assert found[i, j].item() == pytest.approx(qfm.decoder.logits(part[None]).sigmoid().item(), abs=1e-5)


def test_a_folder_holds_no_backbone_that_has_a_tag(qfm, folder, photos):
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert all(not key.startswith("decoder.backbone.") for key in file.keys())  # noqa: SIM118
    again = QFMIQM.from_pretrained(folder)
    assert again.weights_id == qfm.weights_id
    assert again.labels == (1.0, 5.0)
    torch.testing.assert_close(again(photos["cat"]), qfm(photos["cat"]))
    text = (folder / "README.md").read_text()
    assert "our reading" in text
    assert "QFMIQM.from_pretrained" in text


def test_a_backbone_that_is_no_longer_the_tags_is_not_lost(tmp_path):
    model = made()
    model.decoder.backbone.conv_stem.weight.mul_(1.01)
    with pytest.raises(WeightsError, match="no longer that of grepq-sem"):
        model.save_pretrained(tmp_path / "a")
    model.backbone = None
    model.save_pretrained(tmp_path / "b")
    assert QFMIQM.from_pretrained(tmp_path / "b").weights_id == model.weights_id


def test_a_tag_that_this_release_lacks_is_named(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((folder / name).read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "backbone": "grepq-sem.00000000"}))
    with pytest.raises(WeightsError, match=r"no backbone 'grepq-sem.00000000', expected one of .*grepq-sem"):
        load_model(other)


def test_weights_become_the_model_that_they_are_of(folder):
    assert type(load_model(folder)) is QFMIQM
    assert type(load_model("grepq-ll")) is GRepQ
    with pytest.raises(InputError, match="load_model"):
        GRepQ.from_pretrained(folder)
    with pytest.raises(InputError, match="load_model"):
        QFMIQM.from_pretrained("grepq-ll")
    with pytest.raises(InputError, match=r"unknown option 'speed', expected some of pathways, precision, resolution"):
        load_model(folder, speed="dense")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": (1, 1)}, "least and the greatest"),
        ({"labels": 3}, "least and the greatest"),
        ({"pathways": ["low"]}, "must be"),
        ({"backbone": "grepq-sem"}, "must be the tag"),
        ({"backbone": "grepq-ll.8690ed2c"}, "must be the tag"),
        ({"decoder": {"width": 3}}, "decoder must be like"),
        ({"decoder": {**SMALL, "heads": 3}}, "heads must divide the width, 16, got 3"),
        ({"decoder": {**SMALL, "stages": 6}}, "stages must be 5 at most"),
        ({"decoder": {**SMALL, "architecture": "resnet"}}, "architecture must be one of"),
        ({"decoder": {**SMALL, "architecture": "timm/no_such_network"}}, "timm has no network"),
        ({"resolution": 50}, "resolution must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        QFMIQM(**arguments)


def test_without_weights_there_is_no_score(photos):
    with pytest.raises(InputError, match="no weights"):
        QFMIQM(decoder=SMALL)(photos["cat"])


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
def test_any_network_of_timm(name, photos, tmp_path):
    config = DecoderConfig(f"timm/{name}", 3, 16, 2, 2)
    model = QFMIQM(decoder=config, name="timms").requires_grad_(False)
    randomise(model.decoder, 5)
    for size in ((96, 96), (130, 101)):
        x = photos["coffee"][..., : size[0], : size[1]]
        assert 0 < model(x).item() < 1
        assert model.quality_map(x).shape[-1] == -(-size[1] // model.cell)
    model.save_pretrained(tmp_path / "timms")
    again = load_model(tmp_path / "timms")
    torch.testing.assert_close(again(photos["cat"]), model(photos["cat"]))
    assert again.weights_id == model.weights_id


def test_a_heads_features_and_the_loss(folder, photos):
    images = [photo[0] for photo in photos.values()]
    regressor = GRepQRegressor(folder).fit(images, np.arange(len(images), dtype=float))
    assert regressor.predict(images).shape == (len(images),)
    loss = GRepQLoss(folder)
    x = photos["stereo"].clone().requires_grad_()
    value = loss(x)
    value.backward()
    assert value.item() == pytest.approx(1 - loss.model(x).item(), abs=1e-6)
    assert bool((x.grad != 0).any())
    with pytest.raises(InputError, match="low-level"):
        GRepQLoss(folder, patches=4)


def test_scorer_and_command_line(folder, photo_folder, tmp_path):
    row = Scorer(folder)({"path": [str(photo_folder / "cat.png")]})
    assert 0 < row["score"][0] < 1
    assert row["low"] == [None]
    assert row["weights_id"][0].startswith("made-")
    grepq("score", photo_folder / "cat.png", "--weights", folder, "--map", tmp_path / "maps", "-o", tmp_path / "s.csv")
    assert (tmp_path / "maps").is_dir()
    assert len(list((tmp_path / "maps").iterdir())) == 1
    assert "made-" in grepq("info", folder).stdout


def test_bf16_and_lower_resolutions_are_modes(folder, photos):
    exact, half = load_model(folder), load_model(folder, precision="bf16")
    assert half.weights_id == f"{exact.weights_id}+bf16"
    assert half(photos["cat"]).item() == pytest.approx(exact(photos["cat"]).item(), abs=0.02)
    assert load_model(folder, resolution=128).weights_id == f"{exact.weights_id}+128px"


def test_public_names():
    assert grepq_metric.QFMIQM is QFMIQM
    assert grepq_metric.load_model is load_model
    assert DecoderPathway.name == "decoder"
