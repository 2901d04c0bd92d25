"""Quantizers as pure torch modules."""

from qinco_lit.quantizers.qinco import QINCo, StepLosses

__all__ = ["QINCo", "StepLosses"]
