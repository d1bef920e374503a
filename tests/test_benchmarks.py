"""Promises of the training benchmarks: distortions that grow, and correlations that are what they say."""

import itertools

import numpy as np
import pytest
import torch

from benchmarks import few_labels, loss_cost, restoration, synthetic
from benchmarks.studies.training_gain import near_duplicates, score_all
from grepq_metric import GRepQLoss
from grepq_metric.training.photos import PhotoList


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


def test_the_report_gives_the_correlations_of_its_rows():
    rows = []
    for photo, sign in (("a", 1), ("b", -1)):
        for kind in ("blur", "noise"):
            for level in range(6):
                score = -level if kind == "blur" else -sign * level
                rows.append({"photo": photo, "type": kind, "level": level, "FSIM": 1 - level / 10, "m": score, "flat": 0.5})
    lines = "\n".join(synthetic.report(rows, ["m", "flat"]))
    assert "| blur | 1.00 | 0.00 |" in lines
    assert "| noise | 0.00 | 0.00 |" in lines
    assert "| **median of the 2 types** | 0.50 | 0.00 |" in lines


def test_scores_are_kept_when_a_run_is_stopped_and_when_a_metric_is_added(photo_folder, tmp_path):
    files, table, calls = sorted(photo_folder.iterdir()), tmp_path / "scores.csv", []

    def metric(name, stop_at=99):
        def score(x):
            calls.append(name)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return x.mean().item() + len(name)

        return score

    with pytest.raises(KeyboardInterrupt):
        score_all({"a": metric("a", stop_at=4)}, files, table)
    rows = score_all({"a": metric("a")}, files, table)
    assert len(calls) == 4 + len(files) - 3
    calls.clear()
    both = score_all({"bb": metric("bb"), "a": metric("a")}, files, table)
    assert calls == ["bb"] * len(files)
    assert [a for _, a in both] == [a for (a,) in rows]
    assert all(bb == pytest.approx(a + 1) for bb, a in both)
    assert table.read_text().splitlines()[0] == "image,bb,a"


def test_near_duplicates_are_found_under_another_name_and_compression(photo_folder, tmp_path):
    from PIL import Image

    Image.open(photo_folder / "cat.png").resize((300, 200)).save(tmp_path / "other.jpg", quality=40)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "noise.png")
    found = near_duplicates([tmp_path / "noise.png", tmp_path / "other.jpg"], PhotoList([photo_folder]))
    assert found == {1: "cat.png"}


def test_the_small_clip_of_the_benchmark_has_the_towers_of_openais(monkeypatch):
    from benchmarks.studies.tiny_clip import TOWER, train_clip
    from grepq_metric.training.high import high_level_pathway
    from grepq_metric.weights import high_level_tensors

    class Photos:
        def __len__(self):
            return 1

        def image(self, index, least):
            return torch.rand(3, 128, 128)

    pathway = high_level_pathway(high_level_tensors(train_clip(Photos(), 1, 8, 0), "the small CLIP"))
    assert pathway.image_tower == TOWER
    assert pathway.text_features.shape == (2, TOWER["output_dim"])


def test_brisques_statistics_are_those_of_a_natural_photo(photos):
    clean = few_labels.brisque_features(photos["coffee"])
    assert clean.shape == (36,)
    assert clean.isfinite().all()
    # The shape of the normalised luma's distribution: noise makes it Gaussian (2), blur peaked.
    noise = torch.randn(photos["coffee"].shape, generator=torch.Generator().manual_seed(0))
    assert few_labels.brisque_features((photos["coffee"] + 0.3 * noise).clamp(0, 1))[0] > clean[0] + 0.2


def test_labels_are_drawn_from_one_half_and_tested_on_the_other():
    pool, test = few_labels.halves(101, seed=3)
    assert sorted([*pool, *test]) == list(range(101))
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(centre, 0.1, size=(30, 2)) for centre in ((0, 0), (0, 9), (9, 0), (9, 9))])
    assert sorted(i // 30 for i in few_labels.farthest_points(x, 4)) == [0, 1, 2, 3]


def test_the_cost_of_subsets_is_that_of_the_loss(photos, monkeypatch):
    x = photos["cat"][..., :144, :192]  # 2 x 3 patches
    monkeypatch.setattr(loss_cost, "SUBSETS", (2, 6))
    some, every = (line.strip("| ").split(" | ") for line in loss_cost.subsets({"clean": [x]}, draws=3)[2:])
    assert float(every[1]) == pytest.approx(GRepQLoss()(x).item(), abs=1e-4)
    assert [float(v) for v in every[3:]] == pytest.approx([0, 0, 1], abs=1e-3)
    assert float(some[4]) > 0
    assert float(some[5]) < 1


@pytest.fixture
def small_restoration(monkeypatch, photos):
    """The restoration benchmark with a network of one layer, one metric and a few squares of photos."""

    def network():
        torch.manual_seed(1)
        return torch.nn.Conv2d(3, 3, 3, padding=1)

    monkeypatch.setattr(restoration, "denoiser", network)
    monkeypatch.setattr(restoration, "METRICS", {"psnr": "up"})
    monkeypatch.setattr(restoration, "SWEEP", {"GRepQ": (), "TV": ()})
    squares = torch.stack([restoration.centre(photos[name][0]) for name in ("astronaut", "coffee", "cat")])
    noise = restoration.SIGMA * torch.randn(squares[:2].shape, generator=torch.Generator().manual_seed(0))
    return squares, {"some": (squares[:2], squares[:2] + noise)}


def test_the_restoration_benchmark_reports_what_the_networks_do_and_continues(small_restoration, tmp_path, monkeypatch):
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
    text = "\n".join(restoration.tables(again.rows, ["some"]))
    assert text.count("| 2 |") == 3
    with pytest.raises(ValueError, match=r"is of a run with \{'steps': 3\}, expected .*: choose another --out"):
        restoration.Runs(tmp_path, {**settings, "steps": 5})
