"""Do threads that search, add, remove and save at once see whole changes, and does memory stay flat?

    .venv/bin/python benchmarks/search_under_load.py INDEX [--searching 8] [--minutes 3]

INDEX is what `qinco index` wrote. Vectors are added and removed as pairs of the same one, far from all others: a search
that finds one of two has seen half of a change. Each saved index is loaded and its vectors are counted. Ends with exit
status 1 at the first contradiction, or what a thread raises.
"""

import argparse
import collections
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import machine

from qinco_lit import Searcher

PAIRS, K = 16, 50  # pairs that are there at a time; results, of which these may be most
EVERY_S = 15


class Load:
    """The threads' work, what they counted, and what they ran into.

    Args:
        index: to search and change, in memory only.
        folder: where it is saved.
    """

    def __init__(self, index: Path, folder: Path) -> None:
        self._folder = folder
        self.searcher = Searcher.load(index, num_threads=1)
        list_ids, codes = self.searcher.pipeline.sample()
        codec = self.searcher.bundle.codec
        self._queries = codec.decode(codes, list_ids=list_ids if codec.num_lists is not None else None)[:64]
        self._far = self._queries[:1] + 20 * np.ptp(self._queries)
        self._start, self._next = len(self.searcher), int(1e9)
        self._there: collections.deque[int] = collections.deque()
        self.done: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.ended = threading.Event()

    def search(self) -> None:
        """Ordinary queries, and those that find the pairs."""
        self.searcher.search(self._queries, 10)
        _, ids = self.searcher.search(self._far, K, num_additive=4 * K)
        found = np.sort(ids[ids >= int(1e9)])
        if len(found) % 2 or (found[1::2] != found[::2] + 1).any():
            raise AssertionError(f"a search found half of a pair: {found.tolist()}")
        self.done["searched"] += len(self._queries) + 1

    def add(self) -> None:
        """One pair, while there are few."""
        if len(self._there) >= PAIRS:
            time.sleep(0.001)
            return
        self.searcher.add(np.repeat(self._far, 2, axis=0), [self._next, self._next + 1])
        self._there.append(self._next)
        self._next += 2
        self.done["added"] += 2

    def remove(self) -> None:
        """The pair that has been there longest."""
        if len(self._there) < PAIRS // 2:
            time.sleep(0.001)
            return
        first = self._there.popleft()
        if self.searcher.remove([first, first + 1]) != 2:
            raise AssertionError(f"the pair {first} was not there")
        self.done["removed"] += 2

    def save(self) -> None:
        """All of it, and count what the folder has."""
        self.searcher.save(self._folder / "index")
        more = len(Searcher.load(self._folder / "index", mmap=True, num_threads=1)) - self._start
        if more % 2 or not 0 <= more <= 2 * PAIRS + 2:
            raise AssertionError(f"the saved index has {more} vectors more than at the start")
        self.done["saved"] += 1

    def repeat(self, work: Callable[[], None]) -> None:
        """Until all end."""
        try:
            while not self.ended.is_set():
                work()
        except BaseException as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            self.ended.set()


def resident_mb() -> float:
    """Of this process, without pages of mapped files."""
    status = dict(each.split(":", 1) for each in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1e3


def main() -> int:
    """Print what happened, and memory meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--searching", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=3)
    options = parser.parse_args()
    print(machine(torch.device("cpu")))
    with tempfile.TemporaryDirectory() as folder:
        load = Load(options.index, Path(folder))
        works = [*[load.search] * options.searching, load.add, load.remove, load.save]
        threads = [threading.Thread(target=load.repeat, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while not load.ended.wait(min(EVERY_S, max(0.0, began + 60 * options.minutes - time.monotonic()))):
            print(f"{time.monotonic() - began:4.0f} s  {resident_mb():,.0f} MB  {dict(load.done)}", flush=True)
            if time.monotonic() - began >= 60 * options.minutes:
                load.ended.set()
        for thread in threads:
            thread.join()
    print(*load.failures, f"{'failed' if load.failures else 'no contradiction'}", sep="\n")
    return int(bool(load.failures))


if __name__ == "__main__":
    sys.exit(main())
