"""Training of both pathways on photos without human scores: `train_low` and `train_high`."""

from grepq_metric.training.high import train_high
from grepq_metric.training.low import train_low

__all__ = ["train_high", "train_low"]
