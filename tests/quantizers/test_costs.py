"""The formulas of costs against the matrix products that run."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qinco_lit.quantizers import build_quantizer

ROWS = 7
SIZES = {"num_steps": 4, "codebook_size": 16, "hidden_dim": 10, "num_blocks": 3}
QINCO1 = {"embed_dim": None, "outer_skip": False, "num_candidates": 0, "beam_size": 1}
QINCO2 = {"embed_dim": 6, "num_candidates": 4, "beam_size": 5}
KINDS: dict[str, dict[str, Any]] = {
    "QINCo1": QINCO1,
    "QINCo-LR": {**QINCO1, "concat_rank": 3},
    "QINCo2": QINCO2,
    "QINCo2 without projections": {**QINCO2, "embed_dim": None},
    "budget": {**QINCO2, "candidate_budget": 64, "beam_size": 24},
    "IVF": {**QINCO2, "num_lists": 5},
    "PQ-QINCo": {**QINCO1, "num_parts": 2},
    "PQ-QINCo2 with OPQ": {**QINCO2, "num_parts": 2, "part_dims": [8, 4], "part_steps": [1, 3], "opq": True},
}


class _Products(TorchDispatchMode):
    """Counts the multiplications of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplications = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.multiplications += a.shape[0] * a.shape[1] * b.shape[1]
        assert name not in ("bmm", "baddbmm", "linear", "matmul")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_formulas_count_the_products_that_run(kind: str) -> None:
    quantizer = build_quantizer(12, **SIZES, **KINDS[kind])
    x = torch.randn(ROWS, 12)
    list_ids = None if quantizer.num_lists is None else torch.zeros(ROWS, dtype=torch.int64)
    tables = quantizer.tables()  # once for all vectors
    with torch.no_grad(), _Products() as encoding:
        codes = quantizer.encode(quantizer.normalize(x), tables=tables, list_ids=list_ids)
    with torch.no_grad(), _Products() as decoding:
        *_, x_hat = quantizer.reconstructions(codes, list_ids, tables)
        quantizer.denormalize(x_hat)
    assert encoding.multiplications == ROWS * quantizer.encode_multiplications(quantizer.default_search)
    assert decoding.multiplications == ROWS * quantizer.decode_multiplications()
