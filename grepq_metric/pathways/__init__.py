"""The pathways of GRepQ: low-level (distortions) and high-level (CLIP and two prompts)."""

from grepq_metric.pathways.base import FEATURE_KINDS, Pathway
from grepq_metric.pathways.high import HighLevelConfig, HighLevelPathway, ImageTower, image_tower_of, prompt_features
from grepq_metric.pathways.low import LowLevelConfig, LowLevelEncoder, LowLevelPathway

__all__ = [
    "FEATURE_KINDS",
    "HighLevelConfig",
    "HighLevelPathway",
    "ImageTower",
    "LowLevelConfig",
    "LowLevelEncoder",
    "LowLevelPathway",
    "Pathway",
    "image_tower_of",
    "prompt_features",
]
