"""Members with lists, indexed and searched: the exact stage is brute force in the reconstructions."""

from collections.abc import Callable

import numpy as np
import pytest

from qinco_lit import Searcher
from tests.family.members import DATA, LISTS, MEMBERS, QUERIES, ROWS, Walk, recalls

EVERYTHING = (
    f"nprobe=[{LISTS}]", "ef_search=[64]", f"num_additive=[{ROWS}]", "num_pairwise=[0]", "repeats=1", "warmup=0",
    "latency_queries=0", "num_threads=1",
)  # fmt: skip


WITH_LISTS = [name for name, member in MEMBERS.items() if member.has_lists]


@pytest.fixture(scope="session", params=WITH_LISTS)
def indexed(request: pytest.FixtureRequest, walk_of: Callable[[str], Walk]) -> Walk:
    walk = walk_of(request.param)
    assert _index(walk, "index") == ""
    return walk


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in WITH_LISTS])
def test_without_lists_there_is_nothing_to_index_by(name: str, walk_of: Callable[[str], Walk]) -> None:
    walk = walk_of(name)
    line = f"qinco: error: {name}/codec has no lists, so there is nothing to index by: train one with coarse=ivf\n"
    assert _index(walk, "refused") == line
    assert not walk.path("refused").exists()


def _index(walk: Walk, output: str) -> str:
    return walk.qinco("index", "codec=@/codec", "codes=@/codes.h5", *DATA, f"output=@/{output}", "device=cpu")


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
