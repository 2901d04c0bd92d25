"""k-means of a stream of rows: against a slow loop and faiss, and the same whatever the threads and interruptions."""

import errno
import itertools
import os
import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch

from qinco_lit.coarse.kmeans import rows as kmeans_rows
from qinco_lit.coarse.kmeans import start as kmeans_start
from qinco_lit.coarse.kmeans import state as state_module
from qinco_lit.coarse.kmeans.lloyd import KMeans, choose_method, default_rows, run_kmeans
from qinco_lit.coarse.kmeans.nearest import ExactNearest, GroupedNearest
from qinco_lit.coarse.kmeans.rows import CentredRows
from qinco_lit.coarse.kmeans.start import cluster, quotas, random_rows
from qinco_lit.coarse.kmeans.state import StateFile
from qinco_lit.progress import Progress
from qinco_lit.vectors import open_vectors

CPU = torch.device("cpu")
DIM = 12


def mixture(rows: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, dim)) * 3
    return (centres[rng.integers(0, 40, rows)] + rng.normal(size=(rows, dim))).astype(np.float32)


def error(x: np.ndarray, centroids: np.ndarray) -> float:
    """Mean squared L2 to the nearest centroid, float64, by the definition."""
    nearest = np.concatenate([((part[:, None] - centroids) ** 2).sum(-1).argmin(1) for part in np.array_split(x, 40)])
    return float(((x.astype(np.float64) - centroids[nearest]) ** 2).sum(1).mean())


def train(x, num_lists, method="exact", *, threads=1, state=None, progress=None, **options):
    options = {"num_rows": 10**9, "min_gain": 0.0, **options}
    return run_kmeans(
        x, KMeans(num_lists, method=method, **options), device=CPU, num_threads=threads, state=state, progress=progress
    )


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks, and several passes of the start, of few rows."""
    monkeypatch.setattr(kmeans_rows, "BLOCK_ROWS", 512)
    monkeypatch.setattr(kmeans_start, "_HELD_BYTES", 1_500 * 4 * DIM)


def test_an_iteration_is_lloyds(small_blocks):
    x = mixture(3_000)
    start = random_rows(CentredRows(x, len(x)), 20, np.random.default_rng((0, 0)))
    start = start + CentredRows(x, len(x)).origin
    lists = ((x[:, None] - start) ** 2).sum(-1).argmin(1)
    expected = np.stack([x[lists == each].astype(np.float64).mean(0) for each in range(20)])
    found, measured = train(x, 20, iterations=1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    errors = [one["mean_squared_error"] for one in measured["passes"]]
    np.testing.assert_allclose(errors, [error(x, start), error(x, found)], rtol=1e-5)
    counts = np.bincount(((x[:, None] - found) ** 2).sum(-1).argmin(1), minlength=20)
    assert measured["imbalance"] == pytest.approx(20 * (counts**2).sum() / 3_000**2)


@pytest.mark.parametrize("num_lists", [10, 200])
def test_as_good_as_faiss(num_lists):
    x = mixture(12_000)
    kmeans = faiss.Kmeans(DIM, num_lists, niter=10, max_points_per_centroid=10**6)
    kmeans.train(x)
    found, measured = train(x, num_lists)
    assert error(x, found) == pytest.approx(measured["mean_squared_error"], rel=1e-4)
    assert measured["mean_squared_error"] < 1.02 * error(x, kmeans.centroids)
    assert measured["empty_lists"] == 0


def test_groups_come_close_to_brute_force(small_blocks):
    x = mixture(12_000)
    exact, grouped = (train(x, 300, method)[1] for method in ("exact", "grouped"))
    assert grouped["mean_squared_error"] < 1.05 * exact["mean_squared_error"]
    assert all(one["excess"] <= 1e-3 for one in grouped["passes"])
    assert grouped["passes"][-1]["num_probes"] < 18
    assert grouped["empty_lists"] == 0


def test_a_start_by_groups_in_memory(monkeypatch):
    monkeypatch.setattr(kmeans_start, "_MAX_LISTS", 30)
    x = mixture(6_000)
    found = cluster(x, 200, CPU, np.random.default_rng(0))
    assert found.shape == (200, DIM)
    exact = train(x, 200, iterations=8)[1]["mean_squared_error"]
    assert error(x, found) < 1.1 * exact


@pytest.mark.parametrize("method", ["exact", "grouped"])
def test_the_same_on_any_number_of_threads(small_blocks, method):
    x = mixture(5_000)
    assert np.array_equal(train(x, 100, method, threads=1)[0], train(x, 100, method, threads=3)[0])
    assert torch.get_num_threads() >= 1
    assert not np.array_equal(train(x, 100, method)[0], train(x, 100, method, seed=1)[0])


class StopAfter(Progress):
    """Stops the work after so many blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__(show=False)
        self.left = blocks

    def advance(self, units: int = 1, *, what: str | None = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("method", "blocks"), [("exact", 13), ("grouped", 23)])
def test_interrupted_work_ends_in_the_same_bytes(small_blocks, tmp_path, method, blocks):
    x = mixture(5_000)
    expected, measured = train(x, 100, method, iterations=4)
    state, stops = StateFile(tmp_path / "c.npy.state.npz", {"a": 1}), 0
    while True:
        try:
            found, again = train(
                x, 100, method, iterations=4, state=state, progress=StopAfter(blocks), threads=1 + stops % 2
            )
        except KeyboardInterrupt:
            stops += 1
            assert [path.name for path in tmp_path.iterdir()] == ["c.npy.state.npz"]
            continue
        break
    assert stops >= 3
    assert np.array_equal(found, expected)
    strip = [{name: value for name, value in one.items() if name != "seconds"} for one in again["passes"]]
    assert strip == [{name: value for name, value in one.items() if name != "seconds"} for one in measured["passes"]]


def test_a_state_of_other_work_or_damaged_is_refused(tmp_path):
    x, path = mixture(500), tmp_path / "c.npy.state.npz"
    train(x, 5, state=StateFile(path, {"num_lists": 5, "seed": 0}))
    with pytest.raises(ValueError, match=r"^\S+state.npz belongs to other work: seed is 0 there, 1 here; name another"):
        train(x, 5, state=StateFile(path, {"num_lists": 5, "seed": 1}))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"^\S+state.npz is damaged or no state of k-means: remove it to begin anew$"):
        train(x, 5, state=StateFile(path, {}))


def test_a_full_disk_keeps_the_passes_before(small_blocks, tmp_path, monkeypatch):
    x, path = mixture(2_000), tmp_path / "c.npy.state.npz"
    expected = train(x, 20)[0]
    save, calls = np.savez, []

    def full(*arguments, **values):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*arguments, **values)

    monkeypatch.setattr(state_module.np, "savez", full)
    with pytest.raises(OSError, match=r"state.npz: No space left on device; the passes before are kept: free some"):
        train(x, 20, state=StateFile(path, {}))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert np.array_equal(train(x, 20, state=StateFile(path, {}))[0], expected)


@pytest.mark.parametrize("method", ["exact", "grouped"])
def test_no_list_is_empty_in_the_end(method):
    rare = mixture(300)
    x = np.concatenate([np.tile(rare[:1], (4_000, 1)), rare])
    for iterations in (1, 6):
        found, measured = train(x, 120, method, iterations=iterations)
        lists = ExactNearest(found, CPU)(x)
        assert measured["empty_lists"] == 0
        assert len(np.unique(lists)) == 120
        assert measured["refilled"] > 0 or method == "grouped"


@pytest.mark.parametrize("method", ["exact", "grouped"])
def test_fewer_different_rows_than_lists_end_and_are_told(method, caplog):
    x = np.tile(mixture(7), (100, 1))
    found, measured = train(x, 20, method)
    assert measured["empty_lists"] == 13
    assert measured["mean_squared_error"] == pytest.approx(0, abs=1e-9)
    assert "13 lists have no training rows" in caplog.text
    assert len(measured["passes"]) < 20
    assert found.shape == (20, DIM)


def test_it_stops_where_it_gains_little():
    x = mixture(4_000)
    few = train(x, 30, min_gain=0.02)[1]["passes"]
    many = train(x, 30, min_gain=0.0)[1]["passes"]
    errors = [one["mean_squared_error"] for one in many]
    assert [one["mean_squared_error"] for one in few] == errors[: len(few)]
    gains = [1 - after / before for before, after in itertools.pairwise(errors)]
    assert len(few) == next(i for i, gain in enumerate(gains) if gain < 0.02) + 2
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
def test_far_from_the_origin_and_of_any_dtype(dtype):
    x = np.random.default_rng(0).integers(0, 200, (2_000, 6)).astype(dtype)
    found, measured = train(x, 16)
    assert measured["mean_squared_error"] == pytest.approx(error(x.astype(np.float32), found), rel=1e-5)
    moved = x.astype(np.float64) + 2.0**16
    far, again = train(moved, 16)
    assert again["mean_squared_error"] == pytest.approx(error(moved, far.astype(np.float64)), rel=1e-5)
    assert again["mean_squared_error"] == pytest.approx(measured["mean_squared_error"], rel=0.05)


def test_one_list_is_the_mean():
    x = mixture(1_000)
    for method in ("exact", "grouped"):
        np.testing.assert_allclose(train(x, 1, method)[0][0], x.mean(0), atol=1e-5)
    found, measured = train(x[:50], 50)
    assert measured["mean_squared_error"] == pytest.approx(0, abs=1e-9)
    assert np.array_equal(np.unique(found, axis=0).shape, (50, DIM))


@pytest.mark.parametrize(("total", "wanted"), [(1_000, 1_000), (1_000, 999), (10_000, 3_000), (10_000, 5), (300, 600)])
def test_training_rows_are_spread_over_the_file(monkeypatch, total, wanted):
    monkeypatch.setattr(kmeans_rows, "BLOCK_ROWS", 512)
    x = np.stack([np.arange(total), -np.arange(total)], axis=1).astype(np.float64)
    rows = CentredRows(x, wanted)
    read = np.concatenate(list(rows.blocks())) + rows.origin
    places = np.rint(read[:, 0]).astype(int)
    assert len(places) == rows.num_rows == min(total, wanted)
    assert (np.diff(places) > 0).all()
    assert (places[0], places[-1]) == (0, total - 1)
    some = np.arange(0, rows.num_rows, 3)
    assert np.array_equal(rows.take(some) + rows.origin, read[some])
    assert len(rows.spread(4)) == 4


def test_a_row_with_nan_is_named_by_its_place(tmp_path):
    x = mixture(5_000)
    x[4_321, 3] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"^training vector 4321 holds NaN or infinity \(as float32\): repair"):
        train(open_vectors(tmp_path / "x.npy"), 4)
    with pytest.raises(ValueError, match=r"^vectors of dtype complex64 are not supported"):
        train(x.astype(np.complex64), 4)
    with pytest.raises(ValueError, match=r"^10 training rows for num_lists=11: give at least one for each$"):
        train(x[:10], 11)


def test_all_groups_are_brute_force():
    x, centroids = mixture(700), mixture(120, seed=1)
    centres = centroids[:9]
    grouped = GroupedNearest(centroids, centres, ExactNearest(centres, CPU)(centroids), CPU)
    grouped.num_probes = grouped.num_groups
    assert np.array_equal(grouped(x), ((x[:, None] - centroids) ** 2).sum(-1).argmin(1))
    grouped.num_probes = 1
    own = ExactNearest(centres, CPU)
    assert np.array_equal(own(centroids[grouped(x)]), own(x))


def test_quotas_are_shares_of_the_rows():
    rng = np.random.default_rng(0)
    for _ in range(200):
        populations = (rng.integers(0, 50, 20) ** rng.integers(0, 3)).astype(np.int64)
        num_lists = int(rng.integers(1, populations.sum() + 1))
        shares = quotas(populations, num_lists)
        assert shares.sum() == num_lists
        assert (shares <= populations).all()
        if num_lists >= np.count_nonzero(populations):
            assert (shares[populations > 0] >= 1).all()
    assert quotas(np.array([1_000, 3_000]), 42).tolist() == [11, 31]  # one each, then a quarter and three
    with pytest.raises(ValueError, match=r"^3 rows for 4 lists$"):
        quotas(np.array([1, 2]), 4)


def test_brute_force_where_it_takes_minutes():
    assert choose_method(1_024, default_rows(1_024), 128, 10, CPU) == "exact"
    assert choose_method(1 << 16, default_rows(1 << 16), 128, 10, CPU) == "grouped"
    assert choose_method(1 << 14, default_rows(1 << 14), 128, 10, torch.device("cuda")) == "exact"
    assert default_rows(100) == 1 << 20
    assert default_rows(1 << 20) == 1 << 28


_MEMORY = """
import re, sys
import numpy as np, torch
from qinco_lit.coarse.kmeans import rows as kmeans_rows
from qinco_lit.coarse.kmeans.lloyd import KMeans, run_kmeans
from qinco_lit.vectors import open_vectors

kmeans_rows.BLOCK_ROWS = 1_024  # what is in flight is little then, and the smaller file has many blocks, too
for path in sys.argv[1:]:
    options = KMeans(4, 10**9, "grouped", iterations=1)
    run_kmeans(open_vectors(path), options, device=torch.device("cpu"), num_threads=1)
    print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) >> 10)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    paths = []
    for rows in (40_000, 1_000_000):  # 244 MiB in float32
        paths.append(tmp_path / f"{rows}.npy")
        data = np.lib.format.open_memmap(paths[-1], mode="w+", dtype=np.uint8, shape=(rows, 64))
        data[:] = np.arange(rows, dtype=np.uint8)[:, None]
        del data
    job = [sys.executable, "-c", _MEMORY, *map(str, paths)]
    done = subprocess.run(job, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    small, large = (int(line) for line in done.stdout.splitlines())
    assert large - small < 120  # pages of the mapped file, 61 MiB, may count
