"""Of indexes of the same bytes, which finds most at which speed, and where does QINCo2 stop being the best choice?

    .venv/bin/python benchmarks/front_per_byte.py INDEX --data photo_sift [--limit-database N] [--methods ivf_pq ...]

INDEX is what `qinco index` wrote of the data set's first N database vectors. Others have its lists, its coarse search
and as many bytes a vector in all as it has in memory, its norm's among them: with 8+2 bytes PQ and fast-scan of 10,
IVF-RQ of 9+1. RaBitQ takes the bytes that it takes. One thread, all queries in a call. Speeds are queries per CPU
second of the fastest of the turns, which a neighbour changes little; recall is of the first result.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import heading, line, machine

from datamodules import docs_text, photo_sift
from qinco_lit import Searcher
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.devices import one_faiss_thread
from qinco_lit.metrics import recall_at, undominated
from qinco_lit.progress import Progress
from qinco_lit.search.points.engines import SearchEngine, SearcherEngine
from qinco_lit.search.points.faiss_engine_cache import EngineBuilder

SETS = {"photo_sift": photo_sift.photo_sift, "docs_text": docs_text.docs_text}
METHODS = ("ivf_pq", "ivf_pqfs", "ivf_rq", "rabitq", "rabitq2")
NPROBE, NUM_ADDITIVE, EF_SEARCH = (1, 2, 4, 8, 16, 32, 64), (5, 10, 20, 50, 100, 300), 64
TURNS, K = 3, 10
SHOWN = ("nprobe", "num_additive")


class Point(NamedTuple):
    """What one choice of parameters gives: recall in percent, CPU seconds of a query."""

    parameters: Mapping[str, int]
    recall: float
    recall_at_10: float
    cpu_s: float


def measured(engine: SearchEngine, queries: np.ndarray, truth: np.ndarray) -> list[Point]:
    """All choices of the parameters; the undominated ones, by falling speed."""
    points = []
    for values in product(*engine.parameters.values()):
        parameters, taken = dict(zip(engine.parameters, values, strict=True)), []
        for _ in range(TURNS):
            began = time.process_time()
            result = engine.search(queries, K, **parameters)
            taken.append(time.process_time() - began)
        found = recall_at(result.ids, truth, (1, K))
        points.append(Point(parameters, 100 * found[1], 100 * found[K], min(taken) / len(queries)))
    return undominated(points, cost=lambda point: point.cpu_s, loss=lambda point: -point.recall)


def engines(options: argparse.Namespace, data: VectorDataModule) -> Iterator[SearchEngine]:
    """The index, then the others, one at a time."""
    searcher = Searcher.load(options.index, num_threads=1)
    grid = {"nprobe": NPROBE, "ef_search": [EF_SEARCH], "num_additive": NUM_ADDITIVE, "num_pairwise": [0]}
    ours = SearcherEngine(searcher, **grid)
    yield ours
    num_bytes = int(sum(ours.bytes_per_vector.values()))
    for method in options.methods:
        builder = EngineBuilder(
            coarse=searcher.coarse,
            metric=searcher.metric,
            train_vectors=data.train_vectors,
            database=data.database,
            num_bytes=num_bytes - (method == "ivf_rq"),
            cache_dir=options.cache_dir,
        )
        yield builder.engine(method, nprobe=NPROBE, ef_search=[EF_SEARCH], progress=Progress(show=False)).engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--data", choices=SETS, default="photo_sift")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--sizes", type=int, nargs=2, metavar=("DATABASE", "QUERIES"), help="of the data set")
    parser.add_argument("--limit-database", type=int)
    parser.add_argument("--limit-queries", type=int)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--cache-dir", type=Path, default=Path("outputs/front_per_byte"))
    options = parser.parse_args()
    given: dict[str, Any] = {}
    if options.sizes:
        given = dict(zip(("num_database", "num_queries"), options.sizes, strict=True))
    data = VectorDataModule(
        SETS[options.data](root=options.data_dir / options.data, **given),
        metric="cosine" if options.data == "docs_text" else "l2",
        limit_database=options.limit_database,
    )
    data.prepare_data()
    data.setup()
    assert data.queries is not None
    torch.set_num_threads(1)
    queries, truth = data.queries[: options.limit_queries], data.ground_truth[: options.limit_queries]
    print(f"{machine(torch.device('cpu'))}; {len(data.database):,} vectors, {len(queries):,} queries\n")
    print(heading("index", "bytes", "R@1, R@10 %", "queries per CPU second", "parameters"))
    fronts: dict[str, list[Point]] = {}
    with one_faiss_thread():
        for engine in engines(options, data):
            front = fronts[engine.name] = measured(engine, queries, truth)
            size = "+".join(f"{part:g}" for part in engine.bytes_per_vector.values())
            for point in front:
                chosen = ", ".join(f"{name} {value}" for name, value in point.parameters.items() if name in SHOWN)
                found = f"{point.recall:.1f}, {point.recall_at_10:.1f}"
                print(line(engine.name, size, found, f"{1 / point.cpu_s:,.0f}", chosen), flush=True)
    ours = fronts.pop("qinco")
    for name, front in fronts.items():
        print(f"\n{name}: {stops(ours, front)}")


def stops(ours: list[Point], theirs: list[Point]) -> str:
    """The speed from which on the other index finds no less, in words."""
    best = max(point.recall for point in theirs)
    ahead = [
        point for point in ours if all(their.cpu_s > point.cpu_s or their.recall < point.recall for their in theirs)
    ]
    if not ahead:
        return f"its best R@1 is {best:.1f}; QINCo2 is behind at every speed"
    fastest = min(ahead, key=lambda point: point.cpu_s)
    return (
        f"its best R@1 is {best:.1f}, {max(point.recall for point in ours):.1f} of QINCo2, which is ahead up to "
        f"{1 / fastest.cpu_s:,.0f} queries per CPU second (R@1 {fastest.recall:.1f})"
    )


if __name__ == "__main__":
    main()
