"""A graph of ONNX, written one operation after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

_OPSET, _IR_VERSION = 18, 8  # of ONNX 1.13 (2022); onnxruntime 1.15 and later were tried
_MOST_BYTES = (1 << 31) - (1 << 20)  # of weights: protobuf has no larger files
_ELEMENT_TYPES = {
    name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in ("float32", "int32", "uint8", "uint16")
}


class Graph:
    """Operations by the names of their results; a tensor, number or list among the operands is a constant."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._num_bytes = 0

    def input(self, name: str, dtype: str, *shape: int) -> str:
        """One row of this shape per vector, of any number of vectors."""
        self._inputs.append(helper.make_tensor_value_info(name, _ELEMENT_TYPES[dtype], ["n", *shape]))
        return name

    def output(self, name: str, value: str, dtype: str, *shape: int) -> None:
        """A value under a name and in a type of its own, shaped as inputs are."""
        self._outputs.append(helper.make_tensor_value_info(name, _ELEMENT_TYPES[dtype], ["n", *shape]))
        self._nodes.append(helper.make_node("Cast", [value], [name], to=_ELEMENT_TYPES[dtype]))

    def constant(self, value: Tensor | float | int | Sequence[int]) -> str:
        """Weights or a number as float32, integers as int64, where several operations take it.

        Raises:
            ValueError: more weights than a file can hold.
        """
        if isinstance(value, Tensor | float):
            array = torch.as_tensor(value, dtype=torch.float32).detach().cpu().contiguous().numpy()
        else:
            array = np.array(value, dtype=np.int64)
        self._num_bytes += array.nbytes
        if self._num_bytes > _MOST_BYTES:
            raise ValueError("a file of ONNX holds at most 2 GB, which the weights are more than: give fewer num_steps")
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *operands: str | Tensor | float | int | Sequence[int], **attributes: Any) -> str:
        """Add an operation; the name of its (last) result."""
        names = [each if isinstance(each, str) else self.constant(each) for each in operands]
        result = f"{kind}_{len(self._nodes)}"
        results = [f"{result}_values", result] if kind == "TopK" else [result]
        self._nodes.append(helper.make_node(kind, names, results, name=result, **attributes))
        return result

    # -- what is needed more than once ---------------------------------------------------------------------------------

    def cast(self, x: str, dtype: str) -> str:
        """In another type."""
        return self.op("Cast", x, to=_ELEMENT_TYPES[dtype])

    def linear(self, x: str, weight: Tensor) -> str:
        """X W^T of rows, in as many dimensions as there are."""
        return self.op("MatMul", x, weight.T)

    def smallest(self, scores: str, number: int) -> str:
        """Places of the smallest scores of each row, the smallest first; of equal ones the first."""
        return self.op("TopK", scores, [number], axis=-1, largest=0)

    def half_squared_l2(self, x: str, codebook: str, half_norms: Tensor) -> str:
        """0.5 |x - c|^2 of rows and codewords, up to 0.5 |x|^2."""
        return self.op("Gemm", x, codebook, half_norms, alpha=-1.0, transB=1)

    def picked(self, x: str, places: str) -> str:
        """Of each vector those rows of (n, rows, width) whose places (n, k) are given."""
        return self.op("GatherND", x, self.op("Unsqueeze", places, [-1]), batch_dims=1)

    def columns(self, x: str, part: slice) -> str:
        """Columns of a matrix."""
        return self.op("Slice", x, [part.start], [part.stop], [1])

    # -----------------------------------------------------------------------------------------------------------------

    def model(self, name: str, version: str, metadata: Mapping[str, Any]) -> bytes:
        """The file; metadata that is None is left out."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(
            graph, producer_name="qinco_lit", producer_version=version, ir_version=_IR_VERSION, opset_imports=opsets
        )
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items() if value is not None})
        return bytes(model.SerializeToString(deterministic=True))
