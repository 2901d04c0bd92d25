"""Claims hold, do not hold, or cannot be said; never more than the records say."""

import math
from typing import Any

import pytest

from qinco_lit.reports.iclr.claims import FAILS, HOLDS, NOISE, OPEN, Verdict, claims_table, verdicts
from qinco_lit.reports.iclr.numbers import Measurements
from tests.reproduce.report_results import links, record, text

MINUS = "\N{MINUS SIGN}"


def _verdicts(records: list[dict[str, Any]]) -> dict[str, Verdict]:
    return {each.claim: each for each in verdicts(Measurements(records))}


BIGANN_34 = "BigANN1M, 16 bytes: MSE of QINCo2 34 % below the best before"
BIGANN_44 = "BigANN1M, 16 bytes: MSE of QINCo2 44 % below the best before"
DEEP_24 = "Deep1M, 8 bytes: R@1 of QINCo2 24 % above the best before"


def test_nothing_can_be_said_without_records() -> None:
    found = _verdicts([])
    assert list(found)[:3] == [BIGANN_34, BIGANN_44, DEEP_24]
    assert {each.verdict for each in found.values()} == {OPEN}
    assert len(found) == 5
    assert found[DEEP_24].found == "not measured on Deep1M at 8 bytes: QINCo2-L, QINCo1"


@pytest.mark.parametrize(
    ("mse", "of_34", "of_44"), [(2_150.0, HOLDS, FAILS), (1_700.0, HOLDS, HOLDS), (2_200.0, FAILS, FAILS)]
)
def test_a_gain_in_mse_is_held_against_the_best_of_our_other_methods(mse: float, of_34: str, of_44: str) -> None:
    at = {"num_bytes": 16}
    records = [record("QINCo2-S", 9_000.0, **at), record("QINCo2-L", mse, **at)]
    records += [record("LSQ", 9_900.0, **at), record("QINCo1", 3_250.0, **at)]
    found = _verdicts(records)
    assert (found[BIGANN_34].verdict, found[BIGANN_44].verdict) == (of_34, of_44)
    better, worse = found[BIGANN_34].better, found[BIGANN_34].worse
    assert better is not None
    assert worse is not None
    assert (better.first.method, worse.first.method) == ("QINCo2-L", "QINCo1")


def test_a_gain_tells_both_numbers_and_the_published_best() -> None:
    records = [record("QINCo2-L", 0.4501, metric="recall_at_1", dataset="deep1m")]
    records += [record("QINCo1", 0.36, metric="recall_at_1", dataset="deep1m")]
    found = _verdicts(records)[DEEP_24]
    assert found.verdict == HOLDS
    # 45.01 / 36 = 1.250; 45.01 / 36.3 = 1.240
    assert (
        found.found == "QINCo2-L 45.0, QINCo1 36.0: +9.0 points (+25.0 % better); +24.0 % against the published QINCo1"
    )


def test_half_of_the_comparison_is_not_enough() -> None:
    found = _verdicts([record("QINCo2-L", 100.0, num_bytes=16)])
    assert found[BIGANN_34].verdict == OPEN
    assert found[BIGANN_34].found == "not measured on BigANN1M at 16 bytes: QINCo1"


def test_a_gain_needs_the_best_method_before_and_is_not_disproved_by_a_smaller_model() -> None:
    at = {"num_bytes": 16}
    easy = _verdicts([record("QINCo2-L", 2_000.0, **at), record("RQ", 13_000.0, **at)])
    assert (easy[BIGANN_34].verdict, easy[BIGANN_34].found) == (OPEN, "not measured on BigANN1M at 16 bytes: QINCo1")
    small = _verdicts([record("QINCo2-S", 2_900.0, **at), record("QINCo1", 3_250.0, **at)])
    assert small[BIGANN_34].verdict == OPEN
    assert small[BIGANN_34].found.endswith("; not measured: QINCo2-L")
    assert _verdicts([record("QINCo2-S", 2_000.0, **at), record("QINCo1", 3_250.0, **at)])[BIGANN_34].verdict == HOLDS


def test_a_run_that_failed_to_converge_proves_nothing() -> None:
    records = [record("QINCo2-L", float("nan"), num_bytes=16), record("QINCo1", 3_000.0, num_bytes=16)]
    assert _verdicts(records)[BIGANN_34].verdict == OPEN


def test_orders_of_methods_are_claimed_where_the_papers_show_them() -> None:
    at = {"num_bytes": 16, "dataset": "fb_ssnpp1m"}
    records = [record("QINCo1", 65_000.0, **at), record("LSQ", 66_000.0, **at), record("RQ", 64_000.0, **at)]
    found = _verdicts(records)
    # there LSQ's 6.55 is below QINCo1's 6.58: the papers do not claim this order
    assert "FB-ssnpp1M, 16 bytes: MSE of QINCo1 below LSQ" not in found
    assert found["FB-ssnpp1M, 16 bytes: MSE of QINCo1 below RQ"].verdict == FAILS
    assert found["FB-ssnpp1M, 16 bytes: MSE of LSQ below RQ"].verdict == FAILS


def test_on_other_data_an_order_is_claimed_that_all_data_of_the_papers_show() -> None:
    records = []
    for num_bytes in (8, 16):
        at = {"num_bytes": num_bytes, "dataset": "photo_sift"}
        records += [record("QINCo1 (L=2)", 10.0, **at), record("LSQ", 11.0, **at), record("QINCo2-S", 9.0, **at)]
    found = _verdicts(records)
    order = found["photo_sift, 8 bytes: MSE of QINCo1 below LSQ"]
    assert (order.verdict, order.found) == (HOLDS, f"QINCo1 (L=2) 10.00, LSQ 11.00: {MINUS}9.1 %")
    assert order.source == "QINCo1 paper, Tables 1 and S2, on all 4 data sets there"
    assert "photo_sift, 16 bytes: MSE of QINCo1 below LSQ" not in found
    newer = found["photo_sift, 16 bytes: MSE of QINCo2 below QINCo1"]
    assert (newer.verdict, newer.source) == (HOLDS, "QINCo2 paper, abstract, of BigANN1M and Deep1M")


def test_equal_is_not_better() -> None:
    found = _verdicts([record("LSQ", 5.0, dataset="photo_sift"), record("RQ", 5.0, dataset="photo_sift")])
    assert found["photo_sift, 8 bytes: MSE of LSQ below RQ"].verdict == FAILS


@pytest.mark.parametrize(("mse", "verdict"), [(1.46, HOLDS), (1.47, HOLDS), (1.48, FAILS)])
def test_the_low_rank_model_comes_near_within_the_printed_digits(mse: float, verdict: str) -> None:
    at = {"dataset": "contriever1m", "section": "low_rank"}
    # (1.46 + 0.005) / (1.45 - 0.005) = 1.0138
    found = _verdicts([record("QINCo-LR (L=4)", mse, **at), record("QINCo1 (L=4)", 1.45, **at)])
    assert found["Contriever1M, 8 bytes, L=4: QINCo-LR comes near QINCo1 in MSE (1.46 and 1.45)"].verdict == verdict


def test_the_rotation_must_help_in_all_splits() -> None:
    splits = ("16x2x8", "8x4x8", "4x8x8", "2x16x8")

    def found(gains: tuple[float, ...]) -> Verdict:
        at = {"dataset": "fb_ssnpp1m", "num_bytes": 32, "section": "product"}
        pairs = list(zip(splits, gains, strict=False))
        records = [record(f"PQ-QINCo {split}", 40_000.0, **at) for split, _ in pairs]
        records += [record(f"OPQ-QINCo {split}", 40_000.0 - gain, **at) for split, gain in pairs]
        return _verdicts(records)["FB-ssnpp1M, 32 bytes: OPQ's rotation lowers the MSE of PQ-QINCo in all four splits"]

    assert found((1, 2, 3, 4)).verdict == HOLDS
    assert found((1, 2, 3)).verdict == OPEN
    assert found((1, 2, -3)).verdict == FAILS
    assert found((1, 2, -3)).found == "lower in 2 of 3 splits measured"


def test_the_table_leads_to_the_runs_compared() -> None:
    records = [record("QINCo2-L", 1_700.0, num_bytes=16, seed=seed) for seed in (0, 1)] + [
        record("QINCo1", 3_250.0, num_bytes=16)
    ]
    table = claims_table(Measurements(records))
    first = [text(cell) for cell in table.rows[0]]
    assert first[:2] == [BIGANN_34, HOLDS]
    assert first[2].startswith(
        f"QINCo2-L 0.1700 ± 0.0000 (n=2), QINCo1 0.3250: {MINUS}47.7 %, noise 0.0 % (+47.7 % better)"
    )
    assert links(table) == {
        "QINCo2-L": "bigann1m/QINCo2-L-16B-s0/evaluate",
        "QINCo1": "bigann1m/QINCo1-16B-s0/evaluate",
    }


def _of_seeds(method: str, *values: float) -> list[dict[str, Any]]:
    return [record(method, value, dataset="photo_sift", seed=seed) for seed, value in enumerate(values)]


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ((90.0, 91.0, 92.0), (93.0, 94.0, 95.0), HOLDS),  # 3 apart; 2.776 x 1 x sqrt(2 / 3) = 2.27
        ((90.0, 91.0, 92.0), (92.0, 93.0, 94.0), NOISE),
        ((92.0, 93.0, 94.0), (90.0, 91.0, 92.0), NOISE),
        ((93.0, 94.0, 95.0), (90.0, 91.0, 92.0), FAILS),
        ((90.0, 91.0, 92.0), (95.9,), NOISE),  # of one seed more is chance: 4.303 x sqrt(4 / 3) = 4.97
        ((90.0, 91.0, 92.0), (96.1,), HOLDS),
        ((90.0,), (90.1,), HOLDS),  # no second seed tells how much
        ((90.0, 90.0), (90.1,), HOLDS),  # seeds that agree leave no doubt
        ((90.0, math.nan), (90.1, math.nan), HOLDS),  # one number each is left
    ],
)
def test_an_order_that_seeds_alone_may_bring_is_within_noise(
    one: tuple[float, ...], other: tuple[float, ...], verdict: str
) -> None:
    found = _verdicts([*_of_seeds("LSQ", *one), *_of_seeds("RQ", *other)])
    assert found["photo_sift, 8 bytes: MSE of LSQ below RQ"].verdict == verdict


def test_a_claim_tells_its_noise() -> None:
    found = _verdicts([*_of_seeds("LSQ", 90.0, 91.0, 92.0), *_of_seeds("RQ", 100.0)])
    order = found["photo_sift, 8 bytes: MSE of LSQ below RQ"]
    assert order.found == f"LSQ 91.00 ± 1.00 (n=3), RQ 100.0: {MINUS}9.0 %, noise 5.0 %"


@pytest.mark.parametrize(("spread", "of_34"), [(1.0, HOLDS), (300.0, NOISE)])
def test_a_gain_as_claimed_may_be_within_noise(spread: float, of_34: str) -> None:
    at = {"num_bytes": 16}
    records = [record("QINCo2-L", 2_100.0 + spread * seed, seed=seed, **at) for seed in (-1, 0, 1)]
    assert _verdicts([*records, record("QINCo1", 3_250.0, **at)])[BIGANN_34].verdict == of_34
