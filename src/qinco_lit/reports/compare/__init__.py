"""Runs side by side: found in folders, read, joined, and shown as tables, plots and a page."""

from qinco_lit.reports.compare.report import compare, write_report

__all__ = ["compare", "write_report"]
