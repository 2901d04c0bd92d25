"""Moved to `code_packing`; goes when the branches are joined."""

from qinco_lit.vectors.code_packing import distinct_rows, row_keys

__all__ = ["distinct_rows", "row_keys"]
