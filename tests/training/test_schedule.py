"""The learning rate against the formula of the paper; the search that gets wider."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import qinco_lit as ql
from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.beam import Search
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


@pytest.mark.parametrize(
    ("share", "narrow", "model"),
    [(0, 0, "qinco2_tiny"), (0.66, 4, "qinco2_tiny"), (1, 6, "qinco2_tiny"), (0.66, 4, "qinco1")],
)
def test_codes_are_searched_narrowly_for_a_share_of_the_steps_and_validated_widely(
    share: float, narrow: int, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[tuple[bool, Search]] = []
    encode = Quantizer.encode

    def spied(self: Quantizer, x: Any, search: Any = None, **options: Any) -> Any:
        searches.append((self.training, search or self.default_search))
        return encode(self, x, search, **options)

    monkeypatch.setattr(Quantizer, "encode", spied)
    x = np.random.default_rng(0).normal(size=(96, 4)).astype(np.float32)
    beam: dict[str, Any] = {} if model == "qinco1" else {"beam_size": 4, "candidate_budget": 8}
    ql.train(
        x, val=x[:32], model=model, num_steps=2, max_epochs=2, progress=False, codebook_size=32, hidden_dim=8,
        num_blocks=1, batch_size=32, narrow_share=share, **beam,
    )  # fmt: skip
    # QINCo1 tries all codewords, and 4 of them meanwhile
    wide = Search(1, 0, None, 32) if model == "qinco1" else Search(4, 4, 8, 32)
    other = replace(wide, num_candidates=4) if model == "qinco1" else replace(wide, beam_size=1, candidate_budget=2)
    assert [search for training, search in searches if training] == [other] * narrow + [wide] * (6 - narrow)
    assert {search for training, search in searches if not training} == {wide}
