"""Promises of the benchmark harness: true statistics, results that survive, honest exclusions, a report of files alone."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image, ImageFile
from pyiqa.metrics.correlation_coefficient import calculate_krcc, calculate_plcc, calculate_rmse, calculate_srcc

from benchmarks import datasets, metrics, report, runner, statistics
from benchmarks.__main__ import main
from grepq_metric import GRepQ
from grepq_metric.training.distributed import World

ROOT = Path(__file__).parents[1]


def write_csv(path, header, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def rated(tmp_path_factory, photos):
    """80 crops of real photos at 20 contents with references and made-up scores."""
    folder = tmp_path_factory.mktemp("rated")
    rng, rows = np.random.default_rng(0), []
    for content in range(20):
        photo = photos[("coffee", "cat")[content % 2]][0]
        top, left = (int(rng.integers(side - 96)) for side in photo.shape[1:])
        crop = (photo[:, top : top + 96, left : left + 96].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(crop).save(folder / f"original_{content}.png")
        for level in range(4):
            noise = crop + rng.normal(0, 12 * level + 2, crop.shape)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{content}_{level}.png")
            mos = 4 - level + 0.2 * rng.normal()
            rows.append([f"{content}_{level}.png", mos, f"original_{content}.png"])
    write_csv(folder / "labels.csv", ["image", "mos", "reference"], rows)
    return folder


def metric_of(function, name="made-0001", **facts):
    values = {"mode": "NR", "lower_better": False, "score": function, "provenance": {"scores_sha256": "0"}} | facts
    return metrics.Metric(name, **values)


def by_level(image, reference, item):
    return -float(item.name.partition("_")[2][0])


# Statistics


def test_figures_are_pyiqas_own():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    mos = 3 + 1.5 * np.tanh(x) + 0.3 * rng.normal(size=300)
    found, problems = statistics.agreement(x, mos)
    assert not problems
    assert found["srcc"] == pytest.approx(calculate_srcc(x, mos))
    assert found["krcc"] == pytest.approx(calculate_krcc(x, mos))
    assert found["plcc"] == pytest.approx(calculate_plcc(x, mos))
    assert found["plcc_logistic4"] == pytest.approx(calculate_plcc(x, mos, "logistic_4params"), abs=1e-4)
    assert found["plcc_logistic5"] >= calculate_plcc(x, mos, "logistic_5params") - 1e-4
    assert found["rmse"] == pytest.approx(calculate_rmse(x, mos, "logistic_4params"), abs=1e-3)
    assert found["plcc_cubic"] == pytest.approx(np.corrcoef(np.polyval(np.polyfit(x, mos, 3), x), mos)[0, 1])
    assert found["plcc"] < found["plcc_cubic"] < found["plcc_logistic4"]


def test_fits_do_not_depend_on_the_scale_of_scores():
    rng = np.random.default_rng(1)
    x = rng.normal(size=200)
    mos = 50 + 20 * np.tanh(2 * x) + rng.normal(size=200)
    plain, _ = statistics.agreement(x, mos)
    tiny, _ = statistics.agreement(0.48 + 1e-4 * x, mos)
    assert tiny == pytest.approx(plain, abs=1e-4)


def test_what_can_not_be_fitted_is_said(monkeypatch):
    found, problems = statistics.agreement(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4]))
    assert found["plcc_logistic4"] is None
    assert found["rmse"] is None
    assert "logistic4: 4 images do not determine 4 parameters" in problems
    found, problems = statistics.agreement(np.ones(20), np.arange(20.0))
    assert found["srcc"] is None
    assert any("all scores or all opinions are equal" in problem for problem in problems)

    def fail(*_, **__):
        raise RuntimeError("Optimal parameters not found")

    monkeypatch.setattr(scipy.optimize, "curve_fit", fail)
    found, problems = statistics.agreement(np.arange(20.0), np.arange(20.0))
    assert found["plcc_logistic4"] is None
    assert "logistic4: did not converge" in problems
    assert found["plcc_cubic"] == pytest.approx(1)


def test_resamples_keep_contents_together():
    groups = ["a", "b", "a", "c", "b", "a"]
    for draw in statistics.resamples(groups, 6)[:50]:
        counts = np.bincount(draw, minlength=6)
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
    assert all(len(draw) == 6 for draw in statistics.resamples(None, 6))


def test_intervals_and_tests_have_their_level():
    rng = np.random.default_rng(0)
    covered, rejected, found = 0, 0, 0
    for trial in range(40):
        truth = rng.normal(size=150)
        a, b = truth + rng.normal(size=150), truth + rng.normal(size=150)
        worse = truth + 3 * rng.normal(size=150)
        draws = statistics.resamples(None, 150, seed=trial)[:300]
        values = {name: statistics.srcc(x, truth) for name, x in (("a", a), ("b", b), ("worse", worse))}
        boot = {
            name: np.array([statistics.srcc(x[d], truth[d]) for d in draws])
            for name, x in (("a", a), ("b", b), ("worse", worse))
        }
        low, high = statistics.interval(boot["a"])
        covered += low <= 0.689 <= high  # 6 / pi * asin(sqrt(0.5) / 2), the SRCC of that normal distribution
        p = statistics.pairwise_tests(boot, values)
        rejected += p["a", "b"] < 0.05
        found += p["a", "worse"] < 0.05
    assert covered >= 34
    assert rejected <= 6
    assert found >= 36


def test_holm_and_letters():
    # The example of Holm's method: 0.01, 0.04, 0.03 -> 0.03, 0.06, 0.06.
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []
    values = {"x": 0.9, "y": 0.8, "z": 0.7}
    p = {("x", "y"): 0.3, ("x", "z"): 0.001, ("y", "z"): 0.2}
    assert statistics.letters(values, p) == {"x": "a", "y": "ab", "z": "b"}
    assert statistics.letters(values, dict.fromkeys(p, 0.5)) == {"x": "a", "y": "a", "z": "a"}
    assert statistics.letters(values, dict.fromkeys(p, 0.0)) == {"x": "a", "y": "b", "z": "c"}


# Datasets


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["image", "mos"], [["a.png", 1], ["a.png", 2]], r"names a\.png twice"),
        (["image", "mos"], [["a.png", "nan"]], r"score of a\.png is nan, expected a finite number"),
        (["image", "mos"], [["a.png", "good"]], "line 2: expected a number as 'mos', got 'good'"),
        (["image", "score"], [["a.png", 1]], "has no column 'mos', it has"),
        (["image", "mos"], [], "holds no images"),
        (["image", "mos"], [["a.png", 1], ["b.png", 2]], r"partial copy: 2 of 2 images are missing, for example a\.png"),
        (["image", "mos", "split", "group"], [["a", 1, "test", "g"], ["b", 1, "train", "g"]], "content g is both in the test"),
        (["image", "mos", "split"], [["a", 1, "training"]], "line 2: expected train, val, test or nothing as split"),
        (["mos", "image"], [[1]], "line 2: no image in the column 'image'"),
    ],
)
def test_bad_datasets_are_refused(tmp_path, header, rows, message):
    path = write_csv(tmp_path / "labels.csv", header, rows)
    with pytest.raises(ValueError, match=message):
        datasets.open_dataset(str(path), tmp_path)


def test_unknown_names_come_with_the_closest(tmp_path):
    with pytest.raises(ValueError, match=r"unknown dataset 'koniq10'.*did you mean 'koniq10k'"):
        datasets.open_dataset("koniq10", tmp_path)
    with pytest.raises(ValueError, match=r"unknown metric 'grepq_ll'; did you mean .*grepq-ll"):
        metrics.open_metric("grepq_ll")
    with pytest.raises(ValueError, match="expected name:key=value"):
        metrics.open_metric("psnr:fast")
    with pytest.raises(ValueError, match="pyiqa cannot create 'grepq-ll:speed=3'"):
        metrics.open_metric("grepq-ll:speed=3")


def test_a_dataset_id_changes_with_content(rated, tmp_path):
    first = datasets.open_dataset(str(rated), tmp_path)
    assert first.id == datasets.open_dataset(str(rated / "labels.csv"), tmp_path).id
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in rated.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert datasets.open_dataset(str(copy), tmp_path).id.split("-")[-1] == first.id.split("-")[-1]
    Image.new("RGB", (96, 96)).save(copy / "3_1.png")
    assert datasets.open_dataset(str(copy), tmp_path).id.split("-")[-1] != first.id.split("-")[-1]
    (copy / "3_1.png").unlink()
    partial = datasets.open_dataset(str(copy), tmp_path, allow_partial=True)
    assert partial.absent == ["3_1.png"]
    assert len(partial.items) == 79


def test_the_direction_of_scores_is_part_of_an_id(rated, tmp_path):
    plain, turned = (datasets.open_dataset(f"{rated}{option}", tmp_path) for option in ("", ":lower_better=TRUE"))
    assert plain.id != turned.id
    assert (turned.mos == -plain.mos).all()
    path = write_csv(tmp_path / "theirs.csv", ["image", "score"], [["a", 1]])
    assert metrics.open_metric(str(path)).id != metrics.open_metric(f"{path}:lower_better=true").id
    for spec, message in (
        (f"{rated}:lower_better=no", "lower_better of a CSV file must be like False, got 'no'"),
        (f"{rated}:low=abc", "low of a CSV file must be like -inf, got 'abc'"),
        (f"{rated}:high=1,speed=2", "unknown option 'speed' of a CSV file"),
    ):
        with pytest.raises(ValueError, match=message):
            datasets.open_dataset(spec, tmp_path)
    with pytest.raises(ValueError, match="unknown option 'path' of a file of scores"):
        metrics.open_metric(f"{path}:path=x")
    write_csv(path, ["image", "score"], [["a", 1], ["a", 2]])
    with pytest.raises(ValueError, match="names a twice"):
        metrics.open_metric(str(path))


def test_an_undistorted_image_belongs_to_its_content(rated, tmp_path):
    rows = [[str(rated / f"original_{c}.png"), 5, ""] for c in range(20)]
    rows += [[str(rated / f"{c}_2.png"), 2, str(rated / f"original_{c}.png")] for c in range(20)]
    dataset = datasets.open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos", "reference"], rows)), tmp_path)
    assert len(set(dataset.groups)) == 20
    for train, test in runner.splits(dataset, 5, 0):
        assert not {dataset.groups[i] for i in train} & {dataset.groups[i] for i in test}


def test_folders_as_their_authors_ship_them(tmp_path, monkeypatch):
    def image(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (10, 200, 30)).save(path)

    for name in ("1.jpg", "2.jpg"):
        image(tmp_path / "BIQ2021/Images" / name)
        image(tmp_path / "AGIQA-3K/file" / name)
        image(tmp_path / "AGIQA-1K/file" / name)
        image(tmp_path / "koniq10k/512x384" / name)
        image(tmp_path / "CSIQ/dst_imgs/awgn" / name)
    image(tmp_path / "CSIQ/src_imgs/ref.png")
    for split, name in (("Train", "1.jpg"), ("Test", "2.jpg")):
        write_csv(tmp_path / f"BIQ2021/{split} (Images and MOS).csv", ["Image Name", "MOS"], [[name, 0.5]])
    write_csv(tmp_path / "AGIQA-3K/data.csv", ["name", "prompt", "mos_quality"], [["1.jpg", "cat", 1.5], ["2.jpg", "dog", 2]])
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    table = pandas.DataFrame({"Image": ["1.jpg", "2.jpg"], "Prompt": ["cat", "dog"], "MOS": [2.5, 3.5]})
    table.to_excel(tmp_path / "AGIQA-1K/AIGC_MOS_Zscore.xlsx", index=False)
    (tmp_path / "meta_info").mkdir()
    write_csv(
        tmp_path / "meta_info/meta_info_KonIQ10kDataset.csv",
        ["img_name", "mos", "official_split"],
        [["1.jpg", 60, "train"], ["2.jpg", 70, "test"]],
    )
    write_csv(
        tmp_path / "meta_info/meta_info_CSIQDataset.csv",
        ["ref", "dist", "mos"],
        [["ref.png", "awgn/1.jpg", 0.1], ["ref.png", "awgn/2.jpg", 0.4]],
    )
    found = {}
    for name in ("biq2021", "agiqa-1k", "agiqa-3k", "koniq10k", "csiq"):
        with pytest.raises(ValueError, match=r"partial copy: .* of .* images are missing"):
            datasets.open_dataset(name, tmp_path)
        found[name] = datasets.open_dataset(name, tmp_path, allow_partial=True)
        assert len(found[name].items) == 2
    assert [item.split for item in found["biq2021"].items] == ["train", "test"]
    assert found["agiqa-1k"].mos.tolist() == [2.5, 3.5]
    assert found["agiqa-3k"].mos.tolist() == [1.5, 2]
    assert [(item.name, item.mos, item.split) for item in found["koniq10k"].items] == [
        ("1.jpg", 60, "train"),
        ("2.jpg", 70, "test"),
    ]
    assert found["csiq"].mos.tolist() == [-0.1, -0.4]  # a DMOS: lower is better
    assert found["csiq"].groups == ["ref.png"] * 2
    with pytest.raises(FileNotFoundError, match="pyiqa cannot load tid2013"):
        datasets.open_dataset("tid2013", tmp_path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # or damaged photos would count as whole from now on


# Runs


def test_a_killed_run_continues_without_repeating_an_image(rated, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from benchmarks import datasets, runner
from benchmarks.harness.metrics import Metric
from grepq_metric.training.distributed import World
def score(image, reference, item):
    with open(sys.argv[1], "a") as file:
        file.write(item.name + "\\n")
    time.sleep(0.05)
    return float(len(item.name))
dataset = datasets.open_dataset(sys.argv[2], Path("."))
metric = Metric("slow-0001", "NR", False, score, None, {{"scores_sha256": "0"}})
runner.run(dataset, metric, "zero-shot", Path(sys.argv[3]), World())
""")
    calls, results = tmp_path / "calls.txt", tmp_path / "results"
    command = [sys.executable, str(script), str(calls), str(rated), str(results)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not calls.exists() or len(calls.read_text().splitlines()) < 10:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = calls.read_text().splitlines()
    assert 10 <= len(before) < 80
    part = next(results.glob("*/slow-0001/*.part.csv"))
    part.write_text(part.read_text() + "5_1.png,7.0")  # a line that was cut off
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    after = calls.read_text().splitlines()
    assert len(set(after)) == 80
    assert len(after) <= 81  # the one that was being scored when the process was killed
    rows = runner.read_rows(next(results.glob("*/slow-0001")), "zero-shot")
    assert [float(row["value"]) for row in rows.values()] == [len(name) for name in rows]
    assert not list(results.glob("*/slow-0001/*.part.csv"))
    subprocess.run(command, check=True)  # nothing to do
    assert calls.read_text().splitlines() == after


def test_the_first_run_scores_and_the_second_reads(rated, tmp_path, capsys):
    command = ["run", "--dataset", str(rated), "--metrics", "grepq-ll", "psnr", "--results", str(tmp_path)]
    assert main(command) == 0
    paths = capsys.readouterr().out.split()
    weights_id = GRepQ.from_pretrained("grepq-ll").weights_id
    record = json.loads(Path(paths[0]).read_text())
    assert record["metric"] == weights_id
    assert record["failed"] == 0
    assert record["seconds_per_image"] > 0
    assert record["peak_memory_mib"] > 100
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert record["threads"] == torch.get_num_threads()
    stamps = [os.stat(path).st_mtime_ns for path in paths]
    assert main(command) == 0
    assert [os.stat(path).st_mtime_ns for path in paths] == stamps
    rows = runner.read_rows(Path(paths[0]).parent, "zero-shot")
    image = Image.open(rated / "3_2.png")
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    assert float(rows["3_2.png"]["value"]) == pytest.approx(GRepQ.from_pretrained("grepq-ll")(x).item(), abs=1e-6)


def test_a_failure_is_recorded_and_excluded_for_all_or_its_own(rated, tmp_path):
    dataset = datasets.open_dataset(str(rated), tmp_path)

    def failing(image, reference, item):
        if item.name == "4_0.png":
            raise RuntimeError("out of luck")
        return float("nan") if item.name == "4_1.png" else by_level(image, reference, item)

    for made in (metric_of(by_level), metric_of(failing, "failing-0001"), metric_of(lambda *_: 1 / 0, "broken-0001")):
        runner.run(dataset, made, "zero-shot", tmp_path, World())
    rows = runner.read_rows(next(tmp_path.glob("*/failing-0001")), "zero-shot")
    assert rows["4_0.png"]["error"] == "RuntimeError: out of luck"
    assert "the value is nan" in rows["4_1.png"]["error"]
    for failures, images in (("all", 78), ("own", 80)):
        rows = {row["metric"]: row for row in report.collect(tmp_path, failures)["rows"]}
        assert rows["made-0001"]["images"] == images
        assert rows["failing-0001"]["images"] == 78
        assert rows["failing-0001"]["failed"] == 2
        assert rows["broken-0001"]["failed"] == 80
        assert rows["broken-0001"]["srcc"] is None
    mended = metric_of(by_level, "failing-0001")
    runner.run(dataset, mended, "zero-shot", tmp_path, World(), retry_failed=True)
    assert not any(row["error"] for row in runner.read_rows(next(tmp_path.glob("*/failing-0001")), "zero-shot").values())


def test_a_full_disk_is_explained_and_keeps_what_is_there(rated, tmp_path, monkeypatch):
    dataset = datasets.open_dataset(str(rated), tmp_path)
    scored = []

    def full(image, reference, item):
        scored.append(item.name)
        if len(scored) == 30:
            raise_later["full"] = True
        return by_level(image, reference, item)

    raise_later = {}
    write = csv.DictWriter.writerow

    def writerow(self, row):
        if raise_later:
            raise OSError(28, "No space left on device")
        return write(self, row)

    monkeypatch.setattr(csv.DictWriter, "writerow", writerow)
    with pytest.raises(OSError, match="No space left on device; what is there is kept"):
        runner.run(dataset, metric_of(full), "zero-shot", tmp_path, World())
    raise_later.clear()
    runner.run(dataset, metric_of(full), "zero-shot", tmp_path, World())
    assert len(scored) == 81  # the row that could not be written is made once more


def test_heads_are_fitted_to_the_same_draws_and_contents_are_not_shared(rated, tmp_path):
    dataset = datasets.open_dataset(str(rated), tmp_path)
    features = metric_of(None, "features-0001", features=None)
    with pytest.raises(ValueError, match="has no features to fit to labels"):
        runner.run(dataset, features, "few-labels", tmp_path, World())
    for train, test in runner.splits(dataset, 5, 0):
        assert not {dataset.items[i].group for i in train} & {dataset.items[i].group for i in test}
    command = ["run", "--dataset", str(rated), "--results", str(tmp_path), "--draws", "3"]
    assert main([*command, "--metrics", "brisque-features", "grepq-ll", "--protocol", "few-labels", "full"]) == 0
    tested = []
    for name in ("brisque-features", "grepq-ll"):
        path = next(tmp_path.glob(f"*/{name}-*/few-labels.csv"))
        with path.open() as stream:
            tested.append([(row["labels"], row["draw"], row["image"]) for row in csv.DictReader(stream)])
        assert {row[0] for row in tested[-1]} == {"50"}  # 64 training images are too few for 100
    assert tested[0] == tested[1]
    rows = report.collect(tmp_path)["rows"]
    assert {(row["protocol"], row["labels"]) for row in rows} == {("few-labels", 50), ("full", "all")}
    assert all(row["srcc"] > 0.5 for row in rows)
    assert "median of 3 draws; the interval is that of their quartiles" in rows[0]["notes"]


def test_heads_are_fitted_anew_when_what_they_are_made_of_changes(rated, tmp_path):
    dataset, failing = datasets.open_dataset(str(rated), tmp_path), {"3_0.png", "4_1.png"}

    def features(image):
        value = torch.cat([image.mean((0, 2, 3)), image.std((0, 2, 3))]).numpy()
        if failing and float(value[3]) in broken:
            raise RuntimeError("out of luck")
        return value

    load = dataset.record.load
    broken = {float(load(rated / name)[None].std((0, 2, 3))[0]) for name in failing}
    made = metric_of(None, "mean-0001", features=features, provenance={})
    for protocol in ("few-labels", "full"):
        runner.run(dataset, made, protocol, tmp_path, World(), draws=2)
    other = metric_of(None, "whole-0001", features=lambda image: image.mean((0, 2, 3)).numpy(), provenance={})
    runner.run(dataset, other, "full", tmp_path, World())
    rows = [row for row in report.collect(tmp_path)["rows"] if row["protocol"] == "full"]
    assert len({row["images"] for row in rows}) == 1
    failing.clear()
    for protocol in ("few-labels", "full"):
        path = runner.run(dataset, made, protocol, tmp_path, World(), draws=3, retry_failed=True)
        assert json.loads(path.read_text())["failed"] == 0
    assert json.loads((path.parent / "few-labels.json").read_text())["draws"] == 3


def test_too_few_contents_have_no_interval_and_no_test(rated, tmp_path):
    rows = [[str(rated / f"{c}_{level}.png"), 4 - level, f"content {c}"] for c in range(3) for level in range(4)]
    dataset = datasets.open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos", "group"], rows)), tmp_path)

    def level(image, reference, item):
        return -float(item.name[-5])

    for name, sign in (("a-0001", 1), ("b-0001", -1)):
        made = metric_of(lambda i, r, item, s=sign: s * level(i, r, item), name)
        runner.run(dataset, made, "zero-shot", tmp_path, World())
    for row in report.collect(tmp_path)["rows"]:
        assert row["srcc_interval"] is None
        assert row["group"] is None
        assert row["seconds"] is None
        assert "fewer than 5 contents: no interval and no test" in row["notes"]


def test_scores_from_elsewhere_and_references(rated, tmp_path, capsys):
    names = [path.name for path in rated.glob("[0-9]*.png")]
    path = write_csv(tmp_path / "theirs.csv", ["image", "score"], [[name, name[-5]] for name in names])
    results = tmp_path / "results"
    command = ["run", "--dataset", str(rated), "--metrics", f"{path}:lower_better=true", "psnr", "--results", str(results)]
    assert main(command) == 0
    rows = {row["metric"].partition("-")[0]: row for row in report.collect(results)["rows"]}
    assert rows["theirs"]["srcc"] > 0.9
    assert rows["psnr"]["mode"] == "FR"
    assert rows["psnr"]["srcc"] > 0.9
    assert rows["psnr"]["srcc_interval"][0] < rows["psnr"]["srcc"] < rows["psnr"]["srcc_interval"][1]
    plain = write_csv(
        tmp_path / "plain.csv", ["image", "mos"], [[str(rated / name), 1 + i] for i, name in enumerate(names[:6])]
    )
    assert main(["run", "--dataset", str(plain), "--metrics", "psnr", str(path), "--results", str(results)]) == 1
    assert "needs references, and plain has none" in capsys.readouterr().err


def test_packages_with_their_models_order_distortions(photos):
    pytest.importorskip("brisque")
    pytest.importorskip("skvideo")
    clean = photos["coffee"]
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for name in ("brisque-package", "niqe-package"):
        metric = metrics.open_metric(name)
        assert metric.lower_better
        assert metric.score(noisy, None, None) > metric.score(clean, None, None)
    with pytest.raises(ValueError, match="sides of 193 pixels or more, got 96x96"):
        metrics.open_metric("niqe-package").score(clean[..., :96, :96], None, None)


@pytest.mark.slow
def test_two_processes_share_the_images(rated, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "benchmarks"]
    arguments = ["run", "--dataset", str(rated), "--metrics", "piqe", "grepq-ll", "--protocol", "zero-shot", "--results"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *arguments, str(tmp_path / "two")], check=True, cwd=ROOT, env=environment, timeout=300)
    assert main([*arguments, str(tmp_path / "one")]) == 0
    for name in ("piqe", "grepq-ll"):
        folders = [next((tmp_path / n).glob(f"*/{name}-*")) for n in ("one", "two")]
        one, two = (runner.read_rows(folder, "zero-shot") for folder in folders)
        assert list(one) == list(two)
        assert [float(r["value"]) for r in two.values()] == pytest.approx([float(r["value"]) for r in one.values()], abs=1e-5)
        assert json.loads((folders[1] / "zero-shot.json").read_text())["processes"] == 2


# Reports


@pytest.fixture
def results(rated, tmp_path):
    dataset = datasets.open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)
    rng = np.random.default_rng(0)
    noise = {item.name: rng.normal() for item in dataset.items}
    runner.run(dataset, metric_of(by_level, "good_0001"), "zero-shot", tmp_path / "results", World())
    poor = metric_of(lambda i, r, item: by_level(i, r, item) + 4 * noise[item.name], "poor-0001")
    runner.run(dataset, poor, "zero-shot", tmp_path / "results", World())
    return tmp_path / "results"


def test_the_report_is_a_function_of_the_folder(results, tmp_path, capsys):
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        assert main(["report", "--results", str(results), "--out", str(out)]) == 0
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.tex"):
        assert (outs[0] / name).read_text() == (outs[1] / name).read_text()
    text = (outs[0] / "leaderboard.md").read_text()
    measured, published = text.split("published, not measured here")[:2]
    assert "| good_0001 |" in measured
    assert "GRepQ" not in measured
    assert "| GRepQ | 0.768 | 0.788 | arXiv 2506.17969" in published
    with (outs[0] / "leaderboard.csv").open() as stream:
        rows = {row["metric"]: row for row in csv.DictReader(stream) if row["measured"] == "True"}
    dataset = json.loads(next(results.glob("*/dataset.json")).read_text())
    scores = runner.read_rows(results / dataset["id"] / "good_0001", "zero-shot")
    with (results / dataset["id"] / "dataset.csv").open() as stream:
        mos = {row["image"]: float(row["mos"]) for row in csv.DictReader(stream)}
    expected = scipy.stats.spearmanr([float(scores[name]["value"]) for name in mos], list(mos.values())).statistic
    assert float(rows["good_0001"]["srcc"]) == pytest.approx(expected)
    assert rows["good_0001"]["group"] == "a"
    assert rows["poor-0001"]["group"] == "b"
    tex = (outs[0] / "leaderboard.tex").read_text()
    assert "good\\_0001" in tex
    assert "\\textbf{" in tex
    assert (outs[0] / "index.html").read_text().lower().startswith("<!doctype html>")


def test_damaged_results_are_named(results, tmp_path, capsys):
    assert main(["report", "--results", str(tmp_path / "empty"), "--out", str(tmp_path)]) == 2
    assert "no results in" in capsys.readouterr().err
    path = next(results.glob("*/poor-0001/zero-shot.csv"))
    path.write_text("\n".join(path.read_text().splitlines()[:40]) + "\n")
    assert main(["report", "--results", str(results), "--out", str(tmp_path)]) == 2
    assert "lacks 41 images" in capsys.readouterr().err
    path.with_suffix(".json").write_text("{")
    assert main(["report", "--results", str(results), "--out", str(tmp_path)]) == 2
    assert "zero-shot.json is no result" in capsys.readouterr().err


def test_list_names_datasets_and_metrics(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for word in ("koniq10k", "biq2021", "agiqa-3k", "toy", "grepq-ll", "piqe", "brisque-package", "psnr", "lower is better"):
        assert word in text


def test_toy_is_labelled_synthetic_and_grows_worse(tmp_path):
    toy = datasets.open_dataset("toy", tmp_path)
    assert toy.record.kind == "synthetic"
    assert len(toy.items) == toy.record.images
    by_name = {item.name: item for item in toy.items}
    clean = np.asarray(Image.open(by_name["coffee/original.png"].path), float)
    errors = [
        np.square(np.asarray(Image.open(by_name[f"coffee/JPEG_{i}.png"].path), float) - clean).mean() for i in range(1, 6)
    ]
    assert errors == sorted(errors)
    assert datasets.open_dataset("toy", tmp_path).id == toy.id
