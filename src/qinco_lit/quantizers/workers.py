"""Chunks side by side, each on one core: no core waits for another within an operation.

Operations that share their work among threads meet at a barrier thousands of times a second, and each time wait for the
slowest core: beside a busy neighbour that costs many times the neighbour's share (benchmarks/RESULTS.md). Chunks do not
depend on each other, so each is computed by one thread from its start to its end, and cores meet once.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor] = {}
_own = threading.local()  # of a thread of a pool: .pool, and .cores that `on_one_core` may share its ranges among
_making = threading.Lock()
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def for_each(
    work: Callable[[int, int], None],
    ranges: Iterable[tuple[int, int]],
    device: torch.device,
    *,
    bounded: bool = False,
    num_threads: int | None = None,
) -> None:
    """Call `work(start, stop)` for every range: on a CPU on several threads, with one core each.

    What is computed does not depend on the number of threads, as each call has one. They take ranges in order. The
    caller's grad and inference mode hold in them, its autocast does not. A caller for which torch has one thread, as in
    `work` itself, works too, and does not wait for others that have no time.

    Args:
        work: must not depend on the order of its calls.
        ranges: of rows.
        device: of the work; on a GPU the ranges are enqueued one after the other, by this thread.
        bounded: the memory is enough for one range: this thread works on one after the other.
        num_threads: how many; None: as many as torch has here (`on_one_core`: had). What torch has stays as it is.

    Raises:
        What `work` has raised, for the first of the ranges where it did; no range begins after that.
    """
    own = torch.get_num_threads()
    wanted = num_threads or getattr(_own, "cores", None) or own
    if device.type != "cpu" or own == wanted == 1 or bounded:
        for start, stop in ranges:
            work(start, stop)
        return
    every, works_too = list(ranges), own == 1
    left, taking = iter(every), threading.Lock()
    failed: list[tuple[int, BaseException]] = []
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def run() -> None:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            while True:
                with taking:
                    following = None if failed else next(left, None)
                if following is None:
                    return
                try:
                    work(*following)
                except BaseException as error:
                    failed.append((following[0], error))

    # a caller that wants few threads finds them among those of all
    pool = getattr(_own, "pool", None) or _pool(max(own, wanted))
    running = [pool.submit(run) for _ in range(min(wanted, len(every)) - works_too)]
    try:
        if works_too:
            run()
        for each in running:
            if not (works_too and each.cancel()):
                each.result()
    except BaseException as error:  # of this thread: Ctrl-C
        failed.append((-1, error))
        for each in running:
            each.cancel()
        wait(running)  # what they work on is the caller's again
        raise
    if failed:
        raise min(failed, key=lambda one: one[0])[1]


def results_of(tasks: Sequence[Callable[[], Result]], device: torch.device) -> list[Result]:
    """What each of the tasks returns; they are shared as ranges are, and their order must not matter."""
    results: dict[int, Result] = {}

    def work(start: int, stop: int) -> None:
        for number in range(start, stop):
            results[number] = tasks[number]()

    for_each(work, [(number, number + 1) for number in range(len(tasks))], device)
    return [results[number] for number in range(len(tasks))]


def on_one_core(work: Callable[[], Result], device: torch.device) -> Result:
    """What `work()` returns; of a CPU, called on a thread whose operations have one core each.

    Its `for_each` shares ranges among as many threads as torch has here, so that nothing of it waits for several cores
    within an operation. The caller's grad mode does not hold in it.
    """
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or num_threads == 1 or hasattr(_own, "cores"):
        return work()

    def run() -> Result:
        _own.cores = num_threads
        try:
            return work()
        finally:
            del _own.cores

    running = _pool(num_threads).submit(run)
    try:
        return running.result()
    except BaseException:  # of this thread, too: Ctrl-C
        running.cancel()
        wait([running])
        raise


def _pool(num_threads: int) -> ThreadPoolExecutor:
    """So many threads for which torch's operations have one core each; they wait for work until the process ends."""
    with _making:
        if num_threads not in _pools:
            ready, found = threading.Barrier(num_threads + 1), [1]

            def begin() -> None:
                found.append(torch.get_num_threads())  # the first question of a thread sets it to that of the process
                torch.set_num_threads(1)  # of this thread, and of those that begin later
                _own.pool = pool
                ready.wait()

            pool = ThreadPoolExecutor(num_threads, thread_name_prefix="qinco-chunks", initializer=begin)
            for _ in range(num_threads):
                pool.submit(int)  # each begins a thread, as none is idle before all are ready
            ready.wait()
            # of threads that begin later: as it was. By another thread, as it is also of the one that sets it
            setting = threading.Thread(target=torch.set_num_threads, args=(max(found),))
            setting.start()
            setting.join()
            _pools[num_threads] = pool
        return _pools[num_threads]
