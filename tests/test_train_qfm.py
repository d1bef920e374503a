"""Promises of the training of QFM-IQM, our reading: what is matched, what teaches, and a run that stops and continues."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torchvision.utils import save_image

from grepq_metric import QFMIQM, GRepQ, InputError, load_model
from grepq_metric.errors import TrainingError
from grepq_metric.heads import read_labels
from grepq_metric.training import train_qfm
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.qfm import Memory, QFMTraining, make_training, start_of, teach, tokens_of
from grepq_metric.training.run import Run
from grepq_metric.training.tokens import chosen_cells
from tests.command import grepq

SMALL = {"width": 16, "heads": 2, "queries": 2, "members": 2, "cells": 9, "memory": 16}
QUICK = {"settings": SMALL, "steps": 4, "batch": 4, "workers": 0}
pytestmark = pytest.mark.filterwarnings("ignore:these weights hardly tell")


@pytest.fixture(autouse=True)
def a_short_look(monkeypatch):
    monkeypatch.setattr("grepq_metric.training.sanity.PHOTOS", 1)


@pytest.fixture(scope="module")
def rated(tmp_path_factory, photos):
    """Photos with four levels of noise, and labels that fall with it: the file of labels."""
    folder = tmp_path_factory.mktemp("rated")
    lines, generator = ["image,mos"], torch.Generator().manual_seed(0)
    for name in ("astronaut", "coffee", "cat", "rocket"):
        x = photos[name][..., :128, :128]
        for level, sigma in enumerate((0.0, 0.05, 0.15, 0.4)):
            noisy = (x + sigma * torch.randn(x.shape, generator=generator)).clamp(0, 1)
            save_image(noisy, folder / f"{name}{level}.png")
            lines.append(f"{name}{level}.png,{5 - level}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def unrated(tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp("unrated")
    for name in ("retina", "coffee"):
        save_image(photos[name][..., -120:, -130:], folder / f"{name}.png")
    return folder


def filled(count=6, width=3):
    memory = Memory(count, 2, width, 4)
    content = torch.eye(4)[torch.tensor([0, 1, 2, 3, 0, 1])]
    features = torch.arange(count, dtype=torch.float32).view(-1, 1, 1).expand(count, 2, width)
    memory.keep(features, torch.tensor([0.1, 0.12, 0.9, 0.11, 0.1, 0.5]), content, torch.arange(count))
    return memory


def draw_of(value, rows=1):
    return lambda columns: torch.full((rows, columns), value)


def test_a_match_scores_alike_shows_something_else_and_is_never_the_photo_itself():
    memory, training = filled(), QFMTraining(window=0.05, candidates=1)
    content = torch.tensor([[0.9, 0.1, 0.0, 0.4]])
    features, has = memory.match(torch.tensor([0.1]), content, torch.tensor([3]), training, draw_of(0.0))
    # 0, 1 and 4 are within the window; 1 has the most distant content; 3, which is as near, is the photo itself.
    assert has.tolist() == [True]
    assert features[0, 0, 0].item() == 1
    two = replace(training, candidates=2)
    drawn = {
        memory.match(torch.tensor([0.1]), content, torch.tensor([1]), two, draw_of(v))[0][0, 0, 0].item() for v in (0, 0.9)
    }
    assert drawn == {3.0, 0.0} or drawn == {3.0, 4.0}


def test_without_a_match_nothing_is_added():
    features, has = filled().match(torch.tensor([0.7]), torch.ones(1, 4), torch.tensor([99]), QFMTraining(), draw_of(0.5))
    assert has.tolist() == [False]
    assert not features.any()
    empty = Memory(4, 2, 3, 4)
    assert not empty.match(torch.tensor([0.7]), torch.ones(1, 4), torch.tensor([0]), QFMTraining(), draw_of(0.5))[1].any()


def test_the_control_takes_any_other_photo():
    memory, training = filled(), QFMTraining(noise="random")
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        features, has = memory.match(
            torch.tensor([0.7]), torch.ones(1, 4), torch.tensor([2]), training, lambda n: torch.rand(1, n, generator=generator)
        )
        assert has.all()
        seen.add(features[0, 0, 0].item())
    assert seen == {0.0, 1.0, 3.0, 4.0, 5.0}


def test_a_memory_forgets_the_oldest():
    memory = filled()
    memory.keep(torch.full((4, 2, 3), 9.0), torch.zeros(4), torch.zeros(4, 4), torch.arange(10, 14))
    assert memory.photos.tolist() == [10, 11, 12, 13, 4, 5]


def test_cells_of_a_small_photo_come_more_than_once():
    tokens = np.arange(6, dtype=np.float16).reshape(3, 2)
    rng = np.random.default_rng(0)
    assert chosen_cells(tokens, 2, rng).unique(dim=0).shape == (2, 2)
    assert chosen_cells(tokens, 7, rng).shape == (7, 2)


def test_it_learns_what_the_labels_say(rated, cache, tmp_path):
    model = train_qfm(rated, tmp_path / "mine", cache=cache, **{**QUICK, "steps": 80, "batch": 8, "lr": 3e-3})
    labels = read_labels(rated)
    images = torch.stack([PhotoList.of_files(labels.photos, "x").image(i) for i in range(len(labels.photos))])
    assert spearmanr(model(images)[:, 0].detach(), labels.mos).statistic > 0.9
    assert model.labels == (2.0, 5.0)
    again = QFMIQM.from_pretrained(tmp_path / "mine")
    assert again.weights_id == model.weights_id
    torch.testing.assert_close(again(images[:2]), model(images[:2]))
    record = json.loads((tmp_path / "mine" / "config.json").read_text())["provenance"]
    assert "our reading" in record["trained_by"]
    assert record["photos"] == 16
    assert record["backbone"].startswith("grepq-sem.")


@pytest.mark.parametrize(
    "options",
    [
        {"noise": "random"},
        {"noise": "matched", "unlabelled": True},
        {"noise": "matched", "unlabelled": True, "teacher": "ema"},
        pytest.param({"tuned": True, "settings": {**SMALL, "crop": 96}}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_stopped_run_goes_on_bit_for_bit(options, rated, unrated, cache, tmp_path):
    options = {**QUICK, "cache": cache, **options, **({"unlabelled": unrated} if options.get("unlabelled") else {})}
    whole = train_qfm(rated, tmp_path / "whole", name="x", **options)
    assert train_qfm(rated, tmp_path / "parts", name="x", stop_after=2, **options) is None
    parts = train_qfm(rated, tmp_path / "parts", name="x", resume=True, **options)
    assert parts.weights_id == whole.weights_id
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "training" / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


@pytest.mark.slow
def test_only_a_tuned_backbone_changes(rated, cache, tmp_path):
    before = GRepQ.from_pretrained("grepq-sem").semantic.backbone.state_dict()
    tuned = train_qfm(rated, tmp_path / "tuned", tuned=True, cache=cache, **{**QUICK, "settings": {**SMALL, "crop": 96}})
    still = train_qfm(rated, tmp_path / "still", cache=cache, **QUICK)
    assert all(torch.equal(value, before[key]) for key, value in still.decoder.backbone.state_dict().items())
    assert any(not torch.equal(value, before[key]) for key, value in tuned.decoder.backbone.state_dict().items())
    assert still.backbone is not None
    assert tuned.backbone is None
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("tuned", "still")]
    assert sizes[0] > 5 * sizes[1]
    again = load_model(tmp_path / "tuned")
    assert again.weights_id == tuned.weights_id


def test_the_noise_changes_what_is_learned_only_once_it_is_there(rated, cache, tmp_path):
    losses = {}
    for noise in ("none", "random"):
        train_qfm(rated, tmp_path / noise, cache=cache, noise=noise, **QUICK)
        log = (tmp_path / noise / "training" / "log.jsonl").read_text().splitlines()
        losses[noise] = [json.loads(line)["loss"] for line in log]
    assert losses["none"][0] == losses["random"][0]  # the memory is empty
    assert losses["none"][2:] != losses["random"][2:]


def test_a_damaged_photo_is_passed_over_and_named(rated, cache, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    for path in rated.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "cat0.png").write_bytes(b"no photo")
    (folder / "cat1.png").unlink()
    train_qfm(folder / "labels.csv", tmp_path / "out", cache=cache, **QUICK)
    skipped = (tmp_path / "out" / "training" / "skipped.txt").read_text()
    assert "cat0.png" in skipped
    assert "cat1.png" in skipped


def test_nothing_to_learn_from_is_said(rated, tmp_path):
    equal = tmp_path / "equal.csv"
    equal.write_text(rated.read_text().replace(",5", ",3").replace(",4", ",3").replace(",2", ",3"))
    with pytest.raises(InputError, match="all 16 labels are 3"):
        train_qfm(equal, tmp_path / "out", root=rated.parent, **QUICK)
    absent = tmp_path / "absent.csv"
    absent.write_text("image,mos\na.png,1\nb.png,2\n")
    with pytest.raises(TrainingError, match="none of the 2 photos"):
        train_qfm(absent, tmp_path / "out", **QUICK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": 1}, "unknown setting 'colour', expected some of"),
        ({"noise": "much"}, "noise must be one of matched, random, none"),
        ({"teacher": "me"}, "teacher must be one of ridge, ema"),
        ({"window": 2}, "window must be"),
        ({"width": 0}, "width must be"),
        ({"cells": 1.5}, "cells must be a whole number"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        make_training(settings, QFMTraining())


@pytest.mark.parametrize(
    ("init", "message"),
    [("grepq-ll", "no semantic pathway and no decoder"), ("timm/none_such", "timm has no network"), ("x", "unknown weights")],
)
def test_a_backbone_that_is_not_there_is_named(init, message):
    with pytest.raises(InputError, match=message):
        start_of(init, QFMTraining(), "x")


@pytest.mark.slow
def test_another_runs_backbone_goes_on(rated, cache, tmp_path):
    train_qfm(rated, tmp_path / "first", tuned=True, cache=cache, **{**QUICK, "settings": {**SMALL, "crop": 96}})
    first = load_model(tmp_path / "first")
    second = train_qfm(rated, tmp_path / "second", init=tmp_path / "first", cache=cache, **QUICK)
    for key, value in second.decoder.backbone.state_dict().items():
        assert torch.equal(value, first.decoder.backbone.state_dict()[key])
    assert second.backbone is None


def test_tokens_are_computed_once(rated, cache, monkeypatch):
    photos = PhotoList.of_files(read_labels(rated).photos, "x")
    first = tokens_of(photos, cache, QFMTraining())
    monkeypatch.setattr("grepq_metric.pathways.DecoderPathway.tokens", None)
    again = tokens_of(photos, cache, QFMTraining())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (16, 768)
    assert first[0].dtype == torch.float16


def test_the_teacher_rates_unrated_photos_and_the_student_hears_it(rated, unrated, cache, tmp_path):
    for distilled in (0.0, 5.0):
        train_qfm(
            *(rated, tmp_path / str(distilled)), name="x", cache=cache, unlabelled=unrated, noise="none",
            **{**QUICK, "settings": {**SMALL, "distilled": distilled}},
        )  # fmt: skip
    a, b = (load_model(tmp_path / name).weights_id for name in ("0.0", "5.0"))
    assert a != b


def test_a_run_with_other_labels_is_not_continued(rated, cache, tmp_path):
    train_qfm(rated, tmp_path / "out", cache=cache, stop_after=2, **QUICK)
    other = rated.with_name("other.csv")
    other.write_text(rated.read_text().replace(",5", ",6"))
    with pytest.raises(InputError, match="scores_sha256"):
        train_qfm(other, tmp_path / "out", cache=cache, resume=True, **QUICK)


def test_teach_leaves_no_weights(rated, cache, tmp_path):
    training = make_training(SMALL, QFMTraining(batch=4, steps=2))
    model, run = teach(
        *start_of(None, training, "x"), read_labels(rated), None, tmp_path / "o", training, workers=0, cache=cache
    )
    assert isinstance(run, Run)
    assert run.finished
    assert not (tmp_path / "o" / "config.json").exists()
    assert not model.decoder.decoders.training


def test_the_command(rated, tmp_path):
    flags = [f"--set={key}={value}" for key, value in SMALL.items()]
    result = grepq("train", "qfm", rated, "--out", tmp_path / "mine", "--steps", 2, "--batch", 4, "--workers", 0, *flags)
    assert result.stdout.startswith("mine-")
    grepq("score", rated.parent / "cat0.png", "--weights", tmp_path / "mine", "-o", tmp_path / "s.csv")
    again = grepq("train", "qfm", rated, "--out", tmp_path / "mine", "--steps", 2, *flags, status=2)
    assert "--resume" in again.stderr
