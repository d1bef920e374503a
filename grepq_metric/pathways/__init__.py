"""The pathways: GRepQ's low-level (distortions) and high-level one (CLIP and two prompts), a semantic one without CLIP, and
the decoder of QFM-IQM."""

from grepq_metric.pathways.base import FEATURE_KINDS, Pathway
from grepq_metric.pathways.decoder import DecoderConfig, DecoderPathway
from grepq_metric.pathways.high import HighLevelConfig, HighLevelPathway, ImageTower, image_tower_of, prompt_features
from grepq_metric.pathways.low import LowLevelConfig, LowLevelEncoder, LowLevelPathway
from grepq_metric.pathways.semantic import SemanticConfig, SemanticPathway

__all__ = [
    "FEATURE_KINDS",
    "DecoderConfig",
    "DecoderPathway",
    "HighLevelConfig",
    "HighLevelPathway",
    "ImageTower",
    "LowLevelConfig",
    "LowLevelEncoder",
    "LowLevelPathway",
    "Pathway",
    "SemanticConfig",
    "SemanticPathway",
    "image_tower_of",
    "prompt_features",
]
