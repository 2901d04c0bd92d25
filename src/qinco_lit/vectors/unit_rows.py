"""Moved to `rows`; goes when the branches are joined."""

from qinco_lit.vectors.rows import RowSource, UnitRows, unit_rows

__all__ = ["RowSource", "UnitRows", "unit_rows"]
