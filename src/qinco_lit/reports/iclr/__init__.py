"""The report of `qinco reproduce`: the papers' published numbers, ours, and what lies between them."""

from qinco_lit.reports.iclr.report import write_report

__all__ = ["write_report"]
