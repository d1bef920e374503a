"""Training of the pathways, most of them on photos without human scores: a function for each command ``grepq train ...``."""

from grepq_metric.training.backbone import train_backbone
from grepq_metric.training.high import train_high
from grepq_metric.training.low import train_low
from grepq_metric.training.qfm import train_qfm
from grepq_metric.training.semantic import train_semantic

__all__ = ["train_backbone", "train_high", "train_low", "train_qfm", "train_semantic"]
