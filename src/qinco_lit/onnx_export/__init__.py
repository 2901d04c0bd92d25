"""Codecs as files of ONNX, which run without torch."""

from qinco_lit.onnx_export.export import export_onnx

__all__ = ["export_onnx"]
