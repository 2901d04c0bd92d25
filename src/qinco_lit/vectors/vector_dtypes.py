"""Moved to `layout`; goes when the branches are joined."""

from qinco_lit.vectors.layout import VECTOR_DTYPES, check_vector_dtype

__all__ = ["VECTOR_DTYPES", "check_vector_dtype"]
