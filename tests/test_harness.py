"""Promises of the harness's runs: results that survive, honest failures, the same draws for all, errors of one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.harness import metrics, results
from benchmarks.harness.datasets import open_dataset
from benchmarks.harness.metrics import open_metric
from benchmarks.harness.progress import track
from benchmarks.harness.report.collect import collect
from benchmarks.harness.results import DrawRow, PredictionRow, ResultRecord, ScoreRow
from benchmarks.harness.runner import run, stored_rows
from grepq_metric import GRepQ
from grepq_metric.training.distributed import World
from tests.harness_data import ROOT, by_level, means, metric_of, rate, write_csv

SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from benchmarks.harness import datasets, metrics
from benchmarks.__main__ import main
def score(image, reference, name):
    with open({calls!r}, "a") as file:
        file.write(name + "\\n")
    time.sleep(0.05)
    return float(len(name))
metrics.open_metric = lambda spec, device: metrics.Metric("slow-0001", "slow", "NR", False, score)
sys.exit(main(["run", "--dataset", {dataset!r}, "--metrics", "slow", "--results", {results!r}]))
"""
STRANGE = [
    "line\nfeed.png",
    "carriage\rreturn.png",
    "form\x0cfeed.png",
    "next\x85line.png",
    "separator\u2028.png",
    'quo"te,.png',
]


@pytest.fixture(scope="module")
def rated(tmp_path_factory, photos):
    return rate(tmp_path_factory.mktemp("rated"), photos)


@pytest.fixture
def slow(rated, tmp_path):
    """A command that scores slowly, the file of its calls, and its folder of results."""
    calls, folder = tmp_path / "calls.txt", tmp_path / "results"
    text = SLOW.format(root=str(ROOT), calls=str(calls), dataset=str(rated), results=str(folder))
    (tmp_path / "slow.py").write_text(text)
    return [sys.executable, str(tmp_path / "slow.py")], calls, folder


def stop_after_ten(command, calls, number):
    """Start the command and send it a signal when ten images are scored; its exit status and what it wrote."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not calls.exists() or len(calls.read_text().splitlines()) < 10:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    written = process.communicate()[1]
    return process.returncode, written


@pytest.mark.slow
def test_a_killed_run_continues_without_repeating_an_image(slow):
    command, calls, folder = slow
    stop_after_ten(command, calls, signal.SIGKILL)
    before = calls.read_text().splitlines()
    assert 10 <= len(before) < 80
    part = next(folder.glob("*/slow-0001/*.part.csv"))
    part.write_text(part.read_text() + '"5_1.png",7.0')  # a line that was cut off
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    after = calls.read_text().splitlines()
    assert len(set(after)) == 80
    assert len(after) <= 81  # the one that was being scored when the process was killed
    rows = stored_rows(next(folder.glob("*/slow-0001")), "zero-shot")
    assert [row.value for row in rows.values()] == [len(name) for name in rows]
    assert not list(folder.glob("*/slow-0001/*.part.csv"))
    subprocess.run(command, check=True)  # nothing to do
    assert calls.read_text().splitlines() == after


def test_ctrl_c_says_how_many_are_done_in_one_line(slow):
    command, calls, folder = slow
    status, written = stop_after_ten(command, calls, signal.SIGINT)
    assert status == 130
    (line,) = written.strip().splitlines()
    done = len(stored_rows(next(folder.glob("*/slow-0001")), "zero-shot"))
    assert f"{done} of 80 images are done; the same command continues" in line


def test_progress_off_a_terminal_is_a_line_now_and_then(capsys):
    assert list(track(range(5), "m on d", done=3, every=0)) == [0, 1, 2, 3, 4]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("m on d: 5 of 8 images, ")
    list(track(range(5), "m on d"))
    assert capsys.readouterr().err == ""


def test_strange_names_survive_a_run_and_a_rerun(rated, tmp_path):
    data = (rated / "3_1.png").read_bytes()
    for name in STRANGE:
        (tmp_path / name).write_bytes(data)
    write_csv(tmp_path / "labels.csv", ["image", "mos"], [[name, i] for i, name in enumerate(STRANGE)])
    dataset = open_dataset(str(tmp_path), tmp_path)
    assert {item.name for item in dataset.items} == set(STRANGE)
    folder = tmp_path / "results"
    for _ in range(2):
        outcome = run(dataset, metric_of(lambda i, r, name: float(len(name))), "zero-shot", folder, World())
        assert outcome.failed == 0
        rows = results.read_rows(outcome.path.with_suffix(".csv"), ScoreRow)
        assert {row.image: row.value for row in rows} == {name: len(name) for name in STRANGE}
        assert len(collect(folder, [dataset]).scatter[0].points) == len(STRANGE)


def test_the_first_run_scores_and_the_second_reads(rated, tmp_path, capsys):
    command = ["run", "--dataset", str(rated), "--metrics", "grepq-ll", "psnr", "--results", str(tmp_path)]
    assert main(command) == 0
    paths = capsys.readouterr().out.split()
    weights_id = GRepQ.from_pretrained("grepq-ll").weights_id
    record = json.loads(Path(paths[0]).read_text())
    assert record["schema"] == 1
    assert record["metric"] == weights_id
    assert record["metric_name"] == "grepq-ll"
    assert record["failed"] == 0
    assert record["seconds_per_image"] > 0
    assert record["peak_memory_mib"] > 100
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert record["threads"] == torch.get_num_threads()
    stamps = [os.stat(path).st_mtime_ns for path in paths]
    assert main(command) == 0
    assert [os.stat(path).st_mtime_ns for path in paths] == stamps
    rows = stored_rows(Path(paths[0]).parent, "zero-shot")
    image = Image.open(rated / "3_2.png")
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    assert rows["3_2.png"].value == pytest.approx(GRepQ.from_pretrained("grepq-ll")(x).item(), abs=1e-6)


def test_a_failure_is_recorded_and_excluded_for_all_or_its_own(rated, tmp_path):
    dataset = open_dataset(str(rated), tmp_path)

    def failing(image, reference, name):
        if name == "4_0.png":
            raise RuntimeError("out of luck")
        return float("nan") if name == "4_1.png" else by_level(image, reference, name)

    for made in (metric_of(by_level), metric_of(failing, "failing-0001"), metric_of(lambda *_: 1 / 0, "broken-0001")):
        run(dataset, made, "zero-shot", tmp_path, World())
    rows = stored_rows(next(tmp_path.glob("*/failing-0001")), "zero-shot")
    assert rows["4_0.png"].error == "RuntimeError: out of luck"
    assert "the value is nan" in rows["4_1.png"].error
    for failures, images in (("all", 78), ("own", 80)):
        rows = {row.metric: row for row in collect(tmp_path, [dataset], failures).rows}
        assert rows["made-0001"].images == images
        assert rows["failing-0001"].images == 78
        assert rows["failing-0001"].failed == 2
        assert rows["broken-0001"].failed == 80
        assert rows["broken-0001"].figures["srcc"] is None
    mended = metric_of(by_level, "failing-0001")
    run(dataset, mended, "zero-shot", tmp_path, World(), retry_failed=True)
    assert not any(row.error for row in stored_rows(next(tmp_path.glob("*/failing-0001")), "zero-shot").values())


def test_a_full_disk_names_the_file_and_keeps_what_is_there(rated, tmp_path, monkeypatch):
    dataset, scored, full = open_dataset(str(rated), tmp_path), [], []

    def score(image, reference, name):
        scored.append(name)
        full.extend([True] * (len(scored) == 30))
        return by_level(image, reference, name)

    write = results.RowWriter.write

    class Full:
        """The stream of a file on a full disk."""

        def write(self, text):
            raise OSError(28, "No space left on device")

    def write_row(self, row):
        if full:
            self.stream, stream = Full(), self.stream
            try:
                write(self, row)
            finally:
                self.stream = stream
        else:
            write(self, row)

    monkeypatch.setattr(results.RowWriter, "write", write_row)
    with pytest.raises(OSError, match=r"cannot write .*zero-shot\.0-of-1.*part\.csv: No space left.*what was scored is kept"):
        run(dataset, metric_of(score), "zero-shot", tmp_path, World())
    full.clear()
    run(dataset, metric_of(score), "zero-shot", tmp_path, World())
    assert len(scored) == 81  # the row that could not be written is made once more


def test_heads_are_fitted_to_the_same_draws_and_contents_are_not_shared(rated, tmp_path):
    dataset = open_dataset(str(rated), tmp_path)
    features = metric_of(None, "features-0001", features=None)
    with pytest.raises(ValueError, match="has no features to fit to labels"):
        run(dataset, features, "few-labels", tmp_path, World())
    command = ["run", "--dataset", str(rated), "--results", str(tmp_path), "--draws", "3"]
    assert main([*command, "--metrics", "brisque-features", "grepq-ll", "--protocol", "few-labels", "full"]) == 0
    tested = []
    for name in ("brisque-features", "grepq-ll"):
        path = next(tmp_path.glob(f"*/{name}-*/few-labels.predictions.csv"))
        rows = results.read_rows(path, PredictionRow)
        tested.append([(row.labels, row.draw, row.image) for row in rows])
        kept = results.read_rows(path.with_name("few-labels.csv"), DrawRow)
        assert [row.draw for row in kept] == [0, 1, 2]
        assert {row[0] for row in tested[-1]} == {50}  # 64 training images are too few for 100
    assert tested[0] == tested[1]
    rows = collect(tmp_path, [dataset]).rows
    assert {(row.protocol, row.labels) for row in rows} == {("few-labels", 50), ("full", "all")}
    assert all(row.figures["srcc"] > 0.5 for row in rows)
    assert "median of 3 draws; the interval is that of their quartiles" in rows[0].notes


def test_heads_are_fitted_anew_when_what_they_are_made_of_changes(rated, tmp_path):
    dataset, failing = open_dataset(str(rated), tmp_path), {"3_0.png", "4_1.png"}

    def features(image):
        value = means(image)
        if failing and float(value[3]) in broken:
            raise RuntimeError("out of luck")
        return value

    load = dataset.record.load
    broken = {float(load(rated / name)[None].std((0, 2, 3))[0]) for name in failing}
    made = metric_of(None, "mean-0001", features=features)
    for protocol in ("few-labels", "full"):
        run(dataset, made, protocol, tmp_path, World(), draws=2)
    other = metric_of(None, "whole-0001", features=lambda image: image.mean((0, 2, 3)).numpy())
    run(dataset, other, "full", tmp_path, World())
    rows = [row for row in collect(tmp_path, [dataset]).rows if row.protocol == "full"]
    assert len({row.images for row in rows}) == 1
    failing.clear()
    for protocol in ("few-labels", "full"):
        path = run(dataset, made, protocol, tmp_path, World(), draws=3, retry_failed=True).path
        assert json.loads(path.read_text())["failed"] == 0
    assert json.loads((path.parent / "few-labels.json").read_text())["made_of"]["draws"] == 3


def test_a_fresh_clone_keeps_what_heads_have_scored_without_features(rated, tmp_path):
    dataset, calls = open_dataset(str(rated), tmp_path), []

    def features(image):
        calls.append(1)
        return means(image)

    made = metric_of(None, "means-0001", features=features)
    path = run(dataset, made, "few-labels", tmp_path, World(), draws=2).path
    for name in ("features.csv", "features.json", "few-labels.predictions.csv"):
        (path.parent / name).unlink()
    calls.clear()
    (row,) = collect(tmp_path).rows  # needs no opinion score
    assert row.figures["srcc"] == pytest.approx(json.loads(path.read_text())["median_srcc"]["50"])
    assert run(dataset, made, "few-labels", tmp_path, World(), draws=2).path == path
    assert not calls
    run(dataset, made, "few-labels", tmp_path, World(), draws=3)
    assert len(calls) == 80


def test_scores_from_a_file_are_found_by_unique_base_names(rated, tmp_path, capsys):
    (tmp_path / "photos").symlink_to(rated, target_is_directory=True)
    names = sorted(path.name for path in rated.glob("[0-9]*.png"))
    write_csv(tmp_path / "labels.csv", ["image", "mos"], [[f"photos/{name}", i] for i, name in enumerate(names)])
    theirs = write_csv(tmp_path / "theirs.csv", ["image", "score"], [[name, name[-5]] for name in names])
    command = ["run", "--dataset", str(tmp_path), "--results", str(tmp_path / "results"), "--metrics"]
    assert main([*command, str(theirs)]) == 0
    rows = stored_rows(next(tmp_path.glob("results/*/theirs-*")), "zero-shot")
    assert {name: row.value for name, row in rows.items()} == {f"photos/{name}": float(name[-5]) for name in names}
    other = write_csv(tmp_path / "other.csv", ["image", "score"], [["x.png", 1]])
    assert main([*command, str(other)]) == 1
    expected = "other: scores of 0 of 80 images found: the file has names like 'x.png', expected names like 'photos/0_0.png'"
    assert expected in capsys.readouterr().err
    part = write_csv(tmp_path / "part.csv", ["image", "score"], [[name, 1] for name in names[:50]])
    assert main([*command, str(part)]) == 0
    assert "failed: part on 30 of 80 images" in capsys.readouterr().err
    assert metrics.match_names(["a/x", "b/x", "c/y"], ["x", "y"]) == {"c/y": "y"}  # which x it is, nobody knows


def test_scores_with_a_decimal_comma_or_two_scores_are_refused(tmp_path):
    path = write_csv(tmp_path / "theirs.csv", ["image", "score"], [["a.png", 1, 692]])
    with pytest.raises(ValueError, match=r"line 2: expected 2 fields .*'a\.png,1,692'"):
        open_metric(str(path))
    path = write_csv(tmp_path / "theirs.csv", ["image", "score"], [["a.png", "1,692"]])
    with pytest.raises(ValueError, match="line 2: expected a number as 'score', got '1,692'"):
        open_metric(str(path))


def test_a_metric_that_can_not_be_had_is_skipped_with_a_reason_and_the_others_run(rated, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(metrics.PACKAGES, "niqe-package", "no-such-package")
    command = ["run", "--dataset", str(rated), "--results", str(tmp_path), "--metrics", "niqe-package"]
    assert main([*command, "psnr"]) == 1
    assert "skipped: niqe-package needs the package no-such-package: pip install" in capsys.readouterr().err
    assert list(tmp_path.glob("*/psnr-*/zero-shot.json"))
    assert main(command) == 2
    assert "none of the metrics can be had" in capsys.readouterr().err
    assert main([*command, "pnsr"]) == 2  # a slip of the pen, before hours of scoring
    assert "unknown metric 'pnsr'; did you mean psnr" in capsys.readouterr().err


def test_offline_stands_for_all_metrics_that_fit_and_download_nothing(rated, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(metrics, "BUILT_IN", ("piqe", "psnr"))
    monkeypatch.setattr(metrics, "PACKAGES", {"brisque-features": "pyiqa"})
    plain = [[str(rated / f"{c}_{level}.png"), 4 - level] for c in range(2) for level in range(4)]
    path = write_csv(tmp_path / "plain.csv", ["image", "mos"], plain)
    assert main(["run", "--dataset", str(path), "--results", str(tmp_path / "r"), "--metrics", "offline"]) == 0
    made = {folder.name.rpartition("-")[0] for folder in tmp_path.glob("r/*/*") if folder.is_dir()}
    assert made == {
        "grepq-sem",
        "grepq-lite",
        "grepq-ll",
        "qfm-iqm",
        "piqe",
    }  # no references for PSNR, no score of features; nothing is said of them
    assert capsys.readouterr().err == ""


def test_list_names_datasets_and_metrics_and_marks_those_without_a_download(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for word in ("koniq10k", "biq2021", "agiqa-3k", "toy", "lower is better", "split, content"):
        assert word in text
    words = text.split()
    for name in ("grepq-sem*", "grepq-lite*", "grepq-ll*", "piqe*", "brisque-package*", "psnr*", "grepq", "musiq", "niqe"):
        assert name in words


@pytest.mark.slow
def test_without_pyiqa_the_harness_scores_with_grepq_and_files(rated, tmp_path):
    names = [path.name for path in rated.glob("[0-9]*.png")]
    theirs = write_csv(tmp_path / "theirs.csv", ["image", "score"], [[name, name[-5]] for name in names])
    command = ["run", "--dataset", str(rated), "--results", str(tmp_path / "r"), "--metrics"]
    wanted = [[*command, "grepq-ll", str(theirs)], ["list"], [*command, "psnr"]]
    code = "import json, sys; sys.modules['pyiqa'] = None; from benchmarks.__main__ import main\n"
    code += "print('statuses', [main(given) for given in json.loads(sys.argv[1])])"
    environment = {**os.environ, "GREPQ_METRIC_AUTOLOAD": "0"}
    run = [sys.executable, "-c", code, json.dumps(wanted)]
    done = subprocess.run(run, check=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "statuses [0, 0, 2]" in done.stdout
    assert "grepq-ll*" in done.stdout.split()
    assert "unknown metric 'psnr'" in done.stderr
    assert len(list(tmp_path.glob("r/*/*/zero-shot.json"))) == 2


def test_results_hold_no_folder_of_this_machine(rated, tmp_path, monkeypatch):
    command = ["run", "--dataset", str(rated), "--metrics", f"grepq-ll:head={tmp_path / 'head.safetensors'}"]
    from grepq_metric import GRepQRegressor

    names = sorted(rated.glob("[0-9]*.png"))[:20]
    GRepQRegressor("grepq-ll").fit(names, np.linspace(0, 1, 20)).save(tmp_path / "head.safetensors")
    command += ["--results", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *command])
    assert main(command) == 0
    for path in tmp_path.glob("r/**/*.*"):
        text = path.read_text()
        assert str(tmp_path) not in text
        assert str(rated) not in text
    (tmp_path / "damaged.png").write_bytes(b"no image")
    write_csv(tmp_path / "labels.csv", ["image", "mos"], [["damaged.png", 1]])
    broken = open_dataset(str(tmp_path), tmp_path)
    outcome = run(broken, metric_of(by_level), "zero-shot", tmp_path / "broken", World())
    assert "damaged.png" in outcome.example
    assert str(tmp_path) not in outcome.example
    (path,) = tmp_path.glob("r/*/*/zero-shot.json")
    assert results.read_facts(path, ResultRecord).metric_name == "grepq-ll+head"


def test_no_result_holds_an_opinion_score(rated, tmp_path):
    dataset = open_dataset(str(rated), tmp_path)
    run(dataset, metric_of(by_level), "zero-shot", tmp_path / "r", World())
    run(dataset, metric_of(None, "means-0001", features=means), "few-labels", tmp_path / "r", World(), draws=1)
    text = "".join(path.read_text() for path in tmp_path.glob("r/**/*.*"))
    assert "3_1.png" in text
    assert not [item.name for item in dataset.items if repr(item.mos)[:8] in text]


def test_help_says_what_the_exit_status_means(capsys):
    for command in ([], ["run"], ["report"], ["list"], ["convert-peer"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        assert "130  interrupted by Ctrl-C" in capsys.readouterr().out


def test_packages_with_their_models_order_distortions(photos):
    pytest.importorskip("brisque")
    pytest.importorskip("skvideo")
    clean = photos["coffee"]
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for name in ("brisque-package", "niqe-package"):
        metric = open_metric(name)
        assert metric.lower_better
        assert metric.score(noisy, None, None) > metric.score(clean, None, None)
    with pytest.raises(ValueError, match="sides of 193 pixels or more, got 96x96"):
        open_metric("niqe-package").score(clean[..., :96, :96], None, None)


@pytest.mark.slow
def test_two_processes_share_the_images(rated, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "benchmarks"]
    arguments = ["run", "--dataset", str(rated), "--metrics", "piqe", "grepq-ll", "--protocol", "zero-shot", "--results"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *arguments, str(tmp_path / "two")], check=True, cwd=ROOT, env=environment, timeout=300)
    assert main([*arguments, str(tmp_path / "one")]) == 0
    for name in ("piqe", "grepq-ll"):
        folders = [next((tmp_path / n).glob(f"*/{name}-*")) for n in ("one", "two")]
        one, two = (stored_rows(folder, "zero-shot") for folder in folders)
        assert list(one) == list(two)
        assert [r.value for r in two.values()] == pytest.approx([r.value for r in one.values()], abs=1e-5)
        assert json.loads((folders[1] / "zero-shot.json").read_text())["processes"] == 2
