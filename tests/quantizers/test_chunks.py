"""One plan says which vectors are computed together: of no number of threads, and the same however a file is cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qinco_lit.codec import Codec
from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.chunks import BLOCK_ROWS, assigned_rows, chunks, decoded_rows
from tests.models import random_quantizer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@given(num_rows=st.integers(0, 3 * BLOCK_ROWS), rows=st.integers(1, 2 * BLOCK_ROWS), cut=st.integers(0, 3))
def test_chunks_tile_the_rows_and_begin_anew_at_every_block(num_rows: int, rows: int, cut: int) -> None:
    found = list(chunks(num_rows, rows))
    assert [start for start, _ in found] == [0, *(stop for _, stop in found)][: len(found)]
    assert (found[-1][1] if found else 0) == num_rows
    assert all(0 < stop - start <= rows for start, stop in found)
    first = min(cut * BLOCK_ROWS, num_rows)
    assert [(start - first, stop - first) for start, stop in found if start >= first] == list(
        chunks(num_rows - first, rows)
    )
    assert [each for each in found if each[0] < first] == list(chunks(first, rows))


def test_a_workspace_bounds_what_is_decoded_or_assigned_together() -> None:
    sizes = (128, 384, 384)
    for device in (CPU, GPU):
        assert decoded_rows(1, device, widths=sizes) == 1
        assert 1 < decoded_rows(1 << 20, device, widths=sizes) < decoded_rows(None, device, widths=sizes)
    assert assigned_rows(1, 128) == 1
    assert 1 < assigned_rows(1 << 16, 128) < assigned_rows(None, 128)


@pytest.mark.parametrize("lists", [{}, {"num_lists": 5}])
def test_what_is_computed_together_depends_on_no_threads(
    lists: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizer = random_quantizer(8, num_steps=2, codebook_size=16, hidden_dim=8, num_candidates=3, beam_size=5, **lists)
    codec, x = Codec(quantizer, precision="float32"), torch.randn((5000, 8), generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []
    for name in ("encode_together", "assign_lists", "reconstructions"):
        run = getattr(Quantizer, name)
        monkeypatch.setattr(
            Quantizer, name, lambda self, x, *rest, run=run, **more: sizes.append(len(x)) or run(self, x, *rest, **more)
        )
    seen = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found = codec.encode(x)
            codes, given = (found[1], {"list_ids": found[0]}) if lists else (found, {})
            # Two workers may begin their chunks in either order.
            seen.append((sorted(sizes), found, codec.decode(codes, **given)))
            sizes.clear()
    finally:
        torch.set_num_threads(threads)
    assert seen[0][0] == seen[1][0]
    assert len(seen[0][0]) > 5
    for one, other in zip(seen[0][1:], seen[1][1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
