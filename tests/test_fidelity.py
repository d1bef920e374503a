"""Promise: the same weights give the numbers of the method's formulas, evaluated here in plain float64."""

import math

import pytest
import torch
import torch.nn.functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NAMES = ["astronaut", "coffee", "cat", "rocket", "retina", "stereo"]


def batch_norm(x, w, name):
    shape = (1, -1, 1, 1)
    scale = w[f"{name}.weight"] / torch.sqrt(w[f"{name}.running_var"] + 1e-5)
    return (x - w[f"{name}.running_mean"].view(shape)) * scale.view(shape) + w[f"{name}.bias"].view(shape)


def reference_encoder(x, w):
    """ResNet-18 and its head, written from He et al.'s table; `w` is a float64 state dict."""
    x = F.relu(batch_norm(F.conv2d(x, w["backbone.conv1.weight"], stride=2, padding=3), w, "backbone.bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"backbone.layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(batch_norm(F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1), w, f"{name}.bn1"))
            y = batch_norm(F.conv2d(y, w[f"{name}.conv2.weight"], padding=1), w, f"{name}.bn2")
            if f"{name}.downsample.0.weight" in w:
                x = batch_norm(F.conv2d(x, w[f"{name}.downsample.0.weight"], stride=stride), w, f"{name}.downsample.1")
            x = F.relu(x + y)
    x = x.mean((2, 3))
    x = F.relu(x @ w["head.0.weight"].T + w["head.0.bias"])
    return x @ w["head.2.weight"].T + w["head.2.bias"]


def reference_distance(image, w, mean_p, cov_p):
    """NIQE's distance on learned features, patch by patch, with an explicit inverse."""
    _, _, height, width = image.shape
    z = torch.cat(
        [
            reference_encoder(image[..., top : top + 96, left : left + 96], w)
            for top in range(0, height - 95, 48)
            for left in range(0, width - 95, 48)
        ]
    )
    mean = z.mean(0)
    cov = sum(torch.outer(v - mean, v - mean) for v in z) / max(len(z) - 1, 1)
    delta = mean_p - mean
    inverse = torch.linalg.inv((cov_p + cov) / 2 + 0.001 * torch.eye(128, dtype=torch.float64))
    return math.sqrt(delta @ inverse @ delta)


def reference_clip(image, w):
    """CLIP's modified ResNet-50 and its attention pool without positional embedding; `w` is a float64 state dict."""
    x = (image - torch.tensor(CLIP_MEAN).double().view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).double().view(1, 3, 1, 1)
    for i, stride in ((1, 2), (2, 1), (3, 1)):
        x = F.relu(batch_norm(F.conv2d(x, w[f"conv{i}.weight"], stride=stride, padding=1), w, f"bn{i}"))
    x = F.avg_pool2d(x, 2)
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(batch_norm(F.conv2d(x, w[f"{name}.conv1.weight"]), w, f"{name}.bn1"))
            y = F.relu(batch_norm(F.conv2d(y, w[f"{name}.conv2.weight"], padding=1), w, f"{name}.bn2"))
            y = batch_norm(F.conv2d(F.avg_pool2d(y, stride), w[f"{name}.conv3.weight"]), w, f"{name}.bn3")
            if f"{name}.downsample.0.weight" in w:
                shortcut = F.conv2d(F.avg_pool2d(x, stride), w[f"{name}.downsample.0.weight"])
                x = batch_norm(shortcut, w, f"{name}.downsample.1")
            x = F.relu(x + y)
    tokens = x[0].flatten(1).T
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens])
    q, k, v = (tokens @ w[f"attnpool.{p}_proj.weight"].T + w[f"attnpool.{p}_proj.bias"] for p in "qkv")
    heads = []
    for head in range(32):
        part = slice(64 * head, 64 * head + 64)
        attention = torch.softmax(q[0, part] @ k[:, part].T / math.sqrt(64), dim=0)
        heads.append(attention @ v[:, part])
    return torch.cat(heads) @ w["attnpool.c_proj.weight"].T + w["attnpool.c_proj.bias"]


def reference(model, image):
    """All numbers of one image from the formulas, in float64."""
    image = image.double()
    low = {k: v.double() for k, v in model.low.encoder.state_dict().items()}
    high = {k: v.double() for k, v in model.high.visual.state_dict().items()}
    d = reference_distance(image, low, model.low.pristine_mean, model.low.pristine_cov)
    g = reference_clip(image, high)
    good, bad = (F.cosine_similarity(g, t.double(), dim=0).item() for t in model.high.text_features)
    q_low = 1 - 1 / (1 + math.exp(-d / 100))
    q_high = 1 / (1 + math.exp(-10 * (good - bad)))
    features = torch.cat([g, reference_encoder(image, low)[0]])
    return {"distance": d, "low": q_low, "high": q_high, "score": q_low + q_high, "features": features}


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_features_equal_the_formulas(model, photos, name):
    expected = reference(model, photos[name])
    got = model.components(photos[name])
    for part in ("low", "high", "score"):
        assert got[part].shape == (1, 1)
        assert got[part].item() == pytest.approx(expected[part], abs=1e-5), part
    assert got["distance"].item() == pytest.approx(expected["distance"], rel=1e-4)
    assert torch.equal(model(photos[name]), got["score"])
    features = model.features(photos[name])[0].double()
    assert features.shape == (1152,)
    for part in (slice(0, 1024), slice(1024, None)):
        error = (features[part] - expected["features"][part]).norm() / expected["features"][part].norm()
        assert error < 1e-4


def test_the_packaged_weights_equal_the_formulas(photos):
    from grepq_metric import GRepQ

    model = GRepQ.from_pretrained("grepq-ll")
    weights = {k: v.double() for k, v in model.low.encoder.state_dict().items()}
    for name, photo in photos.items():
        d = reference_distance(photo.double(), weights, model.low.pristine_mean, model.low.pristine_cov)
        assert model(photo).item() == pytest.approx(1 - 1 / (1 + math.exp(-d / 100)), abs=1e-5), name
        reference = reference_encoder(photo.double(), weights)[0]
        assert (model.features(photo)[0] - reference).norm() / reference.norm() < 1e-4, name


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
