"""Laws of the streaming order: a pure function under which each row occurs once per pass and ranks are disjoint."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qinco_lit.data.order import GivenBlocks, StreamOrder


def _epoch(order: StreamOrder, epoch: int, rank: int) -> np.ndarray:
    """All rows of a rank in an epoch, batch after batch, from the batches' definition."""
    return np.concatenate([order.batch_rows(epoch, batch, rank) for batch in range(order.batches_per_epoch)])


@st.composite
def orders(draw):
    num_rows = draw(st.integers(1, 400))
    blocks = None
    if draw(st.booleans()):
        blocks = GivenBlocks(
            np.array(draw(st.lists(st.integers(1, 90), min_size=1, max_size=8))), draw(st.integers(1, 9))
        )
        num_rows = int(blocks.stops[-1])
    batch_size, world_size = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    epoch_size = draw(st.integers(1, 600))
    assume(min(num_rows, epoch_size) >= batch_size * world_size)
    return StreamOrder(
        num_rows=num_rows,
        batch_size=batch_size,
        epoch_size=epoch_size,
        seed=draw(st.integers(0, 2**40)),
        world_size=world_size,
        block_rows=draw(st.integers(1, 64)),
        window_rows=draw(st.integers(1, 200)),
        blocks=blocks,
    )


@settings(max_examples=40)
@given(orders())
def test_every_pass_visits_every_row_once(order: StreamOrder):
    epochs = -(-3 * order.num_rows // order.epoch_rows)
    assume(epochs * order.batches_per_epoch * order.world_size < 500)
    seen = np.zeros(order.num_rows, dtype=int)
    for epoch in range(epochs):
        for rank in range(order.world_size):
            np.add.at(seen, _epoch(order, epoch, rank), 1)
        passes, rest = divmod((epoch + 1) * order.epoch_rows, order.num_rows)
        assert set(seen) <= {passes, passes + 1}
        assert (seen == passes + 1).sum() == rest


@settings(max_examples=30)
@given(orders(), st.integers(0, 5))
def test_ranks_share_out_the_stream(order: StreamOrder, epoch: int):
    """All ranks have the same number of rows, together exactly those at the epoch's positions in the stream."""
    parts = [_epoch(order, epoch, rank) for rank in range(order.world_size)]
    assert {len(part) for part in parts} == {order.batches_per_epoch * order.batch_size}
    one_by_one = StreamOrder(
        num_rows=order.num_rows,
        batch_size=1,
        epoch_size=order.num_rows,
        seed=order.seed,
        block_rows=order.block_rows,
        window_rows=1,  # windows of one row: nothing is shuffled but the blocks
        blocks=order.blocks,
    )
    positions = range(epoch * order.epoch_rows, (epoch + 1) * order.epoch_rows)
    expected = [one_by_one.batch_rows(*divmod(q, order.num_rows))[0] for q in positions]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.sort(expected))


@settings(max_examples=40)
@given(orders(), st.integers(0, 4))
def test_ranks_are_disjoint_inside_a_pass(order: StreamOrder, epoch: int):
    first, last = epoch * order.epoch_rows, (epoch + 1) * order.epoch_rows - 1
    assume(first // order.num_rows == last // order.num_rows)
    rows = np.concatenate([_epoch(order, epoch, rank) for rank in range(order.world_size)])
    assert len(np.unique(rows)) == len(rows)


@settings(max_examples=40)
@given(orders(), st.integers(0, 3), st.data())
def test_segments_are_contiguous_blocks_and_slots_a_permutation(order: StreamOrder, epoch: int, data):
    windows = -(-order.batches_per_epoch // order.batches_per_window)
    window, rank = data.draw(st.integers(0, windows - 1)), data.draw(st.integers(0, order.world_size - 1))
    segments, slots = order.segments(epoch, window, rank), order.slots(epoch, window, rank)
    assert all(0 <= start < stop <= order.num_rows for start, stop in segments)
    if order.blocks is None:
        assert all(stop - start <= order.block_rows for start, stop in segments)
    else:
        blocks = [np.searchsorted(order.blocks.stops, [start, stop - 1], side="right") for start, stop in segments]
        assert all(first == last for first, last in blocks)
    assert sum(stop - start for start, stop in segments) == len(slots)
    assert len(slots) % order.batch_size == 0
    np.testing.assert_array_equal(np.sort(slots), np.arange(len(slots)))


def test_same_seed_same_order_and_other_seed_or_epoch_another():
    def rows(seed: int, epoch: int) -> list[int]:
        return _epoch(StreamOrder(num_rows=1000, batch_size=100, epoch_size=1000, seed=seed), epoch, 0).tolist()

    assert rows(1, 2) == rows(1, 2)
    assert len({tuple(rows(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_rows_of_a_block_do_not_stay_together():
    """Neighbours in the file end up as far apart in the batches as chance has it."""
    order = StreamOrder(num_rows=100_000, batch_size=5000, epoch_size=100_000, block_rows=1000, window_rows=50_000)
    position = np.empty(100_000, dtype=int)
    position[_epoch(order, 0, 0)] = np.arange(100_000)
    apart = np.abs(np.diff(position))
    # The median of |a - b| for two uniform draws from a window of w rows is w (1 - sqrt(1/2)).
    assert np.median(apart) == pytest.approx(50_000 * (1 - np.sqrt(0.5)), rel=0.05)


def test_first_rows_are_unbiased():
    """Over many seeds every row is equally likely to come first, also those of the ragged block."""
    firsts = [
        StreamOrder(num_rows=10, batch_size=1, epoch_size=10, seed=seed, block_rows=4, window_rows=1).batch_rows(0, 0)[
            0
        ]
        for seed in range(3000)
    ]
    counts = np.bincount(firsts, minlength=10)
    assert counts.min() > 240
    assert counts.max() < 360


@settings(max_examples=40)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 60))
def test_groups_of_a_file_are_whole_in_a_block(sizes: list[int], least: int):
    blocks = GivenBlocks(np.array(sizes), least)
    assert blocks.stops[-1] == sum(sizes)
    assert set(blocks.stops) <= set(np.cumsum(sizes))
    rows = np.diff(blocks.stops, prepend=0)
    assert (rows >= min(least, sum(sizes))).all()
    assert (rows < least + max(sizes) + least).all()


def test_a_pass_takes_the_groups_of_a_file_in_another_order_each_time():
    blocks = GivenBlocks(np.array([30, 50, 20, 40]), 1)
    order = StreamOrder(num_rows=140, batch_size=1, epoch_size=140, seed=7, window_rows=1, blocks=blocks)
    passes = [_epoch(order, epoch, 0) for epoch in range(20)]
    starts = {tuple(rows[np.flatnonzero(np.diff(rows, prepend=-9) != 1)].tolist()) for rows in passes}
    assert len(starts) > 10
    assert {len(one) for one in starts} <= {1, 2, 3, 4}  # groups that follow each other in the file, too
    assert {start for one in starts for start in one} == {0, 30, 80, 100}


def test_golden_order():
    """The order is part of what a seed means: a change here changes every published training."""
    order = StreamOrder(num_rows=20, batch_size=4, epoch_size=20, seed=7, block_rows=3, window_rows=8)
    assert [order.batch_rows(0, batch).tolist() for batch in range(5)] == [
        [3, 11, 10, 2],
        [7, 1, 8, 12],
        [19, 16, 0, 9],
        [17, 4, 15, 18],
        [5, 14, 13, 6],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
        ({"epoch_size": -5}, "epoch_size=-5: give at least 1"),
        ({"seed": -1}, "seed=-1: give 0 or more"),
        (
            {"batch_size": 64, "world_size": 2},
            "batch_size=64 on 2 devices needs 128 rows, an epoch has 100: lower the batch size to 50 or less",
        ),
        (
            {"epoch_size": 5},
            "batch_size=10 on 1 device needs 10 rows, an epoch has 5: lower the batch size to 5 or less",
        ),
    ],
)
def test_mistakes(change: dict[str, int], message: str):
    numbers = {"num_rows": 100, "batch_size": 10, "epoch_size": 1000} | change
    with pytest.raises(ValueError) as error:
        StreamOrder(**numbers)
    assert str(error.value) == message
