"""Promises of reports: functions of results and the user's own opinion scores, honest comparisons, and no dead link."""

import csv
import json

import numpy as np
import pytest
import scipy.stats

from benchmarks.__main__ import main
from benchmarks.harness import results as files
from benchmarks.harness.datasets import open_dataset
from benchmarks.harness.metrics import PUBLISHED_METHOD, open_metric
from benchmarks.harness.report import page_data
from benchmarks.harness.report.collect import collect
from benchmarks.harness.report.rows import FROM_FILE, MEASURED, PUBLISHED, notes_on
from benchmarks.harness.report.tables import average_ranks, latex, markdown
from benchmarks.harness.results import ScoreRow
from benchmarks.harness.runner import run
from grepq_metric.training.distributed import World
from tests.harness_data import by_level, means, metric_of, rate, write_csv


@pytest.fixture(scope="module")
def rated(tmp_path_factory, photos):
    return rate(tmp_path_factory.mktemp("rated"), photos)


@pytest.fixture
def results(rated, tmp_path):
    """Results of a good and a poor metric, of which the data set is ``RATED:name=KonIQ-10k``."""
    dataset = open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)
    rng = np.random.default_rng(0)
    noise = {item.name: rng.normal() for item in dataset.items}
    run(dataset, metric_of(by_level, "good_0001"), "zero-shot", tmp_path / "results", World())
    poor = metric_of(lambda i, r, name: by_level(i, r, name) + 4 * noise[name], "poor-0001")
    run(dataset, poor, "zero-shot", tmp_path / "results", World())
    return tmp_path / "results"


def test_the_report_is_a_function_of_results_and_opinion_scores(rated, results, tmp_path):
    outs = [tmp_path / "a", tmp_path / "b"]
    given = ["report", "--dataset", f"{rated}:name=KonIQ-10k", "--results", str(results), "--out"]
    for out in outs:
        assert main([*given, str(out)]) == 0
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "summary.json"):
        assert (outs[0] / name).read_text() == (outs[1] / name).read_text()
    text = (outs[0] / "leaderboard.md").read_text()
    measured, published = text.split("published, not measured here")[:2]
    assert "| good_0001 |" in measured
    assert "GRepQ" not in measured
    assert "| GRepQ | 0.768 | 0.788 | arXiv 2506.17969" in published
    with (outs[0] / "leaderboard.csv").open() as stream:
        rows = {row["metric"]: row for row in csv.DictReader(stream) if row["origin"] == MEASURED}
    dataset = open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)
    scores = {row.image: row.value for row in files.read_rows(results / dataset.id / "good_0001" / "zero-shot.csv", ScoreRow)}
    expected = scipy.stats.spearmanr([scores[item.name] for item in dataset.items], dataset.mos).statistic
    assert float(rows["good_0001"]["srcc"]) == pytest.approx(expected)
    assert rows["good_0001"]["letters"] == "a"
    assert rows["poor-0001"]["letters"] == "b"
    assert "\\textbf{" in (outs[0] / "leaderboard.tex").read_text()
    assert (outs[0] / "index.html").read_text().lower().startswith("<!doctype html>")
    summary = json.loads((outs[0] / "summary.json").read_text())
    assert summary["schema"] == 1
    (row,) = (row for row in summary["rows"] if row["metric"] == "good_0001")
    assert row["srcc"] == pytest.approx(expected, abs=1e-4)
    assert row["srcc_interval"][0] > 0.9
    assert row["dataset_id"] == dataset.id
    assert row["date"]
    assert row["command"]


def test_a_dataset_without_its_opinion_scores_is_named_and_the_others_are_reported(rated, results, tmp_path, capsys):
    dataset = open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)
    given = ["report", "--results", str(results), "--out", str(tmp_path / "out")]
    assert main(given) == 2
    assert f"scores of {dataset.id}: results hold no opinion scores" in capsys.readouterr().err
    other = open_dataset(f"{rated}:name=other", tmp_path)
    run(other, metric_of(by_level, "good_0001"), "zero-shot", results, World())
    assert main([*given, "--dataset", f"{rated}:name=other"]) == 1
    assert f"not reported: scores of {dataset.id}" in capsys.readouterr().err
    text = (tmp_path / "out/leaderboard.md").read_text()
    assert "## other, zero-shot" in text
    assert f"- Not reported: scores of {dataset.id}" in text


def test_another_copy_is_told_from_the_one_that_was_scored(rated, results, tmp_path):
    rows = [[str(rated / f"{c}_{level}.png"), level] for c in range(20) for level in range(4)]
    path = write_csv(tmp_path / "other.csv", ["image", "mos"], rows)
    copy = open_dataset(f"{path}:name=KonIQ-10k", tmp_path)
    with pytest.raises(ValueError, match=f"the copy that was given is {copy.id}, with other images and opinion scores"):
        collect(results, [copy])


def test_contents_that_are_known_later_enter_the_report_alone(rated, results, tmp_path):
    names = [f"{c}_{level}.png" for c in range(20) for level in range(4)]
    dataset = open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)
    mos = {item.name: item.mos for item in dataset.items}
    kept = (rated / "labels.csv").read_text()
    try:
        rows = [[name, mos[name], f"original_{name.split('_')[0]}.png", f"c{i % 3}"] for i, name in enumerate(names)]
        write_csv(rated / "labels.csv", ["image", "mos", "reference", "content"], rows)
        richer = open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)
    finally:
        (rated / "labels.csv").write_text(kept)
    plain, rich = ({row.metric: row for row in collect(results, [one]).rows} for one in (dataset, richer))
    assert rich["good_0001"].figures == plain["good_0001"].figures
    assert plain["good_0001"].intervals["srcc"]
    assert not rich["good_0001"].intervals  # of three contents


def test_too_few_contents_have_no_interval_and_no_test(rated, tmp_path):
    rows = [[str(rated / f"{c}_{level}.png"), 4 - level, f"content {c}"] for c in range(3) for level in range(4)]
    dataset = open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos", "content"], rows)), tmp_path)
    for name, sign in (("a-0001", 1), ("b-0001", -1)):
        run(dataset, metric_of(lambda i, r, n, s=sign: -s * float(n[-5]), name), "zero-shot", tmp_path, World())
    for row in collect(tmp_path, [dataset]).rows:
        assert not row.intervals
        assert row.letters is None
        assert "fewer than 5 contents: no interval and no test" in row.notes


def test_scores_from_files_and_full_references_stand_where_they_belong(rated, tmp_path, capsys):
    names = [path.name for path in rated.glob("[0-9]*.png")]
    path = write_csv(tmp_path / "theirs.csv", ["image", "score"], [[name, name[-5]] for name in names])
    folder = tmp_path / "results"
    command = ["run", "--dataset", str(rated), "--metrics", f"{path}:lower_better=true", "psnr", "--results", str(folder)]
    assert main(command) == 0
    report = collect(folder, [open_dataset(str(rated), tmp_path)])
    rows = {row.name: row for row in report.rows}
    assert rows["theirs"].figures["srcc"] > 0.9
    assert rows["theirs"].origin == FROM_FILE
    assert rows["theirs"].seconds is None
    assert rows["psnr"].mode == "FR"
    assert rows["psnr"].origin == MEASURED
    low, high = rows["psnr"].intervals["srcc"]
    assert 0.9 < low < rows["psnr"].figures["srcc"] < high
    measured, elsewhere = markdown(report).split(": scores from files\n")
    assert "| psnr |" in measured
    assert "| theirs |" not in measured
    assert "| theirs |" in elsewhere
    plain = [[str(rated / name), 1 + i] for i, name in enumerate(names[:6])]
    path_of_plain = write_csv(tmp_path / "plain.csv", ["image", "mos"], plain)
    assert main(["run", "--dataset", str(path_of_plain), "--metrics", "psnr", str(path), "--results", str(folder)]) == 1
    assert "needs references, and plain has none" in capsys.readouterr().err


def test_tables_use_short_names_and_say_once_what_they_stand_for(rated, tmp_path):
    dataset = open_dataset(str(rated), tmp_path)
    for name in ("one_x-0123abcd", "two-0123abcd", "two-4567abcd"):
        run(dataset, metric_of(by_level, name), "zero-shot", tmp_path / "r", World())
    report = collect(tmp_path / "r", [dataset])
    text = markdown(report)
    assert "| one_x |" in text
    assert "- one_x: one_x-0123abcd" in text
    assert "| two-0123abcd |" in text  # two of the same name: ids tell them apart
    assert "| two-4567abcd |" in text
    tex = latex(report)
    assert "one\\_x & " in tex
    assert tex.count("one\\_x-0123abcd") == 1


def test_plain_clip_is_named_beside_its_rows_in_every_table(rated, tmp_path):
    dataset = open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)
    note = "its high-level pathway is plain"
    run(dataset, metric_of(by_level, "grepq-0001", provenance={"plain_clip": note}), "zero-shot", tmp_path / "r", World())
    run(dataset, metric_of(by_level, "other-0001"), "zero-shot", tmp_path / "r", World())
    report = collect(tmp_path / "r", [dataset])
    assert {row.name: row.notes for row in report.rows if row.origin == MEASURED} == {"grepq": [note], "other": []}
    for text in (markdown(report), latex(report)):
        assert f"grepq: {note}" in text
        assert f"other: {note}" not in text
    (flat,) = (row for row in page_data(report, tmp_path)["rows"] if row["name"] == "grepq")
    assert (flat["notes"], flat["provenance"]["plain_clip"]) == ([note], note)


def test_the_published_method_is_named_beside_its_zero_shot_rows_in_every_table(rated, tmp_path):
    dataset = open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)
    metric = metric_of(by_level, "theirs-0001", provenance={"published_method": PUBLISHED_METHOD})
    run(dataset, metric, "zero-shot", tmp_path / "r", World())
    run(dataset, metric_of(by_level, "other-0001"), "zero-shot", tmp_path / "r", World())
    report = collect(tmp_path / "r", [dataset])
    for text in (markdown(report), latex(report)):
        assert f"theirs: {PUBLISHED_METHOD}" in text
        assert f"other: {PUBLISHED_METHOD}" not in text
    (flat,) = (row for row in page_data(report, tmp_path)["rows"] if row["name"] == "theirs")
    assert flat["notes"] == [PUBLISHED_METHOD]
    assert notes_on(metric.provenance, "few-labels") == []  # the head is ours


def test_the_average_rank_is_over_all_datasets_of_the_metrics_that_all_have(rated, tmp_path):
    datasets = [open_dataset(f"{rated}:name={name}", tmp_path) for name in ("first", "second")]

    def worse(image, reference, name):
        return by_level(image, reference, name) + 3 * np.sin(1000 * len(name) + ord(name[0]) * 7 + ord(name[-5]))

    for dataset in datasets:
        run(dataset, metric_of(by_level, "good-1"), "zero-shot", tmp_path / "r", World())
        run(dataset, metric_of(worse, "worse-1"), "zero-shot", tmp_path / "r", World())
    run(datasets[0], metric_of(by_level, "once-1"), "zero-shot", tmp_path / "r", World())
    report = collect(tmp_path / "r", datasets)
    (ranks,) = average_ranks(report)
    assert ranks.datasets == ["first", "second"]
    assert ranks.ranks == {"good": 1.0, "worse": 2.0}
    assert "| good | 1.00 |" in markdown(report)
    assert not average_ranks(collect(tmp_path / "r", datasets[:1]))


def test_tracks_are_never_ranked_together(rated, tmp_path, capsys):
    names = sorted(path.name for path in rated.glob("[0-9]*.png"))
    theirs = write_csv(tmp_path / "theirs.csv", ["image", "score"], [[name, -int(name[-5])] for name in names])
    folder = tmp_path / "r"
    command = ["run", "--results", str(folder), "--dataset"]
    spheres, scans = (f"{rated}:name={name},track={track}" for name, track in (("O1", "omnidirectional"), ("M1", "medical")))
    of_spheres = [f"{theirs}:name={name},track=omnidirectional" for name in ("Assessor360", "other360")]
    of_photos = [f"{theirs}:name={name}" for name in ("one", "two")]
    assert main([*command, f"{rated}:name=P1", f"{rated}:name=P2", "--metrics", *of_photos]) == 0
    assert main([*command, spheres, spheres.replace("O1", "O2"), "--metrics", *of_spheres]) == 0
    assert main([*command, scans, "--metrics", f"{theirs}:track=medical"]) == 0
    assert main([*command, spheres, "--metrics", "psnr", of_photos[0]]) == 1
    assert "is of the track photos, and O1 of omnidirectional" in capsys.readouterr().err
    assert main([*command, f"{rated}:name=P1", "--metrics", *of_spheres]) == 1
    assert "is of the track omnidirectional, and P1 of photos" in capsys.readouterr().err
    given = [f"{rated}:name=P1", f"{rated}:name=P2", spheres, spheres.replace("O1", "O2"), scans]
    report = collect(folder, [open_dataset(spec, tmp_path) for spec in given])
    ranked = {tuple(ranks.datasets): (ranks.protocol, set(ranks.ranks)) for ranks in average_ranks(report)}
    assert ranked == {
        ("O1", "O2"): ("omnidirectional, zero-shot", {"Assessor360", "other360"}),
        ("P1", "P2"): ("zero-shot", {"one", "two"}),
    }
    text = markdown(report)
    assert "## O1 (omnidirectional), zero-shot, all images: scores from files" in text
    assert "## M1 (medical), zero-shot" in text
    assert open_dataset(spheres, tmp_path).id != open_dataset(f"{rated}:name=O1", tmp_path).id
    for spec in (f"{rated}:track=360", f"{theirs}:track=360"):
        with pytest.raises(
            ValueError, match=r"expected one of photos, omnidirectional, medical as track of .*\.csv, got '360'"
        ):
            (open_dataset(spec, tmp_path) if spec.startswith(f"{rated}:") else open_metric(spec))


def test_results_from_before_tracks_are_of_photos(rated, results, tmp_path):
    path = next(results.glob("*/dataset.json"))
    facts = json.loads(path.read_text())
    assert facts.pop("track") == "photos"
    path.write_text(json.dumps(facts))
    (facts,) = collect(results, [open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)]).datasets.values()
    assert facts.track == "photos"


def test_links_lead_to_files_that_are_there_and_thumbnails_are_embedded_on_request(rated, results, tmp_path):
    report = collect(results, [open_dataset(f"{rated}:name=KonIQ-10k", tmp_path)])
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (plot, *_) = page_data(report, out)["scatter"]
    assert len(plot["residuals"]) == 12
    for row in plot["residuals"]:
        assert (out / row["href"]).resolve() == (rated / row["image"]).resolve()
        assert row["thumbnail"] is None
    gone = plot["residuals"][0]["image"]
    data = (rated / gone).read_bytes()
    try:
        (rated / gone).unlink()
        (plot, *_) = page_data(report, out, thumbnails=True)["scatter"]
    finally:
        (rated / gone).write_bytes(data)
    assert (plot["residuals"][0]["href"], plot["residuals"][0]["thumbnail"]) == (None, None)
    for row in plot["residuals"][1:]:
        assert row["thumbnail"].startswith("data:image/jpeg;base64,")
        assert len(row["thumbnail"]) < 8000


def test_an_official_test_split_has_rows_and_intervals_of_its_own(rated, tmp_path):
    rows = [
        [str(rated / f"{c}_{level}.png"), 4 - level, "test" if c < 6 else "train"] for c in range(20) for level in range(4)
    ]
    dataset = open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos", "split"], rows)), tmp_path)
    run(dataset, metric_of(lambda i, r, name: -float(name[-5])), "zero-shot", tmp_path / "r", World())
    run(dataset, metric_of(None, "means-1", features=means), "full", tmp_path / "r", World())
    found = {(row.protocol, row.split): row for row in collect(tmp_path / "r", [dataset]).rows}
    assert found["zero-shot", "all"].images == 80
    assert found["zero-shot", "test"].images == 24
    assert found["full", "test"].images == 24
    assert found["full", "test"].intervals["srcc"]


def test_results_of_another_version_and_damaged_ones_are_named(rated, results, tmp_path, capsys):
    given = ["report", "--dataset", f"{rated}:name=KonIQ-10k", "--out", str(tmp_path), "--results"]
    assert main([*given, str(tmp_path / "empty")]) == 2
    assert "no results in" in capsys.readouterr().err
    path = next(results.glob("*/poor-0001/zero-shot.csv"))
    whole = path.read_text()
    path.write_text("\n".join(whole.split("\n")[:40]) + "\n")
    assert main([*given, str(results)]) == 2
    assert "lacks 41 images" in capsys.readouterr().err
    path.write_text(whole.replace('"value"', '"score"'))
    assert main([*given, str(results)]) == 2
    assert "zero-shot.csv has the columns ['image', 'score'" in capsys.readouterr().err
    record = path.with_suffix(".json")
    kept = json.loads(record.read_text())
    for content, message in (
        ("{", "zero-shot.json is damaged"),
        ("[]", "zero-shot.json is of another version than schema 1"),
        (json.dumps({**kept, "schema": 2}), "zero-shot.json is of another version than schema 1"),
        (json.dumps({**kept, "failed": "none"}), "zero-shot.json is damaged: failed missing or not as expected"),
        (json.dumps({**kept, "extra": 1}), "zero-shot.json is damaged: extra missing or not as expected"),
    ):
        record.write_text(content)
        assert main([*given, str(results)]) == 2
        assert message in capsys.readouterr().err


def test_published_figures_are_of_protocols_that_the_page_knows(tmp_path):
    from benchmarks.harness.report.collect import PAPERS
    from benchmarks.harness.sheets import read_sheet

    lines = read_sheet(PAPERS, ("method", "kind", "dataset", "labels", "srcc", "plcc", "source"))
    assert len(lines) > 130
    assert {line.text("kind") for line in lines} == {"zero-shot", "data-efficient", "full"}
    for line in lines:
        assert line.text("source")
        assert line.text("labels") == "all" or int(line.text("labels")) >= 0


def test_published_figures_are_shown_as_their_authors_and_not_as_ours(rated, tmp_path):
    titles = ["LIVE", "CSIQ", "KADID-10k", "CLIVE", "KonIQ-10k", "FLIVE", "SPAQ", "CVIQD"]
    few = [[str(rated / f"0_{level}.png"), 4 - level] for level in range(4)]  # so few that nothing is resampled
    path = write_csv(tmp_path / "labels.csv", ["image", "mos"], few)
    datasets = [open_dataset(f"{path}:name={title}", tmp_path) for title in titles]
    for dataset in datasets:
        run(dataset, metric_of(lambda i, r, name: -float(name[-5]), "ours-0001"), "zero-shot", tmp_path / "r", World())
    report = collect(tmp_path / "r", datasets)
    text = markdown(report)
    papers = [row for row in report.rows if row.origin == PUBLISHED]
    shown = {row.dataset: (row.figures["srcc"], row.figures["plcc"]) for row in papers if row.name == "QFM-IQM (authors)"}
    assert shown == {
        "LIVE": (0.981, 0.983),
        "CSIQ": (0.954, 0.965),
        "KADID-10k": (0.906, 0.906),
        "CLIVE": (0.891, 0.913),
        "KonIQ-10k": (0.922, 0.936),
        "FLIVE": (0.567, 0.667),
        "SPAQ": (0.920, 0.924),
    }
    assert "qfm-iqm" not in {row.name.lower() for row in papers}  # the name of our reading of the paper
    for section in text.split("\n## ")[1:]:
        published = ": published, not measured here" in section.split("\n")[0]
        assert published != ("| ours |" in section), section
    assert "| Assessor360 | 0.980 | 0.984 | README of TianheWu/Assessor360 |" in text
    names = {"Dog-IQA", "MA-CLIP", "CL-MI", "NPQI", "MP-IQE", "PFD-IQA", "UniQA (pre-trained on other opinion scores)"}
    assert names <= {row.name for row in papers}
    assert all(row.figures.get("srcc") is not None or row.figures.get("plcc") is not None for row in papers)
