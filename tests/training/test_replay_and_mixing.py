"""Batches that come a second time, and vectors that are moved towards neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qinco_lit as ql
from qinco_lit.training.mixing import mixed, mixed_share
from qinco_lit.training.replay import Replay, Searched
from tests.training.conftest import clustered

CPU = torch.device("cpu")


def _batch(number: int) -> Searched:
    return Searched(torch.full((2, 3), number, dtype=torch.uint8), torch.full((2, 4), number), None)


@given(after=st.integers(0, 5), stopped=st.integers(0, 12))
def test_each_batch_comes_back_once_after_so_many_others_also_across_a_stop(after: int, stopped: int) -> None:
    replay, found = Replay(after), []
    for number in range(12):
        if number == stopped:
            state = replay.state_of_all_ranks(1)
            replay = Replay(after)
            replay.load(state, 0, CPU)
        again = replay.exchange(_batch(number))
        found.append(None if again is None else int(again.codes[0, 0]))
        assert again is None or torch.equal(again.batch, _batch(int(again.codes[0, 0])).batch)
    assert found == [None if not after or number < after else number - after for number in range(12)]


def test_a_rank_that_was_not_there_begins_without_batches() -> None:
    replay = Replay(1)
    replay.exchange(_batch(0))
    other = Replay(1)
    other.load(replay.state_of_all_ranks(1), 3, CPU)
    assert other.exchange(_batch(1)) is None


def _share(rows: int, *, weights: float = 1e9, below: int = 100_000) -> float:
    return mixed_share(rows, below, weights_per_value=weights / rows)


def test_fewer_vectors_are_moved_further_and_those_of_large_networks() -> None:
    shares = [_share(rows) for rows in (10, 2_000, 10_000, 30_000, 99_999, 100_000, 10**9)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert shares[-2:] == [0.0, 0.0]
    assert _share(10, below=0) == 0.0
    shares = [_share(2_000, weights=weights) for weights in (1, 1e3, 1e4, 1e9)]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == _share(2_000)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_a_mixed_vector_is_between_it_and_the_nearest_other_one(dtype: torch.dtype) -> None:
    rows = torch.from_numpy(clustered(100, seed=1)).mul(20).to(dtype)
    x = rows.float()
    found = mixed(rows, 0.7, step=3)
    apart = torch.cdist(x, x).fill_diagonal_(torch.inf)
    nearest = x[apart.argmin(1)]
    way = ((found - x) * (nearest - x)).sum(1) / (nearest - x).square().sum(1).clamp(min=1e-9)
    torch.testing.assert_close(found, x + way[:, None] * (nearest - x), rtol=1e-4, atol=1e-3)
    assert 0 <= float(way.min()) < 0.05
    assert 0.6 < float(way.max()) <= 0.7001
    assert torch.equal(found, mixed(rows, 0.7, step=3))
    assert not torch.equal(found, mixed(rows, 0.7, step=4))
    assert torch.equal(mixed(rows[:10], 0.7, step=3), rows[:10])  # the end of an epoch, where nothing is near


def test_few_vectors_are_not_learned_by_heart() -> None:
    generator = np.random.default_rng(0)
    seen = generator.standard_normal((2_300, 10)) @ generator.standard_normal((10, 64))
    x = np.maximum(seen, 0).astype(np.float32)
    errors = []
    for below in (0, 100_000):
        codec = ql.train(
            x[:300], val=x[300:800], model="qinco2_tiny", num_steps=3, codebook_size=32, embed_dim=64, hidden_dim=256,
            max_epochs=25, batch_size=150, mix_below_rows=below, baselines_below_rows=0,
            progress=False,
        )  # fmt: skip
        errors.append(float(((codec.decode(codec.encode(x[800:])) - x[800:]) ** 2).sum(1).mean()))
    assert errors[1] < 0.97 * errors[0]
