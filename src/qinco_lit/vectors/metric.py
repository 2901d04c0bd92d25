"""Moved to `neighbours`; goes when the branches are joined."""

from qinco_lit.vectors.neighbours import METRICS, Metric, comparison

__all__ = ["METRICS", "Metric", "comparison"]
