"""How long does one query take, and a batch, beside another revision? Both search the same index, by turns.

    git worktree add ../other 7093b36
    .venv/bin/python benchmarks/search_latency.py INDEX --other ../other [--threads 2] [--avx2] [--photo-sift N N N]
    .venv/bin/python benchmarks/search_latency.py INDEX --other ../other --front [--other-index DIR] [--threads 1]

INDEX is what `qinco index` wrote of this photo_sift. Two processes load it, each by its own revision's code; one waits
while the other searches, so that both meet the same machine, and the first turn is not counted. Medians over the turns;
ratios are those within a turn. CPU time is that of all threads: a neighbour changes it less. --avx2 has torch and its
libraries use no instructions beyond AVX2. --front: how fast is each where it finds all but a point of the R@1 that the
other finds at most? All queries in one call, the least CPU time of the turns. --other-index: the other revision has an
index of its own, of what its recipe trained from the same vectors.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import AVX2, heading, line, machine

from datamodules.photo_sift import photo_sift
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.metrics import recall_at

NPROBE, K, SHORTLISTS = 16, 10, (50, 300)
FRONT = [{"nprobe": nprobe, "num_additive": size} for nprobe in (8, 16, 32) for size in (10, 15, 20, 30, 50, 100)]
FRONT_TURNS = 2
# is asked for so many calls of so many queries each, from one query on, and answers with the seconds of each call
SEARCHES = """
import json, sys, time
import numpy as np, torch
from qinco_lit import Searcher

index, file, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
queries, searcher = np.load(file), Searcher.load(index, num_threads=int(threads))
for request in sys.stdin:
    first, calls, size, arguments, output = json.loads(request)
    wall, cpu, ids = [], [], []
    for start in range(first, first + calls * size, size):
        began = time.perf_counter(), time.process_time()
        ids.append(searcher.search(queries[start : start + size], **arguments)[1])
        wall.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
    if output:
        np.save(output, np.concatenate(ids))
    print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)
"""


class Revision:
    """A process that searches with one revision's code."""

    def __init__(self, root: Path, index: Path, queries: Path, options: argparse.Namespace) -> None:
        path = os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path} | (AVX2 if options.avx2 else {})
        self._process = subprocess.Popen(
            [sys.executable, "-c", SEARCHES, str(index.resolve()), str(queries), str(options.threads)],
            cwd=queries.parent, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def search(
        self, first: int, calls: int, size: int, parameters: dict[str, int], output: Path | None = None
    ) -> dict[str, float]:
        """Median seconds of a query, by both clocks, of so many calls."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = [first, calls, size, {"k": K, **parameters}, output and str(output)]
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return {clock: statistics.median(seconds) / size for clock, seconds in answer.items()}

    def end(self) -> None:
        """No more searches."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--other", type=Path, required=True, help="folder of the other revision's clone")
    parser.add_argument("--other-index", type=Path, help="that the other revision searches; default: INDEX")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--turns", type=int, default=9, help="that count")
    parser.add_argument("--front", action="store_true", help="at the recall that each reaches, instead")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--photo-sift", type=int, nargs=3, metavar=("TRAIN", "DATABASE", "QUERIES"),
                        default=(100_000, 100_000, 4_000))  # fmt: skip
    options = parser.parse_args()
    num_train, num_database, num_queries = options.photo_sift
    source = photo_sift(
        root=options.data_dir / "photo_sift", num_train=num_train, num_database=num_database, num_queries=num_queries
    )
    data = VectorDataModule(source)
    data.prepare_data()
    data.setup()
    assert data.queries is not None
    torch.set_num_threads(options.threads)
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "queries.npy", data.queries[:])
        given = {
            "other": (options.other.resolve(), options.other_index or options.index),
            "this": (here, options.index),
        }
        revisions = {key: Revision(*each, folder / "queries.npy", options) for key, each in given.items()}
        try:
            if options.front:
                print_fronts(revisions, data.ground_truth, num_queries, folder)
            else:
                print_times(revisions, options, num_queries)
                print_recalls(revisions, data.ground_truth, num_queries, folder)
        finally:
            for revision in revisions.values():
                revision.end()


def print_times(revisions: dict[str, Revision], options: argparse.Namespace, num_queries: int) -> None:
    print(f"{machine(torch.device('cpu'))}{', no more than AVX2' if options.avx2 else ''}\n")
    print(
        heading("queries, shortlist", "this: ms, CPU ms", "other: ms, CPU ms", "times the speed", "of it, by CPU time")
    )
    for size, calls in ((1, 25), (min(1000, num_queries), 1)):
        for shortlist in SHORTLISTS:
            taken: dict[str, list[dict[str, float]]] = {key: [] for key in revisions}
            for turn in range(options.turns + 1):
                first = turn * 97 % (num_queries - size * calls + 1)
                for key, revision in revisions.items():
                    one = revision.search(first, calls, size, {"nprobe": NPROBE, "num_additive": shortlist})
                    if turn:
                        taken[key].append(one)
            ratios = [
                statistics.median(a[clock] / b[clock] for a, b in zip(taken["other"], taken["this"], strict=True))
                for clock in ("wall", "cpu")
            ]
            times = (
                ", ".join(
                    f"{1e3 * statistics.median(one[clock] for one in taken[key]):.2f}" for clock in ("wall", "cpu")
                )
                for key in ("this", "other")
            )
            print(line(f"{size:,}, {shortlist}", *times, *(f"{ratio:.1f}" for ratio in ratios)), flush=True)


def print_recalls(revisions: dict[str, Revision], truth: np.ndarray, num_queries: int, folder: Path) -> None:
    print("\n" + heading("shortlist", "this: R@1, R@10", "other", "same first", "same of the first ten"))
    for shortlist in SHORTLISTS:
        ids, recalls = {}, {}
        for key, revision in revisions.items():
            parameters = {"nprobe": NPROBE, "num_additive": shortlist}
            revision.search(0, 1, num_queries, parameters, folder / "ids.npy")
            ids[key] = np.load(folder / "ids.npy")
            found = recall_at(ids[key], truth, (1, K)).values()
            recalls[key] = ", ".join(f"{100 * share:.2f}" for share in found)
        first = 100 * (ids["this"][:, 0] == ids["other"][:, 0]).mean()
        common = 100 * (ids["this"][:, :, None] == ids["other"][:, None]).any(2).mean()
        print(line(str(shortlist), recalls["this"], recalls["other"], f"{first:.2f} %", f"{common:.2f} %"), flush=True)


def print_fronts(revisions: dict[str, Revision], truth: np.ndarray, num_queries: int, folder: Path) -> None:
    print(f"{machine(torch.device('cpu'))}\n")
    print(heading("nprobe, shortlist", *(f"{key}: R@1, CPU ms" for key in revisions)))
    found: dict[str, list[tuple[float, float]]] = {key: [] for key in revisions}
    for parameters in FRONT:
        least = dict.fromkeys(revisions, float("inf"))
        recall = {}
        for _ in range(FRONT_TURNS):
            for key, revision in revisions.items():
                taken = revision.search(0, 1, num_queries, parameters, folder / "ids.npy")
                least[key] = min(least[key], 1e3 * taken["cpu"])
                recall[key] = 100 * recall_at(np.load(folder / "ids.npy"), truth, (1,))[1]
        for key in revisions:
            found[key].append((recall[key], least[key]))
        shown = (f"{recall[key]:.2f}, {least[key]:.3f}" for key in revisions)
        print(line(", ".join(map(str, parameters.values())), *shown), flush=True)
    best = max(recall for recall, _ in found["other"])
    near = {
        key: min((taken for recall, taken in points if recall >= best - 1), default=math.inf)
        for key, points in found.items()
    }
    print(f"\nwithin a point of {best:.2f}: " + ", ".join(f"{key} {taken:.3f} CPU ms" for key, taken in near.items()))
    print(f"times the queries: {near['other'] / near['this']:.2f}")


if __name__ == "__main__":
    main()
