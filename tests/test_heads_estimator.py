"""A promise of `RidgeHead`: it is an estimator of scikit-learn, without an exception."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from grepq_metric.heads.ridge import RidgeHead


@parametrize_with_checks([RidgeHead(), RidgeHead(alpha=1.0)])
def test_the_ridge_head_passes_every_check_of_scikit_learn(estimator, check):
    check(estimator)
