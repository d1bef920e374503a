"""Promises of `RidgeHead`: an estimator of scikit-learn without an exception, and the paper's ridge regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from grepq_metric import GRepQRegressor
from grepq_metric.heads.ridge import ALPHAS, RidgeHead


@parametrize_with_checks([RidgeHead(), RidgeHead(alpha=1.0), RidgeHead(scored=True)])
def test_the_ridge_head_passes_every_check_of_scikit_learn(estimator, check):
    check(estimator)


STRICTER = {
    "check_all_zero_sample_weights_error": "a weight is positive: an opinion of nobody is no label",
    "check_sample_weight_equivalence_on_dense_data": "the same",
    "check_fit2d_1sample": "five labels are the least, of any shape of data",
    "check_fit2d_predict1d": "a vector of numbers is neither photos nor features",
    "check_supervised_y_2d": "a column of MOS is refused, not flattened with a warning",
    "check_dtype_object": "its message names what is expected in other words",
}


@parametrize_with_checks([GRepQRegressor(None)], expected_failed_checks=lambda _: STRICTER)
def test_the_regressor_differs_from_scikit_learns_rules_only_where_it_is_stricter(estimator, check):
    check(estimator)


@pytest.fixture
def data():
    """Features and values that depend on a few of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 128)) * rng.uniform(0.1, 5, 128) + 3
    return x, 50 + 4 * (x[:, :4] - 3).sum(1) + rng.normal(size=80)


def raters(count):
    """Weights with a mean of 1."""
    w = np.random.default_rng(1).integers(3, 30, 80)[:count].astype(float)
    return w / w.mean()


def reference(x, y, w, alpha, blocks=None, scored=False):
    """Ridge on standardised features, by the normal equations; the last features are penalised, by block."""
    mean = (w[:, None] * x).sum(0) / w.sum()
    scale = np.sqrt((w[:, None] * (x - mean) ** 2).sum(0) / w.sum())
    blocks = blocks or (x.shape[1] - scored,)
    whole = np.sqrt(blocks).sum()
    penalty = np.diag([*[0.0] * scored, *(alpha * np.sqrt(c) * whole for c in blocks for _ in range(c))])
    z, offset = (x - mean) / scale, (w * y).sum() / w.sum()
    beta = np.linalg.solve(z.T @ (w[:, None] * z) + penalty, z.T @ (w * (y - offset)))
    return lambda new: (new - mean) / scale @ beta + offset


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [10, 80, 200])
def test_it_is_the_papers_ridge_regression(weighted, count):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 128)) * rng.uniform(0.1, 5, 128) + 3
    y = 50 + 4 * (x[:, :4] - 3).sum(1) + rng.normal(size=count)
    w = rng.integers(3, 30, count) / 10.0 if weighted else None
    weights = np.ones(count) if w is None else w
    head = RidgeHead().fit(x, y, w)
    errors = {}
    for alpha in ALPHAS:
        # The standardisation is that of all labels, as in the closed form.
        z = (x - head.mean_) / head.scale_
        left = []
        for i in range(count):
            others = np.arange(count) != i
            ridge = Ridge(128 * alpha).fit(z[others], y[others], weights[others])
            left.append(ridge.predict(z[i : i + 1])[0] - y[i])
        errors[alpha] = (weights * np.square(left)).sum()
        if alpha == head.alpha_:
            assert head.residuals_ == pytest.approx(-np.array(left), rel=1e-8, abs=1e-8)
    assert head.alpha_ == min(errors, key=errors.get)
    assert head.predict(x) == pytest.approx(reference(x, y, weights, head.alpha_)(x), rel=1e-9)


@pytest.mark.parametrize("scored", [False, True])
def test_each_block_has_its_penalty_and_the_score_none(data, scored):
    x, y = data
    w = raters(80)
    blocks = (128 - 30 - scored, 30)
    head = RidgeHead(0.5, blocks, scored).fit(x, y, w)
    assert head.predict(x) == pytest.approx(reference(x, y, w, 0.5, blocks, scored)(x), rel=1e-9)
    for i in (0, 7):
        others = np.arange(80) != i
        z = (x - head.mean_) / head.scale_
        design = np.hstack([np.ones((80, 1)), z])
        whole = np.sqrt(blocks).sum()
        penalty = np.diag([0.0] * (1 + scored) + [0.5 * np.sqrt(c) * whole for c in blocks for _ in range(c)])
        kept = design[others]
        beta = np.linalg.solve(kept.T @ (w[others, None] * kept) + penalty, kept.T @ (w[others] * y[others]))
        assert head.residuals_[i] == pytest.approx(y[i] - design[i] @ beta, rel=1e-8)
        change = -head.residuals_[i] * head.influence_[i]
        assert beta == pytest.approx(np.append(head.intercept_, head.coef_) + change, rel=1e-5, abs=1e-5)


def test_the_slope_of_a_score_stays_positive(data):
    x, y = data
    score = np.random.default_rng(2).permutation(80) - 5 * y  # the labels say the opposite
    for columns in (score[:, None], np.column_stack([score, x])):
        head = RidgeHead(scored=True).fit(columns, y)
        assert head.coef_[0] == pytest.approx(0.1 * y.std(), rel=1e-9)
        assert not head.influence_[:, 1].any()
    line = RidgeHead(scored=True).fit(-score[:, None], y)
    assert line.alpha_ == 0
    assert line.coef_[0] == pytest.approx(np.polyfit((-score - (-score).mean()) / score.std(), y, 1)[0], rel=1e-9)
    assert (np.diff(line.predict(np.sort(-score)[:, None])) > 0).all()


@pytest.mark.parametrize("features", [0, 40])
def test_what_features_cannot_say_leaves_the_order_of_the_score(features):
    rng = np.random.default_rng(0)
    score, noise = rng.normal(size=60), rng.normal(size=(60, features))
    head = RidgeHead(scored=True).fit(np.column_stack([score, noise]), score + 0.3 * rng.normal(size=60))
    fresh = np.column_stack([rng.normal(size=500), rng.normal(size=(500, features))])
    assert np.corrcoef(head.predict(fresh), fresh[:, 0])[0, 1] > 0.98


def test_intervals_are_the_jackknifes(data):
    x, y = data
    head = RidgeHead(alpha=10).fit(x[:60], y[:60])
    z = (x - head.mean_) / head.scale_
    low, high = [], []
    for i in range(60):
        others = np.arange(60) != i
        ridge = Ridge(1280).fit(z[:60][others], y[:60][others])
        error, predicted = abs(y[i] - ridge.predict(z[i : i + 1])[0]), ridge.predict(z[60:])
        low.append(predicted - error)
        high.append(predicted + error)
    interval = head.predict_interval(x[60:], level=0.9)
    rank = 55  # ceil(0.9 * 61)
    assert interval[:, 0] == pytest.approx(np.sort(low, 0)[60 - rank], rel=1e-5)
    assert interval[:, 1] == pytest.approx(np.sort(high, 0)[rank - 1], rel=1e-5)
    predicted = head.predict(x[60:])
    assert (interval[:, 0] < predicted).all()
    assert (predicted < interval[:, 1]).all()
    with pytest.raises(ValueError, match="needs 99 labels or more, there are 60"):
        head.predict_interval(x, level=0.99)
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 90"):
        head.predict_interval(x, level=90)


def test_many_labels_need_no_influence_of_each():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1100, 6))
    head = RidgeHead().fit(x, x[:, 0] + 0.3 * rng.normal(size=1100))
    assert head.influence_.shape == (0, 7)
    fresh = rng.normal(size=(2000, 6))
    truth = fresh[:, 0] + 0.3 * rng.normal(size=2000)
    low, high = head.predict_interval(fresh, level=0.8).T
    assert ((low < truth) & (truth < high)).mean() == pytest.approx(0.8, abs=0.03)


def test_a_sample_given_twice_is_one_of_twice_the_weight(data):
    x, y = data[0][:20], data[1][:20]
    twice = RidgeHead().fit(np.concatenate([x, x[:5]]), np.concatenate([y, y[:5]]))
    weighted = RidgeHead().fit(x, y, np.where(np.arange(20) < 5, 2, 1))
    assert twice.residuals_ == pytest.approx(weighted.residuals_, rel=1e-9)
    assert twice.predict_interval(data[0]) == pytest.approx(weighted.predict_interval(data[0]), rel=1e-9)


def test_tensors_are_predicted_as_arrays_are_and_with_gradients(data):
    x, y = data
    head = RidgeHead().fit(x, y)
    features = torch.from_numpy(x).requires_grad_()
    predicted = head.predict_tensor(features)
    assert predicted.detach().numpy() == pytest.approx(head.predict(x), rel=1e-12)
    predicted.sum().backward()
    assert features.grad[0].numpy() == pytest.approx(head.coef_ / head.scale_, rel=1e-12)
    with pytest.raises(ValueError, match=r"expected features \(N, 128\), got \(2, 5\)"):
        head.predict_tensor(torch.zeros(2, 5))


@pytest.mark.parametrize(
    ("alpha", "change", "message"),
    [
        (-1, lambda x, y: (x, y), 'alpha must be "cv" or a positive number, got -1'),
        ({"blocks": (100, 27)}, lambda x, y: (x, y), r"sum is the number of features, 128, got \[100, 27\]"),
        ({"blocks": (128,), "scored": True}, lambda x, y: (x, y), "features beside the score, 127, got"),
        ({"blocks": (0, 128)}, lambda x, y: (x, y), "blocks must be widths"),
        ({"scored": True}, lambda x, y: (x[:2], y[:2]), "with a score, expected 3 different samples or more, got 2"),
        (True, lambda x, y: (x, y), 'alpha must be "cv" or a positive number, got True'),
        ("auto", lambda x, y: (x, y), "alpha must be \"cv\" or a positive number, got 'auto'"),
        (np.inf, lambda x, y: (x, y), "got inf"),
        (1.0, lambda x, y: (x, np.sign(y - 50) * 1e308), "the coefficients are not finite: values from -1e"),
        ("cv", lambda x, y: (np.sign(x) * 1e300, y), "the coefficients are not finite"),
        (1.0, lambda x, y: (x, y, np.ones(3)), r"a sample_weight for each of 80 samples, got an array \(3,\)"),
        (1.0, lambda x, y: (x, y, -np.ones(80)), "sample weights of 0 or more, got -1"),
        (1.0, lambda x, y: (x[[0, 0]], y[[0, 0]]), "two different samples or more, got 2 times the same"),
    ],
)
def test_what_makes_no_head_is_refused(data, alpha, change, message):
    head = RidgeHead(**alpha) if isinstance(alpha, dict) else RidgeHead(alpha)
    with pytest.raises(ValueError, match=message):
        head.fit(*change(*data))
