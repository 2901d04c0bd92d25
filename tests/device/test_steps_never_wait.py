"""No step of training, validation, encoding or decoding waits for its device, or has a tensor on another one.

Run on meta tensors (tests/device/waits.py), which stand in for a GPU: what would wait for one fails.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from qinco_lit.quantizers import Quantizer, precision
from tests.device.steps import DIM, FAMILY, OPTIONS, ROWS, module_on, quantizer_of, random_member, training_batch
from tests.device.waits import META, WaitError, on_meta


def _batch(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty((ROWS, DIM), dtype=dtype, device=META)


@pytest.mark.parametrize(
    ("mixed", "search", "dead"),
    [(False, "float32", "redraw"), (True, "screened", "split"), (True, "bfloat16", "split")],
)
@pytest.mark.parametrize("name", FAMILY)
def test_training_and_validation(
    name: str, mixed: bool, search: str, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GradScaler (16-mixed) waits for once a step, its overflow flag, is torch's own affair."""
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _: mixed)  # validation is screened, as on tensor cores
    module = module_on(META, quantizer_of(name), **OPTIONS[dead], search_precision=search)
    with on_meta(mixed=mixed):
        for number in range(2):
            loss = training_batch(module, _batch(torch.uint8), number)
            assert loss.device == META
        module.on_validation_epoch_start()
        module.validation_step(_batch(), 0)
    assert all(value.device == META for value in module.statistics.state_dict().values())


@pytest.mark.parametrize("scoring", ["float32", "screened", "bfloat16"])
@pytest.mark.parametrize("name", FAMILY)
@torch.inference_mode()
def test_encoding_and_decoding(name: str, scoring: str) -> None:
    quantizer = quantizer_of(name).to(META)
    with on_meta(mixed=False):
        _encode_and_decode(quantizer, quantizer.tables(precision.precision_for(scoring, META)))


def _encode_and_decode(quantizer: Quantizer, tables: Any) -> None:
    x = quantizer.normalize(_batch())
    lists = None if quantizer.num_lists is None else quantizer.assign_lists(x)
    codes = quantizer.encode(x, list_ids=lists, tables=tables)
    *_, x_hat = quantizer.reconstructions(codes, lists, tables)
    assert quantizer.denormalize(x_hat).shape == (ROWS, DIM)


@pytest.mark.parametrize("name", [name for name, config in FAMILY.items() if config["num_candidates"] == 0])
def test_encoding_by_a_preselector_that_was_fitted(name: str) -> None:
    quantizer = quantizer_of(name).to(META)
    with on_meta(mixed=False):
        x = quantizer.normalize(_batch())
        lists = None if quantizer.num_lists is None else quantizer.assign_lists(x)
        quantizer.fit_preselectors(x, lists)
        for search in (quantizer.search_for(num_candidates=4), quantizer.search_for(candidate_budget=6, beam_size=3)):
            quantizer.encode(x, search, list_ids=lists)


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dead_codewords", ["split", "redraw"])
def test_sums_over_ranks_have_no_barrier(dead_codewords: str, one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collective of the GPUs is awaited by none of their hosts, a barrier by all."""
    monkeypatch.setattr(torch.distributed, "barrier", lambda *_, **__: pytest.fail("a barrier"))
    module = module_on(torch.device("cpu"), random_member("qinco2"), dead_codewords=dead_codewords)
    module.trainer.world_size = 2  # type: ignore[misc]  # of a stand-in
    training_batch(module, torch.ones((ROWS, DIM)), 0)
    assert (module.statistics.usage_in_epoch.sum(1) == ROWS).all()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.sum().tolist(),
        lambda x: bool((x > 0).any()),
        lambda x: float(x.sum()),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > 0, 0)[x.sum(1) > 0],
        lambda x: torch.bincount(x.long().flatten()),
        lambda x: torch.bincount(x.long().flatten(), minlength=9),
        lambda x: x[:, [0, 2]],
        lambda x: x + torch.ones(DIM),
        lambda x: x.index_select(1, torch.tensor([0])),
        lambda x: torch.ones(DIM).to(META) + x,
        lambda x: torch.unique(x),
    ],
)
def test_the_stand_in_refuses_what_waits(wait: Callable[[Tensor], object]) -> None:
    x = _batch()
    with pytest.raises((WaitError, RuntimeError, NotImplementedError)), on_meta(mixed=False):
        wait(x)
