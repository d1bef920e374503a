"""Promises of `RidgeHead`: an estimator of scikit-learn without an exception, and the paper's ridge regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from grepq_metric import GRepQRegressor
from grepq_metric.heads.evaluation import held_out
from grepq_metric.heads.ridge import ALPHAS, RidgeHead


@parametrize_with_checks([RidgeHead(), RidgeHead(alpha=1.0), RidgeHead(score=True)])
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


def reference(x, y, w, alpha):
    """Ridge on standardised features, by the normal equations."""
    mean = (w[:, None] * x).sum(0) / w.sum()
    scale = np.sqrt((w[:, None] * (x - mean) ** 2).sum(0) / w.sum())
    z, offset = (x - mean) / scale, (w * y).sum() / w.sum()
    beta = np.linalg.solve(z.T @ (w[:, None] * z) + alpha * np.eye(z.shape[1]), z.T @ (w * (y - offset)))
    return lambda new: (new - mean) / scale @ beta + offset


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [10, 80])
def test_it_is_the_papers_ridge_regression(data, weighted, count):
    x, y = data[0][:count], data[1][:count]
    w = raters(count) if weighted else None
    weights = np.ones(count) if w is None else w
    head = RidgeHead().fit(x, y, w)
    errors = {}
    for alpha in ALPHAS:
        # The standardisation is that of all labels, as in the closed form.
        z = (x - head.mean_) / head.scale_
        left = []
        for i in range(count):
            others = np.arange(count) != i
            left.append(Ridge(alpha).fit(z[others], y[others], weights[others]).predict(z[i : i + 1])[0] - y[i])
        errors[alpha] = (weights * np.square(left)).sum()
        if alpha == head.alpha_:
            assert head.residuals_ == pytest.approx(-np.array(left), rel=1e-8, abs=1e-8)
    assert head.alpha_ == min(errors, key=errors.get)
    assert head.predict(data[0]) == pytest.approx(reference(x, y, weights, head.alpha_)(data[0]), rel=1e-9)


FROZEN = {
    ("cv", False): ([55.38234490577812, 43.85693202069719], [[19.392357860977057, 89.5681424854169]]),
    ("cv", True): ([52.98410010819781, 42.577421524757455], [[16.81858970939132, 88.535602928466]]),
    (10.0, False): ([62.28925948663593, 35.11861725561948], [[24.432054025004405, 100.13099088446907]]),
    (10.0, True): ([58.420566990527334, 34.69922282690804], [[20.062881921870037, 98.38640374829615]]),
}
"""Of the code at f5e832c."""


@pytest.mark.parametrize(("alpha", "weighted"), FROZEN)
def test_numbers_are_those_of_the_first_regressor(data, alpha, weighted):
    x, y = data
    predicted, interval = FROZEN[alpha, weighted]
    head = RidgeHead(alpha).fit(x[:60], y[:60], raters(60) if weighted else None)
    assert head.predict(x[60:62]) == pytest.approx(predicted, rel=1e-9)
    assert head.predict_interval(x[60:61], level=0.9) == pytest.approx(np.array(interval), rel=1e-9)


def test_held_out_numbers_are_those_of_the_first_regressor(data):
    x, y = data[0][:60], data[1][:60]
    found = held_out(RidgeHead(), x, y, raters(60))
    assert found.table["SRCC"] == pytest.approx((0.45604334537371494, 0.20972337229435764, 0.6646868633473638), rel=1e-9)
    assert found.table["RMSE"] == pytest.approx((23.01272257459555, 18.592313205139263, 27.10665424616647), rel=1e-9)
    assert found.predicted[:2] == pytest.approx([71.21577173912377, 43.201713331879795], rel=1e-9)


def test_intervals_are_the_jackknifes(data):
    x, y = data
    head = RidgeHead(alpha=10).fit(x[:60], y[:60])
    z = (x - head.mean_) / head.scale_
    low, high = [], []
    for i in range(60):
        others = np.arange(60) != i
        ridge = Ridge(10).fit(z[:60][others], y[:60][others])
        error, predicted = abs(y[i] - ridge.predict(z[i : i + 1])[0]), ridge.predict(z[60:])
        low.append(predicted - error)
        high.append(predicted + error)
    interval = head.predict_interval(x[60:], level=0.9)
    rank = 55  # ceil(0.9 * 61)
    assert interval[:, 0] == pytest.approx(np.sort(low, 0)[60 - rank], rel=1e-9)
    assert interval[:, 1] == pytest.approx(np.sort(high, 0)[rank - 1], rel=1e-9)
    predicted = head.predict(x[60:])
    assert (interval[:, 0] < predicted).all()
    assert (predicted < interval[:, 1]).all()
    with pytest.raises(ValueError, match="needs 99 labels or more, there are 60"):
        head.predict_interval(x, level=0.99)
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 90"):
        head.predict_interval(x, level=90)


def test_many_labels_need_no_predictions_without_each():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1100, 6))
    head = RidgeHead().fit(x, x[:, 0] + 0.3 * rng.normal(size=1100))
    assert head.left_out_.shape == (0, 7)
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
    with pytest.raises(ValueError, match=message):
        RidgeHead(alpha).fit(*change(*data))
