"""Promises of the studies: distortions that grow, draws and correlations that are what they say, runs that continue."""

from __future__ import annotations

import functools
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

from benchmarks.harness import untrained
from benchmarks.harness.agreement import RESAMPLES
from benchmarks.studies import few_labels, learning_curves, loss_cost, restoration, speed, synthetic, throughput, training_gain
from benchmarks.studies.reporting import Row, read_report
from grepq_metric import GRepQLoss, RidgeHead


def test_the_synthetic_distortions_grow_with_their_level(photos):
    A = pytest.importorskip("albumentations")  # noqa: N806
    photo = (photos["coffee"][0].permute(1, 2, 0) * 255).round().byte().numpy()
    kinds = synthetic.distortions()
    assert len(kinds) >= 20
    for name, make in kinds.items():
        versions = [A.Compose([make(level)], seed=level)(image=photo)["image"] for level in range(1, 6)]
        errors = [np.square(version.astype(float) - photo).mean() for version in versions]
        assert errors == sorted(errors), name
        assert errors[0] > 0, name
        again = A.Compose([make(3)], seed=3)(image=photo)["image"]
        assert np.array_equal(again, versions[2]), name


def test_the_report_on_distortions_gives_the_correlations_of_its_rows():
    rows: list[Row] = []
    for photo, sign in (("a", 1), ("b", -1)):
        for kind in ("blur", "noise"):
            for level in range(6):
                score = -level if kind == "blur" else -sign * level
                rows.append({"photo": photo, "type": kind, "level": level, "FSIM": 1 - level / 10, "m": score, "flat": 0.5})
    found = {(row["metric"], row["distortion"]): row["srcc"] for row in synthetic.summary(rows)}
    assert found["m", "blur"] == 1
    assert found["m", "noise"] == 0
    assert found["flat", "blur"] == 0
    assert found["m", "median of the 2 types"] == 0.5
    assert found["m", "lowest of the types"] == 0
    pooled = "SRCC with FSIM, 22 versions pooled"  # two photos at five levels and two types, and the undistorted ones once
    assert found["flat", pooled] == 0
    assert 0 < found["m", pooled] < 1


def test_heads_see_equal_draws_and_none_of_the_photos_that_they_are_tested_on(monkeypatch):
    monkeypatch.setattr(few_labels, "DRAWS", 3)
    for labels in (5, 200, 350):
        draws = few_labels.draws_of(420, labels)
        assert len({tuple(draw.train) for draw in draws}) == 3
        for draw, again in zip(draws, few_labels.draws_of(420, labels), strict=True):
            assert (draw.train == again.train).all()
            assert len(set(draw.train)) == labels
            assert not set(draw.train) & set(draw.test)
            assert len(draw.test) == (210 if labels <= 210 else 420 - labels)


def test_the_study_of_heads_finds_what_labels_add_to_a_score(monkeypatch):
    rng = np.random.default_rng(0)
    mos = rng.normal(size=420)
    score = mos + 1.2 * rng.normal(size=420)
    x = np.column_stack([score, mos[:, None] * [1, 0.5, 0.2, 0, 0, 0, 0, 0] + rng.normal(size=(420, 8))])
    compared = {
        "m, monotone": few_labels.Variant(x[:, :1], RidgeHead(scored=True)),
        "m, shrunk": few_labels.Variant(x, RidgeHead(scored=True), suggests=True),
    }
    monkeypatch.setattr(few_labels, "DRAWS", 4)
    monkeypatch.setattr(few_labels, "BUDGETS", (5, 50, 350))
    monkeypatch.setattr(few_labels, "SUGGESTED", (25,))
    found = {(row["head"], row["labels"]): row for row in few_labels.summary_of_draws(few_labels.drawn(compared, mos))}
    assert len(found) == 6
    assert found["m, monotone", 5]["srcc"] == pytest.approx(found["m, monotone", 50]["srcc"], abs=1e-9)
    assert found["m, shrunk", 350]["srcc"] > found["m, monotone", 350]["srcc"] + 0.05
    assert "coverage" not in found["m, shrunk", 5]
    assert 0.8 < found["m, shrunk", 350]["coverage"] < 1

    suggestions = few_labels.summary_of_suggestions(few_labels.suggested(compared, mos))
    assert {row["head"] for row in suggestions} == {"m, shrunk"}
    assert [row["way"] for row in suggestions] == ["random", *few_labels.WAYS]
    assert all(row["halves"] == 4 for row in suggestions)
    assert all(0 <= row["better"] <= 4 for row in suggestions[1:])

    every = {row["head"]: row["srcc"] for row in few_labels.nested(compared, mos)}
    assert every["m, shrunk"] > every["m, monotone"]
    subsets = np.where(np.arange(420) % 2, "odd", "even")
    first, second = few_labels.travelled(compared["m, shrunk"], mos, subsets)
    assert (first["tested"], second["tested"]) == ("even", "odd")
    assert min(first["odd"], second["even"]) > max(first["score"], second["score"])


def test_farthest_points_reach_every_cluster():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(centre, 0.1, size=(30, 2)) for centre in ((0, 0), (0, 9), (9, 0), (9, 9))])
    assert sorted(i // 30 for i in few_labels.farthest_points(x, 4)) == [0, 1, 2, 3]


def test_intervals_of_correlations_are_the_percentile_bootstraps():
    rng = np.random.default_rng(1)
    mos = rng.normal(size=80)
    scores = mos + rng.normal(size=80)
    (row,) = training_gain.agreement({"m": scores}, mos)
    expected = scipy.stats.bootstrap(
        (scores, mos),
        lambda a, b: scipy.stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (row["srcc_low"], row["srcc_high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert row["srcc"] == pytest.approx(scipy.stats.spearmanr(scores, mos).statistic)


def test_the_statistic_of_training_gain_is_larger_of_a_sharper_photo(photos):
    from torchvision.transforms.functional import gaussian_blur

    x = photos["cat"]
    assert training_gain.gradient_magnitude(x) > 1.5 * training_gain.gradient_magnitude(gaussian_blur(x, [13, 13], [2.0, 2.0]))


def test_the_small_clip_has_the_towers_of_openais():
    from benchmarks.studies.tiny_clip import CROPS_PER_PHOTO, TOWER, pathway_of, train_clip

    class Photos:
        def __len__(self):
            return 1

        def image(self, index, least):
            return torch.rand(3, 128, 128)

    pathway = pathway_of(train_clip(Photos(), 1, CROPS_PER_PHOTO, 0))
    assert pathway.config.image_tower == TOWER
    assert pathway.text_features.shape == (2, TOWER.output_dim)
    assert pathway(torch.rand(2, 3, 96, 96)).shape == (2, TOWER.output_dim)


def test_the_cost_of_subsets_is_that_of_the_loss(photos):
    x = photos["cat"][..., :144, :192]  # 2 x 3 patches
    assert loss_cost.patches_of(x, GRepQLoss(loss_cost.WEIGHTS)) == 6
    some, every = loss_cost.subsets({"clean": [x]}, counts=(2, 6), draws=3)
    assert every["loss"] == pytest.approx(GRepQLoss(loss_cost.WEIGHTS)(x).item(), abs=1e-6)
    assert [every[key] for key in ("bias", "standard_deviation", "cosine")] == pytest.approx([0, 0, 1], abs=1e-3)
    assert some["standard_deviation"] > 0
    assert some["cosine"] < 1


def test_a_step_of_the_cheapest_loss_is_timed_and_its_memory_measured(monkeypatch):
    monkeypatch.setattr(loss_cost, "SHAPE", (1, 3, 512, 512))
    found = loss_cost.step("L1", 2)
    assert 0 < found["seconds"] < 10
    assert found["memory_mib"] >= 0


def test_metrics_are_timed_in_turn_and_what_fails_says_why(monkeypatch, tmp_path):
    size = (96, 128)
    monkeypatch.setattr(speed, "REPEATS", {(size, 1): 2})
    monkeypatch.setattr(speed, "SIZES", (size, size, size))
    build = speed.build

    def without_musiq(name, device):
        return (lambda x: x.no_such_method()) if name == "musiq" else build(name, device)

    monkeypatch.setattr(speed, "build", without_musiq)
    rows = speed.together(size, 1, ["grepq-sem", "grepq-sem, bf16", "piqe", "musiq"], "cpu")
    assert [row["metric"] for row in rows if "seconds" in row] == ["grepq-sem", "grepq-sem, bf16", "piqe"]
    assert all(0 < row["seconds"] < 10 for row in rows[:3])
    assert "no_such_method" in rows[3]["reason"]
    alone = speed.alone(size, "grepq-sem", "cpu")
    assert alone["memory_mib"] >= 0
    assert speed.flops("grepq-sem", (192, 256)) == pytest.approx(4 * speed.flops("grepq-sem", size), rel=0.01)
    tables = [{"table": "time", **row} for row in rows]
    tables += [{"table": "memory", "metric": "grepq-sem", "height": 96, "width": 128, **alone}]
    tables += [{"table": "start", "part": "whole", "seconds": 2.5}]
    monkeypatch.setattr(speed, "multiplying", lambda device: 1e12)
    tables += speed.efficiency(rows, "cpu")
    report = speed.measured("speed", "grepq-sem-x", {"name": "coffee", "images": 1}, tables)
    text = "\n".join(speed.markdown(report))
    assert "| `grepq-sem`, bf16 |" in text
    assert "no_such_method" in text
    speed.picture(tmp_path / "speed.png", report)
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_a_metric_in_a_process_of_its_own_is_ended_at_its_limits(monkeypatch):
    monkeypatch.setattr(speed, "LIMIT_S", 0.5)
    assert speed._child("--alone", 96, 128, "--metrics", "grepq-sem") == "more than 0.5 s"
    monkeypatch.setattr(speed, "LIMIT_S", 60)
    assert "expected 2 arguments" in speed._child("--alone", 96)


@pytest.mark.slow
@pytest.mark.parametrize("name", untrained.PEERS)
def test_peers_of_random_weights_can_be_built(name):
    if name == "clipiqa":
        pytest.importorskip("pkg_resources", reason="no pkg_resources, which CLIP's package asks for: setuptools is too new")
    with torch.inference_mode():
        assert untrained.PEERS[name]()(torch.rand(1, 3, 224, 224)).numel() == 1


def test_learning_curves_are_the_means_of_the_log_and_draw_again_from_what_is_kept(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    log = [{"step": i + 1, "loss": float(i), "lr": 0.5, "seconds": 2.0 * (i + 1)} for i in range(95)]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    (run / "run.json").write_text(json.dumps({"sources": ["photos"], "photos": 7}))
    learning_curves.main([f"ll-1={run}", "--out", str(out)])
    kept = learning_curves.read_rows(out / "ll-1.csv")
    assert [(row["step"], row["loss"]) for row in kept[:2]] == [(10, 4.5), (20, 14.5)]
    assert (kept[-1]["step"], kept[-1]["loss"]) == (95, 92.0)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(first) == {"ll-1.csv", "learning_curves.json", "learning_curves.md", "learning_curves.png"}
    learning_curves.main(["--report-only", "--out", str(out)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    with pytest.raises(SystemExit):
        learning_curves.main([str(run), "--out", str(out)])
    assert "NAME=RUN" in capsys.readouterr().err


def test_total_variation_is_pyiqas(photos):
    losses = pytest.importorskip("pyiqa.losses.losses")
    x = photos["coffee"]
    assert restoration.total_variation(x).item() == pytest.approx(losses.WeightedTVLoss(reduction="mean")(x).item(), rel=1e-6)


@pytest.fixture
def small_restoration(monkeypatch, photos):
    """The restoration study with a network of one layer, one metric and a few squares of photos."""

    def network():
        torch.manual_seed(1)
        return torch.nn.Conv2d(3, 3, 3, padding=1)

    monkeypatch.setattr(restoration, "denoiser", network)
    monkeypatch.setattr(restoration, "METRICS", {"psnr": "up"})
    monkeypatch.setattr(restoration, "SWEEP", {"GRepQ": (), "TV": ()})
    squares = torch.stack([restoration.centre(photos[name][0]) for name in ("astronaut", "coffee", "cat")])
    noise = restoration.SIGMA * torch.randn(squares[:2].shape, generator=torch.Generator().manual_seed(0))
    return squares, {"some": (squares[:2], squares[:2] + noise)}


def test_the_restoration_study_reports_what_the_networks_do_and_continues(small_restoration, tmp_path, monkeypatch):
    photos, pairs = small_restoration
    settings = {"base_steps": 2, "steps": 3, "batch": 1, "photos": "p", "weights": "w"}
    networks = restoration.run(restoration.Runs(tmp_path, settings), photos, pairs, seeds=2)
    runs = restoration.Runs(tmp_path, settings)
    names = {"L1", "L1 + 0.01 TV", f"L1 + {restoration.MAIN['GRepQ']} GRepQ", "GRepQ alone"}
    assert set(networks) == names
    assert len(runs.rows) == 2 + len(names) + len(names) - 1
    clean, noisy = pairs["some"]
    for row in runs.rows:
        if row["seed"] == 0 and row["loss"] in names:
            with torch.no_grad():
                error = (networks[row["loss"]](noisy).clamp(0, 1) - clean).square().flatten(1).mean(1)
            assert row["figures"]["some"]["psnr"] == pytest.approx((-10 * error.log10()).mean().item(), abs=1e-3)
    states = [network.weight for network in networks.values()]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(states, 2))

    last = runs.rows[-1]
    runs.table.write_text(runs.table.read_text()[:-9])  # cut off in the middle of the last line
    monkeypatch.setattr(restoration, "train", None)
    again = restoration.Runs(tmp_path, settings)
    restoration.run(again, photos, pairs, seeds=2)
    assert again.rows[-1]["figures"] == last["figures"]
    assert len(again.rows) == len(runs.rows)
    rows = {row["loss"]: row for row in restoration.summary(again.rows)}
    values = [row["figures"]["some"]["psnr"] for row in again.rows if row["loss"] == "L1"]
    assert rows["L1"]["psnr"] == pytest.approx(np.mean(values))
    assert rows["L1"]["psnr_std"] == pytest.approx(np.std(values, ddof=1))
    assert rows["GRepQ alone"]["seeds"] == 1
    assert "psnr_std" not in rows["GRepQ alone"]
    with pytest.raises(ValueError, match=r"is of a run with \{'steps': 3\}, expected .*: choose another --out"):
        restoration.Runs(tmp_path, {**settings, "steps": 5})


def test_published_scores_of_distorted_photos_are_what_the_code_gives_today(monkeypatch):
    pytest.importorskip("albumentations")
    from benchmarks.harness.toy import references
    from benchmarks.studies.opinions import scorer
    from benchmarks.studies.reporting import read_rows
    from grepq_metric import GRepQ

    kinds = {name: make for name, make in synthetic.distortions().items() if name == "white noise"}
    monkeypatch.setattr(synthetic, "distortions", lambda: kinds)
    model = GRepQ.from_pretrained("grepq-ll")
    rows = synthetic.measure({model.weights_id: scorer(model)}, {"astronaut": references()["astronaut"]})
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "synthetic" / "synthetic.csv"
    published = read_rows(path, text=("photo", "type"))
    expected = [row for row in published if row["photo"] == "astronaut" and row["type"] in kinds]
    assert len(rows) == len(expected) == 6
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


@pytest.mark.slow  # each process of `grepq score` takes seconds to start
def test_photos_an_hour_are_measured_in_parts(photo_folder, tmp_path, monkeypatch):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i, path in enumerate(sorted(photo_folder.iterdir())[:3]):
        Image.open(path).convert("RGB").save(folder / f"{i}.jpg")
    monkeypatch.setattr(throughput, "long", functools.partial(throughput.long, scores=1000))
    given = ["--photos", str(folder), "--out", str(out)]
    throughput.main([*given, "--parts", "long"])
    throughput.main([*given, "--parts", "pipeline"])
    assert not (out / "throughput.json").exists()
    found = json.loads((out / "parts.json").read_text())
    assert [row["photos"] for row in found["long"]] == list(range(100, 1001, 100))
    assert found["long"][-1]["errors"] == 2  # one of 500 files is damaged
    (pipe, read) = found["pipeline"]
    assert pipe["photos"] == read["photos"] == 3
    assert 0.05 < pipe["piped"] / pipe["own"] < 20
    assert read["bytes"] == pytest.approx(np.mean([path.stat().st_size for path in folder.iterdir()]))
    throughput.main([*given, "--parts", "jobs"])
    report = read_report(out, "throughput")
    assert next((row["machine"], row["jobs"]) for row in report.table("jobs")) == ("idle", 1)
    assert (out / "throughput.md").read_text().count("| idle |") == (1 if os.cpu_count() == 1 else 2)
