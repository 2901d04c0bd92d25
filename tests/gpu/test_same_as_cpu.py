"""A GPU finds the codes that a CPU finds, and computes the same losses, reconstructions and results of a search."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.quantizers import Quantizer
from qinco_lit.search.index.bundle import save
from qinco_lit.search.searcher import Searcher
from tests.device.steps import DIM, FAMILY, random_member
from tests.search.indexes import indexed

pytestmark = pytest.mark.gpu
ROWS = 2000


def _vectors() -> torch.Tensor:
    return 4 * torch.randn((ROWS, DIM), generator=torch.Generator().manual_seed(5))


def _codes(codec: Codec) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Codes of the vectors, on the CPU, and the list ids of an IVF codec as an argument."""
    found = codec.encode(_vectors().to(codec.device))
    return (found.cpu(), {}) if codec.num_lists is None else (found[1].cpu(), {"list_ids": found[0].cpu()})


def _moved(quantizer: Quantizer, device: torch.device) -> Quantizer:
    return deepcopy(quantizer).to(device)


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("name", FAMILY)
def test_codes_and_reconstructions(name: str, precision: str, gpu: torch.device) -> None:
    here = Codec(random_member(name), precision="float32")
    there = Codec(_moved(here.quantizer, gpu), precision=precision)
    (codes, lists), (found, found_lists) = _codes(here), _codes(there)
    assert (found == codes).double().mean() >= 0.999
    for key, value in lists.items():
        assert (found_lists[key] == value).double().mean() >= 0.999
    expected = here.decode(codes, **lists)
    decoded = there.decode(codes.to(gpu), **{key: value.to(gpu) for key, value in lists.items()})
    assert decoded.device.type == gpu.type
    assert (decoded.cpu() - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", FAMILY)
def test_losses(name: str, gpu: torch.device) -> None:
    here = random_member(name)
    there = _moved(here, gpu)
    x = here.normalize(_vectors())
    lists = None if here.num_lists is None else here.assign_lists(x)
    codes = here.encode(x, list_ids=lists)
    moved = None if lists is None else lists.to(gpu)
    for expected, found in zip(here(x, codes, lists), there(x.to(gpu), codes.to(gpu), moved), strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_search_with_the_decoder_on_the_gpu(metric: str, tmp_path: Path, gpu: torch.device) -> None:
    made = indexed(metric=metric)
    save(made.bundle, tmp_path / "index")
    options = {"nprobe": 12, "num_additive": 200}
    expected, ids = Searcher.load(tmp_path / "index", precision="float32").search(made.queries, 10, **options)
    there = Searcher.load(tmp_path / "index", device=str(gpu))
    distances, found = there.search(made.queries, 10, **options)
    assert (found == ids).mean() >= 0.99  # neighbours as near as each other may change places
    torch.testing.assert_close(torch.from_numpy(distances), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
