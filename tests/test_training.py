"""Promises of training: method.md's distortions, similarities, fragments and loss, and runs that resume bit for bit."""

import copy
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from grepq_metric import GRepQ
from grepq_metric.errors import TrainingError
from grepq_metric.training.distortions import DISTORTIONS, STAGES, distortion
from grepq_metric.training.losses import UndistortedStatistics, distortion_order_loss, quality_aware_contrastive_loss
from grepq_metric.training.low import LowLevelTraining, train_encoder
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.pristine import Selection, colourfulness, sharpness
from grepq_metric.training.recipe import RECIPES, Recipe, make_recipe
from grepq_metric.training.settings import RunOptions
from grepq_metric.training.similarity import contrastive_weights, pairwise_fsim
from grepq_metric.training.views import ContrastiveDataset
from tests.command import grepq

SMALL = Recipe(types=("gaussian_blur", "white_noise"), types_per_content=2, levels=(1, 5), grid=2, anchors=True, order=0.5)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Numbers are compared with those of the CPU, also where there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


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
    errors = np.zeros(5)  # over some seeds: where it hits, or in which direction, is drawn anew for each level
    for seed in range(1, 7):
        for level in range(1, 6):
            result = function(image, level, seed)
            assert result.shape == image.shape
            assert result.dtype == np.uint8
            if seed < 3:
                assert np.array_equal(result, function(image, level, seed))
            errors[level - 1] += np.square(result.astype(float) - image).mean()
    assert (np.diff(errors) > 0).all()
    assert errors[0] > 0
    assert errors[4] > 2 * errors[0]
    assert np.array_equal(image, before)


def test_distortions_refuse_a_level_that_they_lack(image):
    with pytest.raises(ValueError, match="1 to 5, got 6"):
        DISTORTIONS["jpeg"](image, 6)
    with pytest.raises(ValueError, match="5 strengths, got 2"):
        distortion(1, 2, stage="optics")
    with pytest.raises(ValueError, match="stage"):
        distortion(1, 2, 3, 4, 5, stage="magic")


def test_the_registry_holds_what_the_recipes_need():
    wanted = {"gaussian_blur", "jpeg", "white_noise", "exposure", "jpeg2000", "saturation", "contrast", "pixelation"}
    assert wanted | {"downsampling", "motion_blur"} <= set(DISTORTIONS)
    assert RECIPES["paper"].versions == RECIPES["broad"].versions == 9
    assert RECIPES["paper"].view_size == 224
    assert set(RECIPES["paper"].types) == {name for ((name, _),) in RECIPES["paper"].distortions_of(5)}
    assert len({name for seed in range(50) for ((name, _),) in RECIPES["broad"].distortions_of(seed)}) == 18
    chains = [chain for seed in range(50) for chain in RECIPES["wild"].distortions_of(seed)]
    assert {name for chain in chains for name, _ in chain} == set(RECIPES["wild"].types) < set(DISTORTIONS)
    assert {name for seed in range(99) for chain in RECIPES["varied"].distortions_of(seed) for name, _ in chain} == set(
        DISTORTIONS
    )
    assert {len(chain) for chain in chains} == {1, 2, 3}
    stages = [[STAGES.index(DISTORTIONS[name].stage) for name, _ in chain] for chain in chains]
    assert all(order == sorted(order) for order in stages)


@pytest.mark.parametrize("chromatic", [False, True])
def test_pairwise_fsim_is_pyiqas(image, chromatic):
    fsim = pytest.importorskip("pyiqa.archs.fsim_arch").fsim
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


def test_anchors_add_the_undistorted_versions_of_the_other_contents():
    generator = torch.Generator().manual_seed(1)
    z1, z2 = torch.randn(2, 3, 5, 16, generator=generator)
    s = torch.rand(3, 5, 5, generator=generator)
    a = contrastive_weights((s + s.mT) / 2, power=3)
    rows = []
    for ours, theirs in ((z1, z2), (z2, z1)):
        for i in range(3):
            for k in range(5):
                pairs = [(theirs[i, j], a[i, k, j]) for j in range(5)]
                pairs += [(theirs[j, 0], a[i, k, 0]) for j in range(3) if j != i]
                e = [math.exp(F.cosine_similarity(ours[i, k], z, dim=0).item() / 0.2) for z, _ in pairs]
                rows.append(-math.log(sum(e_ * w.item() for e_, (_, w) in zip(e, pairs, strict=True)) / sum(e)))
    anchors = torch.stack([z1[:, 0], z2[:, 0]])
    whole = quality_aware_contrastive_loss(z1, z2, a, 0.2, anchors).item()
    assert whole == pytest.approx(2 * sum(rows) / len(rows), rel=1e-5)
    # The parts that two processes see, with the anchors of both.
    parts = [quality_aware_contrastive_loss(z1[p], z2[p], a[p], 0.2, anchors, p.start) for p in (slice(0, 1), slice(1, 3))]
    assert (parts[0].item() + 2 * parts[1].item()) / 3 == pytest.approx(whole, rel=1e-5)


def test_distances_from_undistorted_views_are_mahalanobis():
    z = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 6) + 3
    statistics = UndistortedStatistics(6, ridge=0.1)
    statistics.update(z)
    assert statistics.mean == pytest.approx(z.mean(0), abs=1e-5)
    assert statistics.cov.flatten() == pytest.approx(torch.cov(z.T, correction=0).flatten(), rel=1e-4, abs=1e-5)
    inverse = np.linalg.inv(torch.cov(z.T, correction=0).double().numpy() + 0.1 * np.eye(6))
    centred = (z - z.mean(0)).double().numpy()
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred))
    assert statistics.distance(z.view(5, 8, 6)).flatten() == pytest.approx(expected, rel=1e-4)
    for _ in range(3):
        statistics.update(z + 4)
    assert statistics.mean == pytest.approx(z.mean(0) + 3, abs=1e-4)  # four batches that count alike
    at_mean = statistics.mean.clone().requires_grad_()
    statistics.distance(at_mean[None]).sum().backward()
    assert at_mean.grad.isfinite().all()


def test_the_order_loss_asks_for_distances_that_follow_fsim():
    similarity = torch.tensor([1.0, 0.99, 0.96, 0.75])
    distance = torch.tensor([3.0, 4.0, 5.0, 8.0], requires_grad=True)  # 3 + 10 sqrt(1 - similarity)
    assert distortion_order_loss(distance, similarity).item() == pytest.approx(0, abs=1e-6)
    assert distortion_order_loss(-distance, similarity).item() == pytest.approx(2, abs=1e-6)
    wrong = torch.tensor([5.0, 3.0, 4.0, 5.0], requires_grad=True)
    expected = 1 - np.corrcoef(wrong.tolist(), np.sqrt(1 - similarity.numpy()))[0, 1]
    loss = distortion_order_loss(wrong, similarity)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert wrong.grad[0] > 0 > wrong.grad[3]


def test_the_loss_has_finite_gradients_with_weights_of_zero():
    z1 = torch.randn(1, 3, 8, requires_grad=True)
    loss = quality_aware_contrastive_loss(z1, torch.randn(1, 3, 8), torch.eye(3).unsqueeze(0))
    loss.backward()
    assert z1.grad.isfinite().all()


def test_views_are_fragments_at_the_same_places_of_all_versions(contents, tmp_path):
    dataset = ContrastiveDataset(PhotoList([contents]), SMALL, seed=0, cache=tmp_path)
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
    first = ContrastiveDataset(PhotoList([contents]), SMALL, seed=0, cache=tmp_path)
    samples = [first[i].tensors for i in range(8)]
    assert len(list(tmp_path.glob("*.npy"))) == 4
    monkeypatch.setattr("grepq_metric.training.views.pairwise_fsim", None)
    again = ContrastiveDataset(PhotoList([contents]), SMALL, seed=0, cache=tmp_path)
    for i in (5, 0, 7):
        assert all(torch.equal(a, b) for a, b in zip(again[i].tensors, samples[i], strict=True))
    views, weights = samples[0]
    assert views.shape == (2, 5, 3, 64, 64)
    assert torch.equal(weights.diagonal(), torch.ones(5))
    assert not torch.equal(views[0], views[1])
    epochs = [[first[4 * e + i].tensors[1] for i in range(4)] for e in range(2)]
    assert {w.sum().item() for w in epochs[0]} == {w.sum().item() for w in epochs[1]}


def test_photos_that_can_not_be_used_are_passed_over_counted_and_named(contents, tmp_path, capfd):
    with pytest.raises(TrainingError, match=r"4 photos in a row can't be used, .*\.png has 144x128 pixels, expected 224"):
        train_encoder(PhotoList([contents]), tmp_path / "small", LowLevelTraining(), workers=0)
    folder = shutil.copytree(contents, tmp_path / "photos")
    (folder / "broken.png").write_bytes((folder / "cat.png").read_bytes()[:5000])
    out = tmp_path / "out"
    train_encoder(PhotoList([folder]), out, LowLevelTraining(recipe=SMALL, batch=5, steps=2), workers=1)
    assert [json.loads(line)["step"] for line in (out / "training/log.jsonl").open()] == [1, 2]
    skipped = (out / "training/skipped.txt").read_text().splitlines()
    assert len(skipped) == 2
    assert all("broken.png" in why for why in skipped)
    assert "skipped=2" in capfd.readouterr().err


def test_a_killed_run_loses_nothing_before_its_last_checkpoint(contents, tmp_path):
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=5)
    options = {"workers": 0, "cache": tmp_path / "cache"}
    whole, _ = train_encoder(PhotoList([contents]), tmp_path / "whole", training, **options)
    script = """if True:
        import os, sys
        from pathlib import Path
        from grepq_metric.training import run
        from grepq_metric.training.low import LowLevelTraining, train_encoder
        from grepq_metric.training.photos import PhotoList
        from tests.test_training import SMALL
        save = run.Run._save
        def save_then_die(self):
            if self.step == 4:  # in the middle of the second checkpoint
                (self.folder / ".checkpoint-1234.part.pt").write_bytes(b"half")
                os.kill(os.getpid(), 9)
            save(self)
        run.Run._save = save_then_die
        train_encoder(PhotoList([sys.argv[1]]), Path(sys.argv[2]), LowLevelTraining(recipe=SMALL, batch=2, steps=5),
                      run.RunOptions(checkpoint_every=2), workers=0, cache=Path(sys.argv[3]))
    """
    command = [sys.executable, "-c", script, contents, tmp_path / "killed", tmp_path / "cache"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run(list(map(str, command)), env=environment, capture_output=True).returncode == -9
    again, run = train_encoder(PhotoList([contents]), tmp_path / "killed", training, RunOptions(resume=True), **options)
    assert run.finished
    assert not list((tmp_path / "killed/training").glob("*.part*"))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/training/log.jsonl").open()]
    assert steps == [1, 2, 3, 4, 5]


def test_a_full_disk_is_explained_and_leaves_the_last_checkpoint(contents, tmp_path, monkeypatch):
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=4)
    options = {"workers": 0, "cache": tmp_path / "cache"}
    photos, out = PhotoList([contents]), tmp_path / "out"
    write, calls = Path.write_bytes, []

    def full(path, content):
        if "checkpoint" not in path.name:
            return write(path, content)
        calls.append(path.name)
        if len(calls) > 1:
            write(path, b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left .*free some space; .*checkpoint\.pt holds step 2\..* resume=True"):
        train_encoder(photos, out, training, RunOptions(checkpoint_every=2), **options)
    assert len(calls) == 2
    assert [file.name for file in (out / "training").glob("*checkpoint*")] == ["checkpoint.pt"]
    monkeypatch.setattr(Path, "write_bytes", write)
    _, run = train_encoder(photos, out, training, RunOptions(resume=True), **options)
    assert run.finished


def test_a_cache_that_can_not_be_written_is_explained(contents, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("grepq_metric.training.views.np.save", full)
    with pytest.raises(TrainingError, match=r"cannot cache similarities in .*No space left .*there is no checkpoint yet"):
        train_encoder(PhotoList([contents]), tmp_path, LowLevelTraining(recipe=SMALL, batch=2, steps=2), workers=0)
    assert not list((tmp_path / "training/fsim").iterdir())


def test_a_loss_that_is_not_finite_ends_the_run_before_it_spoils_the_network(contents, tmp_path, monkeypatch):
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=4)
    photos, options = PhotoList([contents]), {"workers": 0, "cache": tmp_path / "cache"}
    real, calls = quality_aware_contrastive_loss, []

    def breaks(*arguments):
        calls.append(None)
        return real(*arguments) * (math.nan if len(calls) == 4 else 1)

    monkeypatch.setattr("grepq_metric.training.low.quality_aware_contrastive_loss", breaks)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 4; .*checkpoint\.pt holds step 2.* lower lr"):
        train_encoder(photos, tmp_path / "out", training, RunOptions(checkpoint_every=2), **options)
    monkeypatch.setattr("grepq_metric.training.low.quality_aware_contrastive_loss", real)
    _, run = train_encoder(photos, tmp_path / "out", training, RunOptions(resume=True), **options)
    assert run.finished


def test_a_run_starts_from_given_weights(contents, tmp_path):
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=1, lr=1e-9)
    encoder, _ = train_encoder(PhotoList([contents]), tmp_path, training, workers=0, init="grepq-ll")
    given = GRepQ.from_pretrained("grepq-ll")
    for key, value in given.low.encoder.named_parameters():
        assert torch.allclose(encoder.get_parameter(key), value, atol=1e-6)
    assert json.loads((tmp_path / "training/run.json").read_text())["init"] == given.weights_id


def test_a_run_logs_for_tensorboard(contents, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=3)
    for options in (RunOptions(stop_after=2, tensorboard=True), RunOptions(resume=True, tensorboard=True)):
        train_encoder(PhotoList([contents]), tmp_path, training, options, workers=0)
    events = accumulator.EventAccumulator(str(tmp_path / "training/tensorboard")).Reload()
    logged = [json.loads(line)["loss"] for line in (tmp_path / "training/log.jsonl").open()]
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(logged)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_a_new_log(contents, tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "log.jsonl").write_text('{"step": 1, "loss": 9}\n{"step": 2, "lo')
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=2)
    with pytest.raises(FileExistsError, match=r"log\.jsonl exists: .*resume=True.*overwrite=True"):
        train_encoder(PhotoList([contents]), tmp_path, training, workers=0)
    train_encoder(PhotoList([contents]), tmp_path, training, RunOptions(resume=True), workers=0)
    assert [json.loads(line)["step"] for line in (tmp_path / "training" / "log.jsonl").open()] == [1, 2]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_resumed_run_is_the_same_bit_for_bit(contents, tmp_path, precision):
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=6, precision=precision)
    options = {"workers": 0, "cache": tmp_path / "cache"}
    whole, run = train_encoder(PhotoList([contents]), tmp_path / "whole", training, RunOptions(checkpoint_every=2), **options)
    assert run.finished
    early = RunOptions(checkpoint_every=2, stop_after=3)
    _, run = train_encoder(PhotoList([contents]), tmp_path / "parts", training, early, **options)
    assert not run.finished
    parts, run = train_encoder(PhotoList([contents]), tmp_path / "parts", training, RunOptions(resume=True), **options)
    assert run.finished
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
    train_encoder(PhotoList([contents]), tmp_path, training, workers=0)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "training/log.jsonl").open()]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_run_is_not_continued_by_accident_nor_with_other_settings(contents, tmp_path):
    training = LowLevelTraining(recipe=SMALL, batch=2, steps=1)
    train_encoder(PhotoList([contents]), tmp_path, training, workers=0)
    with pytest.raises(FileExistsError, match="resume=True"):
        train_encoder(PhotoList([contents]), tmp_path, training, workers=0)
    other = LowLevelTraining(recipe=SMALL, batch=2, steps=1, lr=1e-3)
    with pytest.raises(ValueError, match=r"'lr': 0\.0001"):
        train_encoder(PhotoList([contents]), tmp_path, other, RunOptions(resume=True), workers=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(types=("fog",)), "fog"),
        (lambda: Recipe(types_per_content=5), "1 to 4, got 5"),
        (lambda: Recipe(levels=(0, 2)), "levels"),
        (lambda: Recipe(levels_per_type=3), "1 to 2, got 3"),
        (lambda: Recipe(grid=0), "grid"),
        (lambda: Recipe(temperature=0), "temperature"),
        (lambda: Recipe(chain=0), "chain"),
        (lambda: make_recipe("wilde"), "'wilde', expected one of paper, broad, wild"),
        (lambda: make_recipe("paper", {"grit": 4}), "'grit' of a recipe"),
        (lambda: make_recipe("paper", {"grid": "four"}), "grid of a recipe must be like 7, got 'four'"),
        (lambda: make_recipe("paper", {"levels": ["two"]}), "levels"),
        (lambda: LowLevelTraining(precision="int8"), "int8"),
        (lambda: LowLevelTraining(lr=0), "lr"),
        (lambda: LowLevelTraining(steps=0), "steps"),
        (lambda: LowLevelTraining(lr=math.nan), "lr .* got nan"),
        (lambda: LowLevelTraining(lr=math.inf), "lr .* got inf"),
        (lambda: LowLevelTraining(lr="1e-4"), "lr .* got '1e-4'"),
        (lambda: LowLevelTraining(batch=1.5), r"batch .* whole number, got 1\.5"),
        (lambda: LowLevelTraining(batch=True), "batch .* whole number, got True"),
        (lambda: LowLevelTraining(epochs=0), "epochs .* got 0"),
        (lambda: LowLevelTraining(seed=-1), "seed .* got -1"),
        (lambda: LowLevelTraining(weight_decay=math.nan), "weight_decay .* got nan"),
        (lambda: RunOptions(stop_after=0), "stop_after .* got 0"),
        (lambda: RunOptions(checkpoint_every=0.5), r"checkpoint_every .* whole number, got 0\.5"),
        (lambda: Recipe(power=math.nan), "power .* got nan"),
        (lambda: Recipe(temperature=math.inf), "temperature .* got inf"),
        (lambda: Recipe(grid=2.0), r"grid .* whole number, got 2\.0"),
        (lambda: Recipe(levels=(1.5, 2)), r"levels .* whole number, got 1\.5"),
        (lambda: Recipe(anchors=1), "anchors must be true or false, got 1"),
        (lambda: make_recipe(7), "got 7"),
        (lambda: Selection(sharpness=math.nan), "sharpness .* got nan"),
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
    low = copy.deepcopy(model.low)
    low.chunk_size = 3
    assert low.fit_pristine([patches[:5], patches[5:5], patches[5:]]) == len(patches)
    assert np.allclose(low.pristine_mean, z.mean(0), rtol=1e-4, atol=1e-6)
    assert np.allclose(low.pristine_cov, np.cov(z.T, ddof=1), rtol=1e-3, atol=1e-6)
    with pytest.warns(UserWarning, match="3 pristine patches for 128"):
        low.fit_pristine([patches[:3]])
    with pytest.raises(ValueError, match="at least 2 patches"):
        low.fit_pristine([patches[:1]])


def test_the_command_line_makes_weights_that_score(contents, photo_folder, tmp_path, photos):
    out = tmp_path / "mine"
    train = ["train", "low", "--photos", contents, "--out", out, "--set", "types=gaussian_blur,jpeg,white_noise,exposure"]
    train += ["--set", "grid=2", "--steps", "3", "--batch", "2", "--workers", "1"]
    for extra, said in ((["--stop-after", "2"], "stopped after step 2"), (["--resume"], "mine-")):
        assert said in grepq(*train, *extra).stdout
    model = GRepQ.from_pretrained(out)
    assert model.provenance["steps"] == 3
    assert model.provenance["pristine"]["photos"] == 4
    assert 0 < model(photos["cat"]).item() < 0.5
    run = json.loads((out / "training/run.json").read_text())
    assert run["seed"] == 0
    assert run["recipe"]["grid"] == 2
    kept = (out / "model.safetensors").read_bytes()
    pristine = ["pristine", "--photos", photo_folder, "--weights", out, "--sharpness", "0.5", "--colourfulness", "0.5"]
    assert "--overwrite" in grepq(*pristine, "-o", out, status=2).stderr
    assert (out / "model.safetensors").read_bytes() == kept
    grepq(*pristine, "-o", out, "--overwrite", "--device", "cpu")
    again = GRepQ.from_pretrained(out)
    assert again.weights_id != model.weights_id
    assert again.weights_id in (out / "README.md").read_text()
    assert again.provenance["pristine"]["sharpness"] == 0.5
    assert again.provenance["pristine"]["patches"] > model.provenance["pristine"]["patches"]
