"""What does each stage of a search find, and what does it cost?

    .venv/bin/python benchmarks/large_scale_search.py INDEX CODES [--photo-sift TRAIN DATABASE QUERIES] [--threads N]

INDEX and CODES are what `qinco index` and `qinco encode` wrote for this photo_sift. Three tables. Stages: R@1 and R@10
of every stage and of exact search in the decoded database. Scan: our additive stage against faiss' own scan of the same
index, by turns in one process. Time: what the stages of some searches take per query, in batches and alone. The Pareto
fronts next to other indexes of faiss are `qinco search`'s.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from measuring import heading, line, machine, median_ratio, rounds

from datamodules.photo_sift import photo_sift
from qinco_lit import Searcher
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.devices import threads
from qinco_lit.metrics import recall_at
from qinco_lit.search.index.bundle import load
from qinco_lit.search.plain_scan import PlainScan
from qinco_lit.vectors import exact_neighbours, open_codes

SEARCHES: tuple[Mapping[str, int], ...] = (
    {"nprobe": 16, "num_additive": 50},
    {"nprobe": 16, "num_additive": 100},
    {"nprobe": 64, "num_additive": 100},
    {"nprobe": 64, "num_additive": 500},
    {"nprobe": 16, "num_additive": 100, "num_pairwise": 30},
    {"nprobe": 64, "num_additive": 500, "num_pairwise": 100},
)
STAGES = ("additive", "pairwise", "decode")
WARMUP_QUERIES, LATENCY_QUERIES, SCAN_QUERIES, REPEATS = 200, 200, 2_000, 3


def described(parameters: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def print_stages(searcher: Searcher, queries: np.ndarray, truth: np.ndarray) -> None:
    print(heading("search", "additive R@1, R@10", "pairwise", "decode"))
    for parameters in SEARCHES:
        stages = searcher.trace(queries, 10, **parameters).stages
        found = (recalls(stages[name].ids, truth) if name in stages else "" for name in STAGES)
        print(line(described(parameters), *found))


def recalls(ids: np.ndarray, truth: np.ndarray) -> str:
    return ", ".join(f"{100 * share:.2f}" for share in recall_at(ids, truth, (1, 10)).values())


def print_full_decoding(index: Path, codes: Path, data: VectorDataModule, queries: np.ndarray) -> None:
    store = open_codes(codes)
    x_hat = load(index).codec.decode(store[:], list_ids=store.list_ids())
    mse = float(((x_hat - data.database[:].astype(np.float32)) ** 2).sum(1).mean())
    ids = exact_neighbours(queries.astype(np.float32), x_hat, 10)[1]
    found = recalls(ids, data.ground_truth)
    print(f"\nexact search in the decoded database: R@1, R@10 {found}; database MSE {mse:,.0f}\n")


def print_scan(index: Path, searcher: Searcher, queries: np.ndarray) -> None:
    plain, x = PlainScan(load(index).index), queries.astype(np.float32)
    print(heading("nprobe, shortlist", "ours, us/query", "faiss, us/query", "ratio"))
    for nprobe, size in ((4, 100), (16, 100), (16, 1000), (64, 100), (64, 1000)):
        arguments = {"nprobe": nprobe, "ef_search": 2 * nprobe}
        _, times = rounds(
            {
                "faiss": lambda size=size, arguments=arguments: plain.search(x, size, **arguments),
                "ours": lambda size=size, arguments=arguments: searcher._scan.search(x, size, **arguments),
            },
            REPEATS,
            torch.device("cpu"),
        )
        per_query = {name: 1e6 * statistics.median(taken) / len(x) for name, taken in times.items()}
        ratio = median_ratio(times["faiss"], times["ours"])
        print(line(f"{nprobe}, {size}", f"{per_query['ours']:.0f}", f"{per_query['faiss']:.0f}", f"{ratio:.1f}"))


def print_times(searcher: Searcher, queries: np.ndarray) -> None:
    print("\n" + heading("search, k=10", "queries/s", "us/query by stage", "one query, median ms", "95 %"))
    for parameters in SEARCHES:
        searcher.search(queries[:WARMUP_QUERIES], 10, **parameters)
        taken, stages = [], []
        for _ in range(REPEATS):
            began = time.perf_counter()
            trace = searcher.trace(queries, 10, **parameters)
            taken.append(time.perf_counter() - began)
            stages.append({name: stage.seconds for name, stage in trace.stages.items()})
        alone = []
        for query in queries[:LATENCY_QUERIES]:
            began = time.perf_counter()
            searcher.search(query[None], 10, **parameters)
            alone.append(1e3 * (time.perf_counter() - began))
        parts = {name: 1e6 * statistics.median(one[name] for one in stages) / len(queries) for name in stages[0]}
        print(
            line(
                described(parameters),
                f"{len(queries) / statistics.median(taken):,.0f}",
                ", ".join(f"{name} {value:.0f}" for name, value in parts.items()),
                f"{statistics.median(alone):.2f}",
                f"{np.quantile(alone, 0.95):.2f}",
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("codes", type=Path)
    parser.add_argument("--photo-sift", type=int, nargs=3, default=(200_000, 200_000, 10_000))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    num_train, num_database, num_queries = arguments.photo_sift
    data = VectorDataModule(
        photo_sift(root="data/photo_sift", num_train=num_train, num_database=num_database, num_queries=num_queries)
    )
    data.prepare_data()
    data.setup()
    assert data.queries is not None
    queries = data.queries[:]
    with threads(arguments.threads):
        searcher = Searcher.load(arguments.index)
        print(f"{machine(torch.device('cpu'))}; {len(searcher):,} vectors, {searcher.num_lists:,} lists\n")
        print_stages(searcher, queries, data.ground_truth)
        print_full_decoding(arguments.index, arguments.codes, data, queries)
        print_scan(arguments.index, searcher, queries[:SCAN_QUERIES])
        print_times(searcher, queries)


if __name__ == "__main__":
    main()
