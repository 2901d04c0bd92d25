"""Chunks on several threads are chunks on one: the same bits, the same errors, and the process as it was."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.quantizers.workers import for_each, on_one_core
from tests.models import random_quantizer

CPU = torch.device("cpu")
RANGES = [(start, start + 10) for start in range(0, 400, 10)]
X = np.random.default_rng(0).standard_normal((700, 24)).astype(np.float32)
FAMILIES: dict[str, dict[str, Any]] = {
    "qinco2": {"num_candidates": 4, "beam_size": 4},
    "qinco1": {"num_candidates": 0, "beam_size": 1, "outer_skip": False, "embed_dim": None},
    "lists": {"num_candidates": 4, "beam_size": 4, "num_lists": 9},
}


@pytest.fixture(params=[1, 2, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads of torch for the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _found(family: str) -> list[np.ndarray]:
    codec = Codec(random_quantizer(24, num_steps=3, codebook_size=16, hidden_dim=32, **FAMILIES[family]))
    encoded = codec.encode(X)
    list_ids, codes = encoded if isinstance(encoded, tuple) else (None, encoded)
    return [codes, codec.decode(codes, list_ids=list_ids)] + ([] if list_ids is None else [list_ids])


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_and_vectors_have_the_same_bits_on_any_number_of_threads(family: str) -> None:
    before, found = torch.get_num_threads(), []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        found.append(_found(family))
    torch.set_num_threads(before)
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_every_range_is_worked_on_once_with_one_thread_each(num_threads: int) -> None:
    done, seen = [], []

    def work(start: int, stop: int) -> None:
        done.append((start, stop))
        seen.append((threading.get_ident(), torch.get_num_threads()))

    for_each(work, iter(RANGES), CPU)
    assert sorted(done) == RANGES
    assert {threads for _, threads in seen} == {1}
    assert len({thread for thread, _ in seen}) <= num_threads


def test_threads_work_at_the_same_time(three_threads: None) -> None:
    meeting = threading.Barrier(3, timeout=60)  # of one thread alone it would break
    for_each(lambda *_: meeting.wait() and None, RANGES[:3], CPU)


def test_the_first_error_in_order_is_raised_and_nothing_begins_after_it(num_threads: int) -> None:
    begun = []

    def work(start: int, stop: int) -> None:
        begun.append(start)
        if start >= 50:
            raise ValueError(f"row {start}")

    with pytest.raises(ValueError, match="^row 50$"):
        for_each(work, RANGES, CPU)
    assert len(begun) <= 5 + num_threads


def test_a_bad_row_is_named_whatever_the_threads(num_threads: int) -> None:
    x = X.copy()
    x[650, 3], x[333, 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="333"):
        Codec(random_quantizer(24, num_steps=3, codebook_size=16, hidden_dim=32, **FAMILIES["qinco2"])).encode(x)


def test_the_settings_of_the_process_stay(num_threads: int) -> None:
    for_each(lambda *_: None, RANGES, CPU)
    assert torch.get_num_threads() == num_threads
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == num_threads


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_modes_of_the_caller_hold(mode: Any, three_threads: None) -> None:
    modes = set()
    with mode():
        out, expected = torch.zeros(400), (torch.is_inference_mode_enabled(), torch.is_grad_enabled())

        def work(start: int, stop: int) -> None:
            modes.add((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
            out[start:stop] = 1  # of inference mode: only possible in it

        for_each(work, RANGES, CPU)
    assert modes == {expected}
    assert int(out.sum()) == 400


def test_work_may_have_chunks_of_its_own_and_many_callers(three_threads: None) -> None:
    counted, lock = [], threading.Lock()

    def inner(start: int, stop: int) -> None:
        with lock:
            counted.append(start)

    with ThreadPoolExecutor(4) as callers:
        for each in [
            callers.submit(for_each, lambda *_: for_each(inner, RANGES[:5], CPU), RANGES[:8], CPU) for _ in range(6)
        ]:
            each.result(timeout=60)
    assert len(counted) == 6 * 8 * 5


def _in_child(codec: Codec, results: Any) -> None:
    results.put(codec.encode(X))
    results.close()
    results.join_thread()
    os._exit(0)


def test_a_forked_child_has_threads_of_its_own(three_threads: None) -> None:
    codec = Codec(random_quantizer(24, num_steps=3, codebook_size=16, hidden_dim=32, **FAMILIES["qinco2"]))
    expected = codec.encode(X)  # the parent's threads exist now
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    child = context.Process(target=_in_child, args=(codec, results))
    child.start()
    np.testing.assert_array_equal(results.get(timeout=60), expected)
    child.join(60)
    assert child.exitcode == 0


def test_a_thread_with_one_core_shares_its_ranges(three_threads: None) -> None:
    meeting = threading.Barrier(3, timeout=60)

    def work() -> tuple[int, int, int]:
        for_each(lambda *_: meeting.wait() and None, RANGES[:3], CPU)
        return torch.get_num_threads(), threading.get_ident(), on_one_core(threading.get_ident, CPU)

    threads, own, within = on_one_core(work, CPU)
    assert threads == 1
    assert own == within != threading.get_ident()


def test_many_threads_with_one_core_do_not_wait_for_each_other(three_threads: None) -> None:
    counted, lock = [], threading.Lock()

    def count(start: int, stop: int) -> None:
        with lock:
            counted.append(start)

    with ThreadPoolExecutor(8) as callers:
        for each in [callers.submit(on_one_core, lambda: for_each(count, RANGES, CPU), CPU) for _ in range(30)]:
            each.result(timeout=60)
    assert len(counted) == 30 * len(RANGES)


def test_an_interruption_waits_for_what_still_works(three_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        assert go_on.wait(60)
        ended.append(torch.get_num_threads())

    def interrupted(self: Any, timeout: float | None = None) -> None:
        assert begun.wait(60)
        threading.Timer(0.1, go_on.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        on_one_core(work, CPU)
    assert ended == [1]
    begun.clear(), go_on.clear()
    with pytest.raises(KeyboardInterrupt):
        for_each(lambda *_: work(), RANGES[:1], CPU)
    assert ended == [1, 1]


def test_what_fails_on_one_core_fails_here(num_threads: int) -> None:
    def fail() -> None:
        raise ValueError("of work")

    with pytest.raises(ValueError, match="^of work$"):
        on_one_core(fail, CPU)
    with pytest.raises(ValueError, match="^of work$"):
        on_one_core(lambda: for_each(lambda *_: fail(), RANGES, CPU), CPU)
    assert on_one_core(torch.get_num_threads, CPU) == 1
    assert torch.get_num_threads() == num_threads


@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_a_number_of_threads_that_is_asked_for_is_used_and_leaves_that_of_torch(wanted: int, num_threads: int) -> None:
    seen: set[int] = set()

    def work(start: int, stop: int) -> None:
        assert torch.get_num_threads() == 1
        seen.add(threading.get_ident())

    for_each(work, RANGES, CPU, num_threads=wanted)
    assert 1 <= len(seen) <= wanted
    assert torch.get_num_threads() == num_threads
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == num_threads


def test_work_that_asks_for_threads_does_not_wait_for_those_that_have_no_time(three_threads: None) -> None:
    counted, lock = [], threading.Lock()

    def inner(start: int, stop: int) -> None:
        with lock:
            counted.append(start)

    def outer(start: int, stop: int) -> None:
        for_each(inner, RANGES[:5], CPU, num_threads=3)

    with ThreadPoolExecutor(6) as callers:
        for each in [callers.submit(for_each, outer, RANGES[:8], CPU) for _ in range(6)]:
            each.result(timeout=60)
    assert len(counted) == 6 * 8 * 5
