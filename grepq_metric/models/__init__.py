"""The quality models: `GRepQ` and `QFMIQM`, what they have in common, and how weights of any kind become a model."""

from grepq_metric.models.base import QualityModel, check_options
from grepq_metric.models.grepq import GRepQ
from grepq_metric.models.loading import OPTIONS, load_model, model_of
from grepq_metric.models.qfm import QFMIQM

__all__ = ["OPTIONS", "QFMIQM", "GRepQ", "QualityModel", "check_options", "load_model", "model_of"]
