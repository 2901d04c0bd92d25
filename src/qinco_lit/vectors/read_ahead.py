"""Moved to `vector_file`; goes when the branches are joined."""

from qinco_lit.vectors.vector_file import read_ahead

__all__ = ["read_ahead"]
