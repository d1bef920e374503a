"""Promises of the high-level training: method.md's groups and loss, an untouched text tower, runs that resume bit for bit."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from grepq_metric import GRepQ
from grepq_metric.pathways import HighLevelConfig, HighLevelPathway, ImageTower, image_tower_of, prompt_features
from grepq_metric.training.high import (
    HighLevelTraining,
    _warm_up,
    high_level_weights,
    pseudo_scores,
    train_tower,
)
from grepq_metric.training.losses import extreme_groups, group_contrastive_loss
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.settings import RunOptions
from tests.conftest import TINY

SMALL = HighLevelTraining(batch=6, group=2, crop=96, steps=4, lr=1e-3, warmup_epochs=0, precision="fp32", chunk=4)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Numbers are compared with those of the CPU, also where there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def list_of_photos(photo_folder):
    return PhotoList([photo_folder])


def reference_gcl(low, high, temperature):
    """The formula of method.md, section 5, with loops and in float64."""

    def cosine(a, b):
        return (a @ b / (a.norm() * b.norm())).item()

    losses = []
    for own, other in ((low.double(), high.double()), (high.double(), low.double())):
        for i in range(len(own)):
            p = sum(cosine(own[i], own[j]) for j in range(len(own)) if j != i) / (len(own) - 1)
            positive = math.exp(p / temperature)
            negative = sum(math.exp(cosine(own[i], z) / temperature) for z in other)
            losses.append(-math.log(positive / (positive + negative)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.5, 0.07])
def test_the_loss_follows_the_formula(temperature):
    z = torch.randn(2, 4, 128, generator=torch.Generator().manual_seed(0)).relu()
    assert group_contrastive_loss(z, temperature).item() == pytest.approx(reference_gcl(*z, temperature), rel=1e-5)


def test_the_groups_are_the_extremes_of_the_batch():
    quality = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6])
    low, high = extreme_groups(quality, 3)
    assert low.tolist() == [1, 5, 3]
    assert high.tolist() == [4, 6, 2]
    with pytest.raises(ValueError, match="8 or more, got 7"):
        extreme_groups(quality[:7], 4)


def test_one_step_on_rn50_is_the_step_of_the_formulas(list_of_photos, clip_state, tmp_path):
    """Ranking, groups, projection, loss and gradient of the real shape, against float64 and the whole batch at once."""
    tensors = {k: v for k, v in clip_state.items() if k.startswith("visual.") and "positional" not in k}
    tensors["text_features"] = prompt_features(clip_state)
    training = HighLevelTraining(batch=6, group=2, crop=96, steps=1, lr=1e-3, warmup_epochs=0, precision="fp32", chunk=4)
    trained, run = train_tower(list_of_photos, tensors, tmp_path, training, workers=0)
    assert run.finished
    entry = json.loads((tmp_path / "training/log.jsonl").read_text())

    double = HighLevelPathway()
    double.load_state_dict(tensors)
    double.double().eval()
    # The photos in the order of the run, cropped by hand.
    from grepq_metric.training.high import CropDataset

    dataset = CropDataset(list_of_photos, 96, training.seed)
    crops = torch.stack([dataset[i].tensors[0] for i in range(6)])
    embedding = double(crops.double() / 255)
    n = F.normalize(embedding, dim=-1)
    good, bad = (n @ double.text_features.double().T).unbind(-1)
    quality = torch.sigmoid(10 * (good - bad))
    order = quality.argsort()
    torch.manual_seed(training.seed)
    projection = torch.nn.Linear(1024, 128).double()
    z = projection(embedding).relu()
    assert entry["loss"] == pytest.approx(reference_gcl(z[order[:2]], z[order[-2:]], 0.5), rel=1e-4)
    assert entry["quality_poor"] == pytest.approx(quality[order[:2]].mean().item(), rel=1e-4)
    assert entry["quality_good"] == pytest.approx(quality[order[-2:]].mean().item(), rel=1e-4)

    # Adam's first step is lr times the sign of the gradient: compare signs where the gradient is not tiny.
    loss = group_contrastive_loss(torch.stack([z[order[:2]], z[order[-2:]]]))
    weight = double.visual.layer4[2].conv3.weight
    (gradient,) = torch.autograd.grad(loss, weight)
    moved = trained.visual.layer4[2].conv3.weight.detach() - tensors["visual.layer4.2.conv3.weight"]
    clear = gradient.abs() > gradient.abs().quantile(0.5) if gradient.numel() < 1e6 else gradient.abs() > gradient.abs().mean()
    assert (moved.sign() == -gradient.sign())[clear].double().mean() > 0.999
    for key, value in trained.state_dict().items():
        if "running" in key or key == "text_features":
            assert torch.equal(value, tensors[key]), f"{key} must not be trained"


def test_the_fixed_projection_stays_and_the_trained_one_moves(list_of_photos, tiny_clip, tmp_path):
    torch.manual_seed(0)
    initial = torch.nn.Linear(64, 128).weight
    for kind, same in (("fixed", True), ("trained", False)):
        train_tower(list_of_photos, tiny_clip, tmp_path / kind, replace(SMALL, projection=kind), workers=0)
        state = torch.load(tmp_path / kind / "training/checkpoint.pt", weights_only=True)
        assert torch.equal(state["projection"]["0.weight"], initial) is same


def test_a_resumed_run_is_the_same_bit_for_bit(list_of_photos, tiny_clip, tmp_path):
    whole, _ = train_tower(list_of_photos, tiny_clip, tmp_path / "whole", SMALL, workers=0)
    _, run = train_tower(list_of_photos, tiny_clip, tmp_path / "parts", SMALL, RunOptions(stop_after=2), workers=0)
    assert not run.finished
    parts, run = train_tower(list_of_photos, tiny_clip, tmp_path / "parts", SMALL, RunOptions(resume=True), workers=0)
    assert run.finished
    for key, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[key]), key


def test_chunks_do_not_change_the_ranking(list_of_photos, tiny_clip):
    pathway = HighLevelPathway(HighLevelConfig(image_tower=ImageTower(**TINY)))
    pathway.load_state_dict(tiny_clip)
    pathway.eval()
    crops = torch.stack([(list_of_photos.image(i)[:, :96, :96] * 255).byte() for i in range(6)])
    whole, parts = (pseudo_scores(pathway, crops, replace(SMALL, chunk=n)) for n in (6, 1))
    assert torch.allclose(whole, parts, atol=1e-6)


def test_the_learning_rate_warms_up_and_stays():
    training = HighLevelTraining()
    assert [_warm_up(training, epoch) for epoch in (0, 1.25, 2.5, 9)] == [0, 5e-7, 1e-6, 1e-6]


def test_training_makes_the_groups_more_alike_within_and_less_between(list_of_photos, tiny_clip, tmp_path):
    train_tower(list_of_photos, tiny_clip, tmp_path, replace(SMALL, steps=20, lr=1e-4), workers=0)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "training/log.jsonl").open()]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_the_weights_load_and_may_join_a_low_pathway(list_of_photos, tiny_clip, photos, tmp_path):
    pathway, run = train_tower(list_of_photos, tiny_clip, tmp_path, SMALL, workers=0)
    low = GRepQ.from_pretrained("grepq-ll")
    model = high_level_weights(pathway, run, "mine", {"clip": "tiny"}, low=low, about="photos of scikit-image")
    model.save_pretrained(tmp_path)
    loaded = GRepQ.from_pretrained(tmp_path)
    assert loaded.weights_id == model.weights_id
    assert loaded.config["image_tower"] == TINY
    assert loaded.provenance["low"]["weights"] == low.weights_id
    parts = loaded.components(photos["cat"])
    assert parts["low"].item() == pytest.approx(low(photos["cat"]).item(), abs=1e-6)
    assert 0 < parts["high"].item() < 1
    assert loaded.features(photos["cat"]).shape == (1, 64 + 256)


def test_the_shape_of_a_tower_is_read_from_its_weights(clip_state, tiny_clip):
    visual = {k.removeprefix("visual."): v for k, v in clip_state.items() if k.startswith("visual.")}
    assert image_tower_of(visual) == ImageTower(layers=(3, 4, 6, 3), width=64, output_dim=1024)
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.weight is missing|'layer1\.0\.conv1\.weight' is missing"):
        image_tower_of({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 7}, "group .* got 4"),
        ({"group": 1}, "group"),
        ({"projection": "none"}, "fixed"),
        ({"precision": "int8"}, "int8"),
        ({"crop": 16}, "32 pixels, got 16"),
        ({"lr": 0}, "lr"),
        ({"steps": 0}, "steps"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"warmup_epochs": math.nan}, "warmup_epochs .* got nan"),
        ({"temperature": math.inf}, "temperature .* got inf"),
        ({"chunk": 1.5}, r"chunk .* whole number, got 1\.5"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        HighLevelTraining(**change)
