"""Laws of the loaders: the stream of batches is the order, whatever the thread does, and it can be cut anywhere."""

import threading
from itertools import islice

import numpy as np
import pytest
import torch

from qinco_lit.data import loader as loader_module
from qinco_lit.data.loader import SequentialLoader, StreamLoader, read_ahead


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch):
    """Several windows and blocks per epoch even for tiny files."""
    monkeypatch.setattr(loader_module, "WINDOW_BYTES", 512)
    monkeypatch.setattr(loader_module, "BLOCK_BYTES", 64)


def _numbered(num_rows: int, dim: int = 4, dtype: str = "int32") -> np.ndarray:
    """Rows that carry their number."""
    return np.repeat(np.arange(num_rows)[:, None], dim, axis=1).astype(dtype)


def _loader(num_rows: int = 500, **changes: int) -> StreamLoader:
    options = {"batch_size": 8, "epoch_size": 10**6, "seed": 3} | changes
    return StreamLoader(_numbered(num_rows), **options)


def _take(loader: StreamLoader, epochs: int) -> list[list[int]]:
    return [batch[:, 0].tolist() for _ in range(epochs) for batch in loader]


def test_batches_are_the_order():
    loader = _loader()
    assert loader.order.batches_per_epoch > 3 * loader.order.batches_per_window
    expected = [loader.order.batch_rows(epoch, batch).tolist() for epoch in range(3) for batch in range(len(loader))]
    assert _take(loader, 3) == expected


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32", "float16"])
def test_rows_arrive_whole_and_in_the_stored_type(dtype: str):
    vectors = np.random.default_rng(0).integers(0, 100, (200, 5)).astype(dtype)
    loader = StreamLoader(vectors, batch_size=10, epoch_size=200)
    batches = list(loader)
    assert {str(batch.dtype) for batch in batches} == {f"torch.{dtype}"}
    for number, batch in enumerate(batches):
        np.testing.assert_array_equal(batch.numpy(), vectors[loader.order.batch_rows(0, number)])


def test_epochs_walk_through_the_file():
    loader = _loader(num_rows=400, epoch_size=100)  # 12 batches of 8: 96 rows
    first_four = np.concatenate(_take(loader, 4))
    assert len(np.unique(first_four)) == len(first_four) == 384


@pytest.mark.parametrize("cut", [0, 1, 5, 61, 62, 63, 100, 124])
def test_resume_continues_exactly(cut: int):
    whole = _take(_loader(), 4)
    first = _loader()
    assert len(first) == 62
    taken, batches = [], iter(())
    while len(taken) < cut:
        batches = iter(first)
        taken += [batch[:, 0].tolist() for batch in islice(batches, cut - len(taken))]
    state = first.state_dict()
    assert (state["epoch"], state["batch"]) == divmod(cut, 62)  # the end of an epoch is the start of the next
    second = _loader()
    second.load_state_dict(state)
    assert _take(second, 2) == whole[cut : cut + 124]


def test_state_is_the_same_on_all_ranks_and_plain_integers():
    states = []
    for rank in range(3):
        loader = _loader(rank=rank, world_size=3)
        next(iter(loader))
        states.append(loader.state_dict())
    assert states[0] == states[1] == states[2]
    assert {type(value) for value in states[0].values()} == {int}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "batch_size=8, this run has batch_size=4; resume with the same batch_size"),
        ({"seed": 4}, "seed=3, this run has seed=4; resume with the same seed"),
        ({"num_rows": 499}, "num_rows=500, this run has num_rows=499; resume with the same num_rows"),
        ({"epoch_size": 80}, "epoch_size=500, this run has epoch_size=80; resume with the same epoch_size"),
        ({"world_size": 2}, "world_size=1, this run has world_size=2; resume with the same world_size"),
    ],
)
def test_state_of_another_order_is_refused(change: dict[str, int], message: str):
    with pytest.raises(ValueError) as error:
        _loader(**change).load_state_dict(_loader().state_dict())
    assert str(error.value) == f"cannot resume: the checkpoint was made with {message}"


def test_iter_without_next_changes_nothing():
    loader = _loader()
    for _ in range(3):
        iter(loader)
    assert loader.state_dict()["batch"] == 0


def test_read_ahead_overlaps_with_the_consumer():
    """While one item is in use, the next is read; no more than that is read ahead."""
    started = [threading.Event() for _ in range(5)]

    def read(item: int) -> int:
        started[item].set()
        return item

    items = read_ahead(read, range(5))
    assert next(items) == 0
    assert started[1].wait(timeout=10)
    assert not started[2].wait(timeout=0.1)
    assert list(items) == [1, 2, 3, 4]


class _Broken:
    """Rows of which the later ones cannot be read."""

    shape, dtype = (500, 4), np.dtype("uint8")

    def __len__(self) -> int:
        return 500

    def __getitem__(self, rows: slice) -> np.ndarray:
        if rows.start >= 250:
            raise OSError("disk on fire")
        return np.zeros((rows.stop - rows.start, 4), np.uint8)


def test_errors_of_the_thread_reach_the_consumer():
    with pytest.raises(OSError, match="disk on fire"):
        list(StreamLoader(_Broken(), batch_size=8, epoch_size=500))
    arrived = []
    with pytest.raises(OSError, match="disk on fire"):
        arrived.extend(SequentialLoader(_Broken(), batch_size=50))
    assert len(arrived) == 5


def _read_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize("make", [_loader, lambda: SequentialLoader(_numbered(100), batch_size=8)])
def test_no_thread_survives_an_early_break(make):
    loader = make()
    for _ in loader:
        assert _read_threads()
        break
    assert not _read_threads()

    def fail(_: torch.Tensor) -> None:
        raise RuntimeError("consumer")

    with pytest.raises(RuntimeError, match="consumer"):
        list(map(fail, loader))
    assert not _read_threads()


@pytest.mark.parametrize("num_rows", [1, 7, 100, 101])
@pytest.mark.parametrize("world_size", [1, 3])
def test_sequential_shares(num_rows: int, world_size: int):
    if num_rows < world_size:
        with pytest.raises(ValueError, match="1 rows cannot be shared by 3 devices: give at least 3"):
            SequentialLoader(_numbered(num_rows), batch_size=8, world_size=world_size)
        return
    loaders = [
        SequentialLoader(_numbered(num_rows), batch_size=8, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [list(loader) for loader in loaders]
    assert {len(part) for part in batches} == {len(loaders[0])}
    sizes = {len(batch) for part in batches for batch in part}
    assert 1 <= min(sizes) <= max(sizes) <= min(8, min(sizes) + 1)
    rows = torch.cat([batch for part in batches for batch in part])
    np.testing.assert_array_equal(rows.numpy(), _numbered(num_rows))


class _Grouped:
    """Rows that carry their number, of a file that gives them in groups; counts how often each group is read."""

    def __init__(self, sizes: list[int]) -> None:
        self.rows, self.row_groups = _numbered(sum(sizes)), np.array(sizes)
        self.shape, self.dtype, self.reads = self.rows.shape, self.rows.dtype, []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.reads.append((rows.start, rows.stop))
        return self.rows[rows]


@pytest.mark.parametrize("cut", [0, 7, 30, 61])
def test_rows_of_groups_are_the_order_and_resume(cut: int):
    sizes = [70, 33, 120, 1, 1, 75, 100]
    loader = StreamLoader(_Grouped(sizes), batch_size=8, epoch_size=10**6, seed=3)
    expected = [loader.order.batch_rows(epoch, batch).tolist() for epoch in range(3) for batch in range(len(loader))]
    assert _take(loader, 3) == expected
    resumed = StreamLoader(_Grouped(sizes), batch_size=8, epoch_size=10**6, seed=3)
    epoch, batch = divmod(cut, len(loader))
    resumed.load_state_dict(loader.state_dict() | {"epoch": epoch, "batch": batch})
    assert _take(resumed, 1) == expected[cut : cut + len(loader)]
    with pytest.raises(ValueError, match="num_row_groups=5, this run has num_row_groups=None; resume with the same"):
        _loader(num_rows=400).load_state_dict(loader.state_dict())


def test_a_group_is_read_once_where_windows_are_larger(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader_module, "WINDOW_BYTES", 1 << 20)
    vectors = _Grouped([50] * 40)
    assert len(list(StreamLoader(vectors, batch_size=10, epoch_size=2000))) == 200
    assert sorted(vectors.reads) == [(first, first + 50) for first in range(0, 2000, 50)]


def test_row_groups_that_are_larger_than_what_is_shuffled_are_told(monkeypatch, caplog):
    monkeypatch.setattr(loader_module, "MAX_WINDOW_BYTES", 1024)
    StreamLoader(_Grouped([500, 10]), batch_size=10, epoch_size=500)
    assert "row groups of up to 500 rows, of which 64 are shuffled together: write it with smaller ones" in caplog.text
