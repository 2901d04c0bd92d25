"""Moved to `code_info`; goes when the branches are joined."""

from qinco_lit.vectors.code_info import CENTROIDS_FORMAT, check_centroids_reading, check_reading

__all__ = ["CENTROIDS_FORMAT", "check_centroids_reading", "check_reading"]
