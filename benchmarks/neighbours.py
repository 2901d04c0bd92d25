"""What does a busy neighbour cost, and what do chunks side by side save? Encoding and training beside 0, 1, 2 of them.

Each neighbour is a process that multiplies matrices on one core. By turns, so that one machine meets both: chunks one
after the other, each operation on all threads ("within operations"), and chunks side by side, each on one thread
("side by side", what `Codec.encode` and training steps do). The codes are compared, too.

    python benchmarks/neighbours.py [--rows 8192] [--repeats 3] [--threads 2]
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest import mock

import numpy as np
import torch

from benchmarks.measuring import machine, rounds
from benchmarks.subjects import random_quantizer
from qinco_lit import codec as codec_module
from qinco_lit.codec import Codec
from qinco_lit.planning import throughput
from qinco_lit.planning.throughput import TrainingSteps
from qinco_lit.quantizers import losses, quantizer, workers
from qinco_lit.training.presets import chosen_options
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.trainer import quiet_lightning

DIM, NUM_STEPS = 128, 8
NARROW = {"beam_size": 8, "candidate_budget": 16}
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


def within_operations(run: Callable[[], object]) -> object:
    def one_by_one(
        work: Callable[[int, int], None], ranges: Iterable[tuple[int, int]], *_: object, **__: object
    ) -> None:
        for start, stop in ranges:
            work(start, stop)

    with ExitStack() as patches:
        for module in (codec_module, quantizer, losses, workers):
            patches.enter_context(mock.patch.object(module, "for_each", one_by_one))
        patches.enter_context(mock.patch.object(throughput, "on_one_core", lambda work, _: work()))
        return run()


def on_one_thread(run: Callable[[], object]) -> object:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run()
    finally:
        torch.set_num_threads(num_threads)


def runs(x: np.ndarray) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """What is run, of how many vectors: encoding gives its codes, a training step nothing."""
    codec = Codec(random_quantizer("S", DIM, NUM_STEPS, torch.Generator().manual_seed(0)))
    wide = x[: len(x) // 16]
    yield "encode, T=16, B=8", len(x), partial(codec.encode, x, **NARROW)
    yield "encode, A=16, B=32", len(wide), partial(codec.encode, wide, beam_size=32, num_candidates=16)
    model = random_quantizer("S", DIM, NUM_STEPS, torch.Generator().manual_seed(0))
    _, recipe = chosen_options("qinco2_tiny", "tuned", {})
    steps = TrainingSteps(model, Recipe(**recipe), x, codec.device)
    batch_size = min(len(x), recipe["batch_size"])
    yield "train, T=16, B=8", batch_size, partial(steps.by(model.search_for(**NARROW)).run, batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet_lightning()
    x = np.random.default_rng(0).standard_normal((options.rows, DIM)).astype(np.float32)
    print(machine(torch.device("cpu")))
    print("| vectors/s | neighbours | one thread | within operations | side by side | codes the same |")
    print("|---|---|---|---|---|---|")
    for name, rows, run in runs(x):
        ways = {"one": partial(on_one_thread, run), "within": partial(within_operations, run), "side": run}
        for number in (0, 1, 2):
            with neighbours(number):
                results, times = rounds(ways, options.repeats, torch.device("cpu"))
            speeds = " | ".join(f"{rows / statistics.median(times[way]):,.0f}" for way in ways)
            codes = {way: result for way, result in results.items() if isinstance(result, np.ndarray)}
            same = [float((codes[way] == codes["side"]).all(1).mean()) for way in codes]
            print(f"| {name} | {number} | {speeds} | {f'{min(same):.4%}' if same else '–'} |", flush=True)


if __name__ == "__main__":
    main()
