"""Weights: folders on disk, the Hugging Face Hub, CLIP's checkpoint, identities, model cards."""

from grepq_metric.weights.clip import clip_checkpoint, high_level_tensors
from grepq_metric.weights.folder import CARD, CONFIG, TENSORS, write_folder
from grepq_metric.weights.hub import HubOptions
from grepq_metric.weights.identity import check_name, weights_id
from grepq_metric.weights.read import packaged_backbone, packaged_folder, read_weights
from grepq_metric.weights.tensors import load_tensors, read_tensors, rounded

__all__ = [
    "CARD",
    "CONFIG",
    "TENSORS",
    "HubOptions",
    "check_name",
    "clip_checkpoint",
    "high_level_tensors",
    "load_tensors",
    "packaged_backbone",
    "packaged_folder",
    "read_tensors",
    "read_weights",
    "rounded",
    "weights_id",
    "write_folder",
]
