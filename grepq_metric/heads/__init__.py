"""Temporary until the heads branch is merged."""

from grepq_metric.heads.regressor import GRepQRegressor as GRepQRegressor
