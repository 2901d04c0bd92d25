"""The learning rate against the formula of the paper."""

import math

import pytest

from qinco_lit.training.recipe import cosine_factor

PAPER = {"warmup_epochs": 3.0, "max_epochs": 60, "reach": None, "floor": 1e-3}


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0.0, 1e-3),
        (1.5, 0.5),
        (3.0, 1.0),
        (33.0, math.cos(30 / 60 * math.pi / 2)),
        (60.0, math.cos(57 / 60 * math.pi / 2)),
    ],
)
def test_paper_schedule(epoch: float, expected: float) -> None:
    assert cosine_factor(epoch, **PAPER) == pytest.approx(expected)  # type: ignore[arg-type]


def test_full_reach_ends_at_the_floor_whatever_the_length() -> None:
    for epochs in (1, 7, 60):
        end = cosine_factor(epochs, warmup_epochs=0.3, max_epochs=epochs, reach=1.0, floor=1e-3)
        assert end == pytest.approx(1e-3)


def test_no_reach_stays_at_the_peak() -> None:
    factors = [cosine_factor(e / 10, warmup_epochs=0.3, max_epochs=5, reach=0.0, floor=1e-3) for e in range(80)]
    assert factors[1] == pytest.approx(1 / 3)  # the ramp, if any
    assert set(factors[3:]) == {1.0}


def test_never_below_the_floor_nor_above_the_peak() -> None:
    factors = [cosine_factor(e / 10, warmup_epochs=0.3, max_epochs=5, reach=1.0, floor=1e-3) for e in range(80)]
    assert min(factors) == 1e-3
    assert max(factors) <= 1.0
    assert factors[3:] == sorted(factors[3:], reverse=True)
