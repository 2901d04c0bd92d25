"""What does a busy neighbour cost, and what do chunks side by side save? Encoding beside 0, 1, 2 busy processes.

Each neighbour multiplies matrices on one core. By turns, so that one machine meets both: chunks one after the other,
each operation on all threads ("within operations"), and chunks side by side, each on one thread ("side by side", what
`Codec.encode` does). The codes are compared, too.

    python benchmarks/neighbours.py [--rows 8192] [--repeats 3] [--threads 2]
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import numpy as np
import torch

from benchmarks.measuring import machine, rounds
from benchmarks.subjects import random_quantizer
from qinco_lit import codec as codec_module
from qinco_lit.codec import Codec
from qinco_lit.quantizers.workers import for_each

DIM, NUM_STEPS = 128, 8
SEARCHES = {
    "T=16, B=8": {"beam_size": 8, "candidate_budget": 16},
    "A=16, B=32": {"beam_size": 32, "num_candidates": 16},
}
_BEGIN_S = 5.0  # of a neighbour: torch's import


def keep_busy() -> None:
    torch.set_num_threads(1)
    rows = torch.randn(512, 512)
    while True:
        rows @ rows


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=keep_busy, daemon=True) for _ in range(number)]
    for process in processes:
        process.start()
    time.sleep(_BEGIN_S if processes else 0)
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def within_operations(encode: Callable[[], np.ndarray]) -> np.ndarray:
    with mock.patch.object(codec_module, "for_each", partial(for_each, bounded=True)):
        return encode()


def one_after_the_other(encode: Callable[[], np.ndarray]) -> np.ndarray:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return encode()
    finally:
        torch.set_num_threads(num_threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    codec = Codec(random_quantizer("S", DIM, NUM_STEPS, torch.Generator().manual_seed(0)))
    x = np.random.default_rng(0).standard_normal((options.rows, DIM)).astype(np.float32)
    print(f"{machine(codec.device)}, {codec.precision}")
    print("| search | neighbours | one thread | within operations | side by side | codes the same |")
    print("|---|---|---|---|---|---|")
    for name, search in SEARCHES.items():
        rows = x if "T" in name else x[: len(x) // 16]
        encode = partial(codec.encode, rows, **search)
        ways = {
            "one": partial(one_after_the_other, encode),
            "within": partial(within_operations, encode),
            "side": encode,
        }
        for number in (0, 1, 2):
            with neighbours(number):
                results, times = rounds(ways, options.repeats, codec.device)
            speeds = " | ".join(f"{len(rows) / statistics.median(times[way]):,.0f}" for way in ways)
            same = [float((results[way] == results["side"]).all(1).mean()) for way in ("one", "within")]
            print(f"| {name} | {number} | {speeds} | {min(same):.4%} |", flush=True)


if __name__ == "__main__":
    main()
