"""Quantizers as pure torch modules."""

from qinco_lit.quantizers.build import Quantizer, build_quantizer, truncated
from qinco_lit.quantizers.losses import StepLosses
from qinco_lit.quantizers.product import ProductQINCo
from qinco_lit.quantizers.qinco import QINCo

__all__ = ["ProductQINCo", "QINCo", "Quantizer", "StepLosses", "build_quantizer", "truncated"]
