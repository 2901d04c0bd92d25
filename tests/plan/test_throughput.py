"""Timing by turns on a clock of our own, and what a training step is made of."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from qinco_lit.planning import throughput
from qinco_lit.planning.throughput import MIN_REPEATS, TrainingSteps, Work, time_by_turns
from qinco_lit.training.recipe import Recipe
from tests.models import random_quantizer
from tests.training.recipes import RECIPE

CPU = torch.device("cpu")


class Clock:
    """Time passes only where work is done; the machine gets slower by `drift` with every call."""

    def __init__(self, drift: float = 1.0) -> None:
        self.now, self.slowness, self.drift = 0.0, 1.0, drift
        self.rows: list[int] = []

    def work(self, row_s: float, fixed_s: float = 0.0, *, first: int = 4, most: int = 4096) -> Work:
        def run(num_rows: int) -> None:
            self.rows.append(num_rows)
            self.now += self.slowness * (fixed_s + num_rows * row_s)
            self.slowness *= self.drift

        return Work(run, first, most)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    def start(drift: float = 1.0) -> Clock:
        made = Clock(drift)
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: made.now)
        return made

    return start


@pytest.mark.parametrize("row_s", [1e-6, 1e-3, 0.2, 100.0])
def test_the_rate_of_any_work_is_found_in_the_time_given_or_the_fewest_calls(clock, row_s):
    made = clock()
    timing = time_by_turns({"": made.work(row_s)}, 2.0, CPU)[""]
    assert timing.vectors_per_s == pytest.approx(1 / row_s)
    assert timing.spread == pytest.approx((1 / row_s, 1 / row_s))
    assert 4 <= timing.rows <= 4096
    assert len(timing.call_s) >= MIN_REPEATS
    shortest = MIN_REPEATS * 4 * row_s
    assert sum(timing.call_s) <= max(shortest, 2.0 + max(timing.call_s)) * (1 + 1e-9)
    assert made.now <= 3 * max(shortest, 2.0)  # warming up and finding the number of rows included


def test_rows_stay_in_their_bounds(clock):
    made = clock()
    time_by_turns({"": made.work(1e-9, most=100)}, 1e-6, CPU)
    assert set(made.rows) <= set(range(1, 101))


def test_ratios_do_not_see_a_machine_that_gets_slower(clock):
    made = clock(drift=1.01)
    timings = time_by_turns({"plain": made.work(1e-3), "twice": made.work(2e-3)}, 3.0, CPU)
    assert timings["twice"].ratio(timings["plain"]) == pytest.approx(2, rel=0.03)


def test_a_small_step_tells_what_a_batch_takes(clock):
    made = clock()
    timing = time_by_turns({"": made.work(0.1, fixed_s=0.5)}, 1.0, CPU)[""]
    assert timing.rows < 512
    assert timing.for_batches(512, fixed_s=0.5).vectors_per_s == pytest.approx(512 / (0.5 + 512 * 0.1))


def test_a_share_of_the_rows_may_cost_something_else(clock):
    made = clock()
    timings = time_by_turns({"wide": made.work(4e-3), "narrow": made.work(1e-3)}, 3.0, CPU)
    mixed = timings["wide"].mixed(timings["narrow"], 0.75)
    assert mixed.vectors_per_s == pytest.approx(1 / (0.25 * 4e-3 + 0.75 * 1e-3), rel=0.03)


@pytest.mark.parametrize("recipe", [RECIPE, {**RECIPE, "optimizer": "adam", "schedule": "plateau", "clip_value": None}])
def test_a_training_step_has_gradients_everywhere_and_moves_nothing(recipe):
    quantizer = random_quantizer(6, num_steps=3, codebook_size=16, hidden_dim=8, num_candidates=4, beam_size=3)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    rows = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    steps = TrainingSteps(quantizer, Recipe(**recipe), rows, CPU)
    wider = replace(quantizer.default_search, beam_size=6)
    work = steps.by(wider)
    work.run(64)
    assert quantizer.default_search == wider
    assert work.most == 64
    assert steps.fixed_s() > 0
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for name, value in quantizer.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-9)
