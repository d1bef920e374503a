"""Promises of `grepq threshold`: the best cut-off of those there are, intervals that hold, labels read as they are meant."""

import itertools
import json
import os

import numpy as np
import pytest

from grepq_metric.errors import InputError
from grepq_metric.heads.threshold import find_threshold
from tests.command import grepq

SCORES = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
LABELS = [0, 0, 0, 1, 0, 1, 1, 1]


def sheet(folder, lines, name="labels.csv"):
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def rated(count=60, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, count)
    return scores, rng.uniform(0, 1, count) < scores


def test_the_cut_off_is_the_best_of_all():
    """Against trying each cut-off, with ties among the scores."""
    for seed in range(8):
        scores, good = rated(40, seed)
        scores = scores.round(1)
        for wanted in (0.6, 0.75, 0.9):
            kept = {cut: scores > cut for cut in (np.unique(scores) - 0.05)}
            rates = [(good[k].mean(), good[k].sum() / good.sum()) for k in kept.values()]
            found = find_threshold(scores, good, precision=wanted, draws=1)
            reached = [(recall, precision) for precision, recall in rates if precision >= wanted - 1e-9]
            assert found.reached == bool(reached)
            if reached:
                assert (found.recall.value, found.precision.value) == pytest.approx(max(reached))
            found = find_threshold(scores, good, recall=wanted, draws=1)
            expected = max((precision, recall) for precision, recall in rates if recall >= wanted - 1e-9)
            assert (found.precision.value, found.recall.value) == pytest.approx(expected)
            assert found.kept == pytest.approx((scores > found.cutoff.value).mean())


def test_a_wish_that_can_not_be_reached_is_told():
    found = find_threshold([1, 2, 3, 4], [1, 1, 1, 0], precision=0.9)
    assert not found.reached
    assert found.precision.value == 0.75
    assert found.cutoff.value == 0.5  # below all, as far as the next score is above


def test_auc_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    scores, good = rated()
    assert find_threshold(scores.round(1), good, precision=0.7, draws=1).auc == pytest.approx(
        roc_auc_score(good, scores.round(1))
    )


def test_a_prior_corrects_the_precision_of_another_mix():
    """Of the labels half are good, in the folder one in ten: by weights that make the labels the folder."""
    scores, good = rated(2000)
    same = find_threshold(scores, good, recall=0.8, prior=good.mean(), draws=1)
    plain = find_threshold(scores, good, recall=0.8, draws=1)
    assert same.precision.value == pytest.approx(plain.precision.value)
    few = find_threshold(scores, good, recall=0.8, prior=0.1, draws=1)
    above = scores > few.cutoff.value
    weights = np.where(good, 0.1 / good.sum(), 0.9 / (~good).sum())
    assert few.precision.value == pytest.approx(weights[above & good].sum() / weights[above].sum())
    assert few.kept == pytest.approx(weights[above].sum())
    assert few.precision.low < few.precision.value < few.precision.high < plain.precision.value
    assert few.recall == find_threshold(scores, good, recall=0.8, prior=0.1, draws=1).recall


def test_intervals_hold_the_truth():
    """Of the cut-off of a large sample, in most of 60 small ones; the same seed gives the same interval."""
    truth = find_threshold(*rated(20000, 1), precision=0.8, draws=1).cutoff.value
    found = [find_threshold(*rated(100, seed), precision=0.8, draws=200) for seed in range(100, 160)]
    assert np.mean([f.cutoff.low <= truth <= f.cutoff.high for f in found]) >= 0.8
    assert find_threshold(*rated(), precision=0.8) == find_threshold(*rated(), precision=0.8)
    (found,) = {find_threshold(SCORES, LABELS, precision=0.8, draws=1).precision}
    assert found == pytest.approx((0.8, 0.2836, 0.9949), abs=1e-4)  # 4 of 5: Clopper and Pearson's table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": 0.9, "recall": 0.9}, "one of them"),
        ({}, "one of them"),
        ({"precision": 90}, "precision must be above 0 and at most 1, got 90"),
        ({"recall": 0}, "recall must be above 0"),
        ({"precision": 0.9, "prior": 1}, "prior must be between 0 and 1"),
        ({"precision": 0.9, "draws": 0}, "draws must be 1 or more"),
        ({"precision": 0.9, "scores": [1, 2]}, "a score and a label for each photo"),
        ({"precision": 0.9, "scores": [1, 2, np.nan]}, "finite"),
        ({"precision": 0.9, "accepted": [1, 2, 0]}, "1 and 0"),
        ({"precision": 0.9, "accepted": [1, 1, 1]}, "none of the 3 labelled ones is rejected"),
        ({"precision": 0.9, "accepted": [0, 0, 0]}, "none of the 3 labelled ones is accepted"),
        ({"precision": 0.9, "scores": [2, 2, 2]}, "all 3 are 2"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        find_threshold(**{"scores": [1, 2, 3], "accepted": [0, 1, 1], **arguments})


def test_a_sheet_with_scores(tmp_path):
    words = itertools.cycle([("yes", "No"), ("KEEP", "drop"), ("accept", "reject"), ("true", "FALSE"), ("1", "0")])
    lines = [f"{i}.jpg,{score},{next(words)[1 - good]}" for i, (score, good) in enumerate(zip(SCORES, LABELS, strict=True))]
    path = sheet(tmp_path, ["path,score,accept", *lines, "later.jpg,0.5,"])
    result = grepq("threshold", path, "--precision", "0.8")
    assert result.stdout.splitlines()[0].startswith("score above 0.45 (95 % interval ")
    assert "precision  0.800 (0.284 to 0.995)" in result.stdout
    assert "recall     1.000 (0.398 to 1.000)" in result.stdout
    assert "labels     4 accepted, 4 rejected" in result.stdout
    assert "only 4 accepted and 4 rejected: with fewer than 20" in result.stdout
    assert result.stdout.splitlines()[-1] == "apply it: grepq score PHOTOS --keep-above 0.45 --by score"
    assert "left out, since" in result.stderr
    assert "1 of 9 photos" in result.stderr


def test_what_can_not_be_reached_is_told_and_is_status_1(tmp_path):
    path = sheet(tmp_path, ["image,score,accept", "a,1,1", "b,2,1", "c,3,0"])
    result = grepq("threshold", path, "--precision", "0.95", status=1)
    assert "no cut-off reaches the precision 0.95; nearest to it is" in result.stderr
    assert "score above 0.5 " in result.stdout
    assert "precision  0.667" in result.stdout


def test_a_prior_is_named(tmp_path):
    path = sheet(tmp_path, ["image,score,accept", "a,1,0", "b,2,1", "c,3,0", "d,4,1"])
    plain, rare = (grepq("threshold", path, "--recall", "0.9", *more).stdout for more in ((), ("--prior", "0.1")))
    assert "precision  0.667" in plain
    assert "precision  0.182" in rare
    assert "where 0.1 of the photos are acceptable" in rare


def test_scores_of_another_table_are_joined_by_the_file_that_is_meant(tmp_path):
    (tmp_path / "sub").mkdir()
    labels = sheet(tmp_path / "sub", ["image,ok", "a.jpg,1", "./b.jpg,0", "c.jpg,1", "gone.jpg,1"])
    rows = [{"path": f"./sub/{name}.jpg", "mos": mos} for name, mos in (("a", 70), ("b", 20), ("c", None))]
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["threshold", labels, "--label-column", "ok", "--scores", tmp_path / "scores.jsonl", "--score-column", "mos"]
    for folder in (tmp_path, tmp_path / "sub"):  # the table's own folder counts as well
        result = grepq(*arguments, cwd=folder)
        assert "2 labelled photos have no mos: c.jpg, gone.jpg" in result.stderr
        assert result.stdout.splitlines()[-1] == "apply it: grepq score PHOTOS --keep-above 45 --by mos"


def test_without_scores_photos_are_scored_here(photo_folder, tmp_path):
    names = sorted(os.listdir(photo_folder))
    lines = [f"{name},{int(i % 2)}" for i, name in enumerate(names)]
    path = sheet(tmp_path, ["image,accept", *lines, "absent.png,1"])
    arguments = ["threshold", path, "--root", photo_folder, "--metric", "grepq-ll", "--recall", "1"]
    result = grepq(*arguments)
    assert "left out: no such file" in result.stderr
    assert f"{(len(names) + 1) // 2} rejected" in result.stdout
    assert "--metric grepq-ll --keep-above 0." in result.stdout.splitlines()[-1]
    rows = json.loads(grepq("score", photo_folder, "--metric", "grepq-ll", "--format", "json").stdout)
    worst = min(row["score"] for row in rows if names.index(os.path.basename(row["path"])) % 2)
    others = max([row["score"] for row in rows if row["score"] < worst], default=worst - 1)
    assert others < float(result.stdout.split()[2]) < worst


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        (["image,accept", "a,1", "b,maybe"], [], "row 2: expected 1 or 0, yes or no"),
        (["photo,accept", "a,1"], [], "no column 'image' or 'path'"),
        (["image,ok", "a,1"], [], "no column 'accept'"),
        (["image,accept", "a,1", "./a,0"], [], "names ./a twice"),
        (["image,accept", "a,", "b,"], [], "none of the 2 rows"),
        (["image,accept,score", "a,1,good", "b,0,bad"], [], "expected a number as the score of a, got 'good'"),
        (["image,accept,score", "a,1,", "b,0,"], [], "none of the 2 labelled photos has a score"),
        (["image,accept,score", "a,1,2", "b,1,3"], [], "none of the 2 labelled ones is rejected"),
        (["image,accept", "a,1"], ["--score-column", "mos"], "no column 'mos'"),
        (["image,accept", "a,1"], ["--precision", "90"], "--precision must be above 0 and at most 1, got 90"),
        (["image,accept", "a,1"], ["--precision", "0.9", "--recall", "0.9"], "give one of them"),
        (["image,accept", "a,1"], ["--prior", "0"], "--prior must be between 0 and 1"),
        (["image,accept", "a,1"], ["--scores", "absent.csv"], "no such table for --scores"),
    ],
)
def test_what_is_wrong_with_a_sheet_is_one_line(tmp_path, lines, arguments, message):
    result = grepq("threshold", sheet(tmp_path, lines), *arguments, status=2)
    assert message in result.stderr.splitlines()[-1]
