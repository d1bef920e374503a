"""Promises of the harness's statistics: figures, intervals and tests that are what they say, and one protocol of labels."""

import numpy as np
import pytest
import scipy.stats
from pyiqa.metrics.correlation_coefficient import calculate_krcc, calculate_plcc, calculate_rmse, calculate_srcc

from benchmarks.harness import agreement, protocols


def test_figures_are_pyiqas_own():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    mos = 3 + 1.5 * np.tanh(x) + 0.3 * rng.normal(size=300)
    found, problems = agreement.agreement(x, mos)
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
    plain, _ = agreement.agreement(x, mos)
    tiny, _ = agreement.agreement(0.48 + 1e-4 * x, mos)
    assert tiny == pytest.approx(plain, abs=1e-4)


def test_what_can_not_be_fitted_is_said(monkeypatch):
    found, problems = agreement.agreement(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4]))
    assert found["plcc_logistic4"] is None
    assert found["rmse"] is None
    assert "logistic4: 4 images do not determine 4 parameters" in problems
    found, problems = agreement.agreement(np.ones(20), np.arange(20.0))
    assert found["srcc"] is None
    assert any("all scores or all opinions are equal" in problem for problem in problems)

    def fail(*_, **__):
        raise RuntimeError("Optimal parameters not found")

    monkeypatch.setattr(scipy.optimize, "curve_fit", fail)
    found, problems = agreement.agreement(np.arange(20.0), np.arange(20.0))
    assert found["plcc_logistic4"] is None
    assert "logistic4: did not converge" in problems
    assert found["plcc_cubic"] == pytest.approx(1)


def test_resamples_keep_contents_together():
    groups = ["a", "b", "a", "c", "b", "a"]
    for draw in agreement.resamples(groups, 6)[:50]:
        counts = np.bincount(draw, minlength=6)
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
    assert all(len(draw) == 6 for draw in agreement.resamples(None, 6))


@pytest.mark.slow
def test_intervals_and_tests_have_their_level():
    rng = np.random.default_rng(0)
    covered, rejected, found = 0, 0, 0
    for trial in range(40):
        truth = rng.normal(size=150)
        a, b = truth + rng.normal(size=150), truth + rng.normal(size=150)
        worse = truth + 3 * rng.normal(size=150)
        draws = agreement.resamples(None, 150, 300, seed=trial)
        values = {name: agreement.srcc(x, truth) for name, x in (("a", a), ("b", b), ("worse", worse))}
        boot = {
            name: np.array([agreement.srcc(x[d], truth[d]) for d in draws])
            for name, x in (("a", a), ("b", b), ("worse", worse))
        }
        low, high = agreement.interval(boot["a"])
        covered += low <= 0.689 <= high  # 6 / pi * asin(sqrt(0.5) / 2), the SRCC of that normal distribution
        p = agreement.pairwise_tests(boot, values)
        rejected += p["a", "b"] < 0.05
        found += p["a", "worse"] < 0.05
    assert covered >= 34
    assert rejected <= 6
    assert found >= 36


def test_holm_and_letters():
    # The example of Holm's method: 0.01, 0.04, 0.03 -> 0.03, 0.06, 0.06.
    assert agreement.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert agreement.holm([]) == []
    values = {"x": 0.9, "y": 0.8, "z": 0.7}
    p = {("x", "y"): 0.3, ("x", "z"): 0.001, ("y", "z"): 0.2}
    assert agreement.letters(values, p) == {"x": "a", "y": "ab", "z": "b"}
    assert agreement.letters(values, dict.fromkeys(p, 0.5)) == {"x": "a", "y": "a", "z": "a"}
    assert agreement.letters(values, dict.fromkeys(p, 0.0)) == {"x": "a", "y": "b", "z": "c"}


def test_a_bootstrap_interval_is_scipys_and_resamples_contents_where_images_share_them():
    rng = np.random.default_rng(1)
    x = rng.normal(size=200)
    mos = x + rng.normal(size=200)
    expected = scipy.stats.bootstrap(
        (x, mos),
        lambda a, b: scipy.stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert agreement.bootstrap_interval(agreement.srcc, x, mos) == pytest.approx(tuple(expected))
    # Four copies of each image are no more information than one.
    groups = [str(i) for i in range(200)] * 4
    low, high = agreement.bootstrap_interval(agreement.srcc, np.tile(x, 4), np.tile(mos, 4), groups)
    assert high - low == pytest.approx(expected.high - expected.low, rel=0.2)
    assert agreement.bootstrap_interval(agreement.srcc, x[:4], mos[:4]) is None


def test_labels_of_a_draw_depend_on_seed_budget_and_number_alone():
    parts = list(protocols.splits([None] * 90, [str(i // 3) for i in range(90)], 3, seed=0))
    for train, test in parts:
        assert not {i // 3 for i in train} & {i // 3 for i in test}
        assert sorted([*train, *test]) == list(range(90))
    first, second = (list(protocols.few_labels(parts, 20, (0,))) for _ in range(2))
    assert [draw.train.tolist() for draw in first] == [draw.train.tolist() for draw in second]
    assert first[0].train.tolist() != first[1].train.tolist()
    for draw, (train, test) in zip(first, parts, strict=True):
        assert set(draw.train) <= set(train)
        assert draw.test.tolist() == test.tolist()
        assert len(draw.train) == 20
    assert not list(protocols.few_labels(parts, 80, (0,)))  # more than there are
    assert [draw.train.tolist() for draw in protocols.few_labels(parts, None)] == [train.tolist() for train, _ in parts]
    official = list(protocols.splits(["test", "train", "val", None], list("abcd"), 2, seed=0))
    assert [(train.tolist(), test.tolist()) for train, test in official] == [([1, 2, 3], [0])] * 2


def test_heads_pass_over_images_without_features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    mos = x @ [1.0, 2.0, -1.0] + 0.01 * rng.normal(size=60)
    x[[3, 50]] = np.nan
    tested, predicted = protocols.predictions(x, mos, protocols.Draw(40, 0, np.arange(40), np.arange(40, 60)))
    assert 50 not in tested
    assert len(tested) == len(predicted) == 19
    assert predicted == pytest.approx(mos[tested], abs=0.3)
