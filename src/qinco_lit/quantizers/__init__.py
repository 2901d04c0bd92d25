"""Quantizers as pure torch modules."""

from qinco_lit.quantizers.qinco import QINCo
from qinco_lit.quantizers.quantizer import Quantizer, StepLosses, build_quantizer, truncated

__all__ = ["QINCo", "Quantizer", "StepLosses", "build_quantizer", "truncated"]
