"""OPQ: an orthogonal matrix that lets a product quantizer err less."""

import faiss
import numpy as np
import pytest
import torch

from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.training import faiss_start as rotation
from qinco_lit.training.faiss_start import opq_rotation, some_rows
from qinco_lit.training.start import train_rotation

pytestmark = pytest.mark.usefixtures("quick_rotation")  # one of 256 centroids is trained in tests/family


def _correlated(rows: int, dim: int = 16, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, dim)) * np.geomspace(1, 0.02, dim)
    return (x @ rng.standard_normal((dim, dim)) + shift).astype(np.float32)


def _error(x: np.ndarray, matrix: np.ndarray, num_parts: int) -> float:
    """Of a product quantizer with 4 bits a part, on the second half of the vectors."""
    y = x @ matrix.T
    half = len(y) // 2
    quantizer = faiss.ProductQuantizer(y.shape[1], num_parts, 4)
    quantizer.train(y[:half])
    decoded = quantizer.decode(quantizer.compute_codes(y[half:]))
    return float(((y[half:] - decoded) ** 2).sum(1).mean())


@pytest.mark.parametrize(("part_dims", "num_pieces"), [([8, 8], 2), ([4] * 4, 4), ([8, 4, 4], 4)])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_it_is_orthogonal_and_better_than_none(part_dims: list[int], num_pieces: int, shift: float) -> None:
    x = _correlated(4000, shift=shift)
    matrix = opq_rotation(x[:600], part_dims, seed=0)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-6)
    assert _error(x, matrix, num_pieces) < 0.8 * _error(x, np.eye(16, dtype=np.float32), num_pieces)


def test_it_is_a_function_of_the_seed() -> None:
    x = _correlated(600)
    first, again, other = (opq_rotation(x, [8, 8], seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    opq_rotation(x, [8, 8], seed=(1 << 32) - 1)  # the largest seed there is


def test_the_better_of_two_starts_is_taken() -> None:
    apart = np.random.default_rng(0).standard_normal((300, 16)) * np.geomspace(1, 0.05, 16)
    for x in (_correlated(300), apart.astype(np.float32)):
        random, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((16, 16)))
        centred = np.float32(x - x.mean(0, dtype=np.float64))
        ends = [rotation._trained(centred, start, 4, 4, 5) for start in (np.eye(16), random)]
        assert ends[0][0] != ends[1][0]
        np.testing.assert_array_equal(opq_rotation(x, [4] * 4, seed=5), min(ends, key=lambda end: end[0])[1])


def test_few_vectors_do_and_one_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    for rows in (2, 3, 100):
        matrix = opq_rotation(_correlated(rows), [8, 8], seed=0)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-6)
    assert capfd.readouterr() == ("", "")  # faiss has no word to say
    with pytest.raises(ValueError, match=r"^model.opq=true with 1 training vectors: a rotation needs at least 2$"):
        opq_rotation(_correlated(1), [8, 8], seed=0)


def test_rows_are_bounded_and_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(some_rows(500, 0), np.arange(500))
    monkeypatch.setattr(rotation, "_ROWS", 100)
    rows = some_rows(500, 0)
    assert len(np.unique(rows)) == 100
    assert (np.diff(rows) > 0).all()
    assert rows[-1] > 400  # of the whole file
    np.testing.assert_array_equal(rows, some_rows(500, 0))
    assert not np.array_equal(rows, some_rows(500, 1))


def test_it_is_fitted_to_what_the_centroids_leave() -> None:
    x, centroids = _correlated(300), _correlated(5)
    nearest = ((x[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
    others = np.arange(300) % 5
    for assign, ids in ((None, nearest), (lambda rows: torch.from_numpy(others)[: len(rows)], others)):
        lists = FrozenLists(centroids, assign, torch.device("cpu"))
        matrix = train_rotation(torch.from_numpy(x), [8, 8], seed=2, lists=lists)
        np.testing.assert_array_equal(matrix, opq_rotation(x - centroids[ids], [8, 8], seed=2))
    plain = train_rotation(torch.from_numpy(x), [8, 8], seed=2)
    np.testing.assert_array_equal(plain, opq_rotation(x, [8, 8], seed=2))
