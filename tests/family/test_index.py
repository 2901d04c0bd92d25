"""Members, with lists and without, indexed and searched: the exact stage is brute force in the reconstructions."""

from collections.abc import Callable

import numpy as np
import pytest

from qinco_lit import Searcher
from tests.family.members import DATA, LISTS, MEMBERS, QUERIES, ROWS, Walk, recalls

EVERYTHING = (
    f"nprobe=[{LISTS}]", "ef_search=[64]", f"num_additive=[{ROWS}]", "num_pairwise=[0]", "repeats=1", "warmup=0",
    "latency_queries=0", "num_threads=1",
)  # fmt: skip


@pytest.fixture(scope="session", params=MEMBERS)
def indexed(request: pytest.FixtureRequest, walk_of: Callable[[str], Walk]) -> Walk:
    walk = walk_of(request.param)
    lists = [] if walk.member.has_lists else [f"num_lists={LISTS}"]
    given = ("codec=@/codec", "codes=@/codes.h5", *DATA, *lists, "output=@/index", "device=cpu")
    assert walk.qinco("index", *given) == ""
    return walk


def nearest(queries: np.ndarray, x_hat: np.ndarray, k: int) -> np.ndarray:
    return np.sort(np.square(np.float64(queries)[:, None] - x_hat).sum(-1), axis=1)[:, :k]


def test_the_exact_stage_is_brute_force_in_the_decoded_file(indexed: Walk) -> None:
    queries = indexed.rows("queries")
    searcher = Searcher.load(indexed.path("index"), precision="float32")
    assert (len(searcher), searcher.dim) == (ROWS, queries.shape[1])
    assert searcher.bytes_per_vector["codes"] == -(-indexed.member.bits // 8)
    for steps in (1, indexed.member.num_steps):
        x_hat = indexed.decoded(indexed.codes[:, :steps])
        distances, ids = searcher.search(queries, 5, nprobe=LISTS, num_additive=ROWS, num_pairwise=0, num_steps=steps)
        np.testing.assert_allclose(distances, nearest(queries, x_hat, 5), rtol=1e-4, atol=1e-3)
        own = np.square(queries[:, None] - x_hat[ids]).sum(-1)
        np.testing.assert_allclose(distances, own, rtol=1e-4, atol=1e-3)


def test_search_measures_the_recall_of_brute_force(indexed: Walk) -> None:
    queries, base, steps = indexed.rows("queries"), indexed.rows("base"), indexed.member.num_steps
    tried = f"num_steps=[{steps},{steps - 1}]"
    options = (*DATA, *EVERYTHING, tried, "precision=float32", "hydra.run.dir=@/searched")
    assert indexed.qinco("search", "index=@/index", *options) == ""
    engine = indexed.read("searched/search.json")["engines"]["qinco"]
    assert engine["bytes_per_vector"]["codes"] == -(-indexed.member.bits // 8)
    points = {point["parameters"]["num_steps"]: point for point in engine["points"]}
    assert sorted(points) == [steps - 1, steps]
    for num_steps, point in points.items():
        x_hat = indexed.decoded(indexed.codes[:, :num_steps])
        for k in (1, 10, 100):
            least, largest = recalls(queries, base, x_hat, k)
            assert least - 0.5 / QUERIES < point[f"recall_at_{k}"] < largest + 0.5 / QUERIES
    assert f"Pareto front of {indexed.member.label} (" in indexed.path("searched/search.md").read_text()
