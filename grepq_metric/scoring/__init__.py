"""Scores of many photos: one picklable class that every engine for data takes, and an iterator over files."""

from grepq_metric.scoring.scorer import Engine, Item, Photo, Row, Scorer, score_files

__all__ = ["Engine", "Item", "Photo", "Row", "Scorer", "score_files"]
