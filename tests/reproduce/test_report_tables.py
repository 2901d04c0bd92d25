"""Published, ours and the difference: exact cells, missing ones, several seeds."""

import math
from typing import Any

import pytest

from qinco_lit.reports.iclr.numbers import Measurements
from qinco_lit.reports.iclr.studies import front_of, rate_table, study_points, study_table
from qinco_lit.reports.iclr.tables import (
    comparison_table,
    main_places,
    other_numbers_table,
    papers_against_reference,
    relative_table,
    settings_text,
)
from qinco_lit.reports.iclr.tasks import read_tasks, why_empty
from qinco_lit.reports.kit.page import Link, TableBlock
from tests.reproduce.report_results import column, links, record, task, text

MSE = ("MSE ×10⁴ published", "MSE ×10⁴ ours", "MSE difference")
RECALL = ("R@1 % published", "R@1 % ours", "R@1 difference, points")


def _comparison(
    records: list[dict[str, Any]], tasks: list[dict[str, Any]] | None = None, num_bytes: int = 8
) -> TableBlock:
    return comparison_table(Measurements(records), read_tasks(tasks or []), "bigann1m", num_bytes)


def _row(table: TableBlock, method: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(column(table, name)[method] for name in names)


def test_published_ours_and_the_difference_side_by_side() -> None:
    table = _comparison([record("QINCo1", 11_340.0), record("QINCo1", 0.4475, metric="recall_at_1")])
    # 1.134 - 1.12 = 0.014, 1.25 % of 1.12; 44.75 - 45.2 = -0.45 points
    assert _row(table, "QINCo1", MSE) == ("1.12", "1.134", "+0.014 (+1.2 %)")
    assert _row(table, "QINCo1", RECALL) == ("45.2", "44.8", "\N{MINUS SIGN}0.5")
    assert list(column(table, MSE[0])) == ["OPQ", "RQ", "LSQ", "UNQ", "QINCo1"]
    assert links(table) == {"1.134": "bigann1m/QINCo1-8B-s0/evaluate", "44.8": "bigann1m/QINCo1-8B-s0/evaluate"}


def test_published_numbers_do_not_depend_on_ours() -> None:
    ours = [record(method, 1.0, metric=metric) for method in ("RQ", "QINCo1") for metric in ("mse", "recall_at_10")]
    published = [name for name in _comparison([]).header if name.endswith("published")]
    assert len(published) == 4
    for name in published:
        assert column(_comparison(ours), name) == column(_comparison([]), name)
        assert all(column(_comparison([]), name).values())


def test_a_number_without_a_published_one_has_no_difference() -> None:
    table = _comparison([record("QINCo2-S", 8_000.0)])
    assert _row(table, "QINCo2-S", MSE) == ("", "0.8000", "")


def test_an_equal_number_differs_by_nothing() -> None:
    table = _comparison([record("RQ", 24_900.0), record("RQ", 0.279, metric="recall_at_1")])
    assert _row(table, "RQ", MSE) == ("2.49", "2.490", "0.000 (0.0 %)")
    assert _row(table, "RQ", RECALL) == ("27.9", "27.9", "0.0")


def test_seeds_are_averaged_and_each_run_is_linked() -> None:
    records = [record("QINCo1", value, seed=seed) for seed, value in ((2, 11_500.0), (0, 11_300.0), (1, 11_400.0))]
    table = _comparison([*records, record("RQ", 24_900.0)])
    # standard deviation with ddof 1: 100
    assert _row(table, "QINCo1", MSE) == ("1.12", "1.140 ± 0.010 (n=3)", "+0.020 (+1.8 %)")
    row = next(row for row in table.rows if row[0] == "QINCo1")
    runs = [cell.href for cell in row[-3:] if isinstance(cell, Link)]
    assert runs == [f"bigann1m/QINCo1-8B-s{seed}/evaluate" for seed in (0, 1, 2)]
    assert table.header[-3:] == ["run of seed 0", "run of seed 1", "run of seed 2"]
    of_rq = next(row for row in table.rows if row[0] == "RQ")
    assert [text(cell) for cell in of_rq[-3:]] == ["run", "", ""]


def test_the_order_of_records_changes_nothing() -> None:
    records = [record(method, 1e4 + seed, seed=seed) for method in ("QINCo1", "QINCo2-S", "RQ") for seed in (0, 1)]
    assert _comparison(records) == _comparison(records[::-1])


def test_the_later_record_of_a_seed_counts() -> None:
    table = _comparison([record("QINCo1", 99_000.0), record("QINCo1", 11_200.0)])
    assert _row(table, "QINCo1", MSE)[1] == "1.120"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_said_to_be_none(value: float) -> None:
    table = _comparison([record("QINCo1", value)])
    assert _row(table, "QINCo1", MSE) == ("1.12", "not finite", "")
    several = _comparison(
        [record("QINCo1", value), record("QINCo1", 11_200.0, seed=1), record("QINCo1", 11_400.0, seed=2)]
    )
    assert _row(several, "QINCo1", MSE)[1:] == ("1.130 ± 0.014 (n=2), 1 of 3 not finite", "+0.010 (+0.9 %)")


def test_none_is_no_value() -> None:
    assert _comparison([record("QINCo1", None)]) == _comparison([])


def test_settings_tell_rows_of_one_method_apart() -> None:
    table = _comparison(
        [
            record("QINCo2-L", 7_000.0, settings={"beam_size": 32, "num_candidates": 16}),
            record("QINCo2-L", 6_900.0, settings={"beam_size": 64, "num_candidates": 32}),
        ]
    )
    assert column(table, MSE[1])["QINCo2-L (A=16, B=32)"] == "0.7000"
    assert column(table, MSE[1])["QINCo2-L (A=32, B=64)"] == "0.6900"


def test_no_preselection_is_all_codewords() -> None:
    assert settings_text((("beam_size", 1), ("num_candidates", 0))) == "A=all, B=1"


def test_empty_cells_say_why() -> None:
    tasks = [
        task("bigann1m/QINCo2-S-8B-s0/train", "done"),
        task("bigann1m/QINCo2-S-8B-s0/evaluate", "failed", reason="out of memory"),
        task("bigann1m/QINCo1-8B-s0/train", "missing_data"),
        task("bigann1m/QINCo1-16B-s0/train", "not_run"),
    ]
    table = _comparison([record("RQ", 24_900.0)], tasks)
    assert column(table, MSE[1]) == {
        "OPQ": "failed", "RQ": "2.490", "LSQ": "failed", "UNQ": "", "QINCo1": "missing data", "QINCo2-S": "failed",
    }  # fmt: skip
    assert links(table)["failed"] == "bigann1m/QINCo2-S-8B-s0/evaluate"
    assert not any(column(table, MSE[2])[method] for method in ("OPQ", "QINCo1", "QINCo2-S"))
    assert column(_comparison([], tasks, num_bytes=16), MSE[1])["QINCo1"] == "not run"


def test_why_a_cell_is_empty_follows_the_folder_of_the_method() -> None:
    tasks = read_tasks(
        [task("photo_sift/QINCo1-L2-8B-s0/train", "not_run"), task("photo_sift/ablation-beam-8B-s0/train", "failed")]
    )
    found = why_empty(tasks, "main", "photo_sift", "QINCo1 (L=2)", 8)
    assert found is not None
    assert found.state == "not_run"
    assert why_empty(tasks, "main", "photo_sift", "QINCo1", 8) is None
    assert why_empty(tasks, "main", "photo_sift", "QINCo1 (L=2)", 16) is None


def test_only_the_paper_scale_lists_data_that_was_not_measured() -> None:
    measurements = Measurements([record("RQ", 2e4, dataset="photo_sift")])
    assert main_places(measurements, (), published=False) == [("photo_sift", 8)]
    papers = ("bigann1m", "deep1m", "contriever1m", "fb_ssnpp1m")
    places = [(dataset, num_bytes) for dataset in papers for num_bytes in (8, 16)]
    assert main_places(measurements, (), published=True) == [*places, ("photo_sift", 8)]


def test_other_data_is_held_against_rq() -> None:
    at = {"dataset": "photo_sift"}
    records = [record("RQ", 20_000.0, **at), record("QINCo2-S", 15_000.0, **at), record("QINCo1 (L=2)", 17_000.0, **at)]
    records += [record("RQ", 0.6, metric="recall_at_1", **at), record("QINCo2-S", 0.7, metric="recall_at_1", **at)]
    table = relative_table(Measurements(records), (), "photo_sift", 8)
    assert list(column(table, "MSE").items()) == [("RQ", "20,000"), ("QINCo1 (L=2)", "17,000"), ("QINCo2-S", "15,000")]
    assert column(table, "MSE against RQ") == {"RQ": "", "QINCo1 (L=2)": "−15.0 %", "QINCo2-S": "−25.0 %"}
    assert column(table, "R@1 against RQ, points") == {"RQ": "", "QINCo1 (L=2)": "", "QINCo2-S": "+10.0"}
    # 1.12 / 2.49 on BigANN, 8.67 / 9.18 on FB-ssnpp; of QINCo2 nothing is known
    assert column(table, "papers: MSE against RQ") == {"RQ": "", "QINCo1 (L=2)": "−55.0 … −5.6 %", "QINCo2-S": ""}


def test_the_papers_distances_from_rq() -> None:
    assert papers_against_reference("OPQ", 8) == "+2.7 … +30.0 %"
    assert papers_against_reference("RQ", 8) is None
    assert papers_against_reference("QINCo2-L", 8) is None
    assert papers_against_reference("QINCo1", 4) is None


def test_numbers_outside_the_main_tables_meet_ours() -> None:
    low_rank = {"dataset": "contriever1m", "section": "low_rank"}
    ours = [record("QINCo-LR (L=4)", 1.5, **low_rank), record("QINCo2-S", 1.64e6, metric="parameters", section="speed")]
    table = other_numbers_table(Measurements(ours))
    assert len(table.rows) == 8 + 4 + 4
    rows = {(row[0], row[3]): [text(cell) for cell in row[4:7]] for row in table.rows}
    assert rows["QINCo-LR (L=4)", "MSE"] == ["1.46", "1.500", "+0.040 (+2.7 %)"]
    assert rows["QINCo2-S", "parameters, million"] == ["1.64", "1.640", "0.000 (0.0 %)"]
    assert rows["PQ-QINCo 16x2x8", "MSE"] == ["41409", "", ""]


def test_published_sizes_meet_models_of_their_dimension_only() -> None:
    def cells(*datasets: str) -> list[str]:
        at = {"metric": "parameters", "section": "speed"}
        ours = [record("QINCo2-S", 1.6e6 if each != "contriever1m" else 9.9e6, dataset=each, **at) for each in datasets]
        [row] = [row for row in other_numbers_table(Measurements(ours)).rows if row[0] == "QINCo2-S"]
        return [text(cell) for cell in row[4:7]]

    assert cells("contriever1m") == ["1.64", "", ""]  # 768 dimensions
    for dataset in ("bigann1m", "bigann1b", "photo_sift"):
        assert cells("contriever1m", dataset) == ["1.64", "1.600", "−0.040 (−2.4 %)"]


def _point(time: float | None, mse: float | None, beam: int, method: str = "QINCo2-S") -> list[dict[str, Any]]:
    at = {"section": "run_time", "settings": {"beam_size": beam, "num_database": 5000}}
    return [record(method, mse, **at), record(method, time, metric="encode_us_per_vector", **at)]


def test_points_on_the_front_are_marked() -> None:
    records = [
        *_point(100, 9.0, 1),
        *_point(200, 9.5, 2),
        *_point(300, 8.0, 4),
        *_point(300, 8.5, 8),
        *_point(None, 1.0, 16),
    ]
    points = study_points(Measurements(records), "run_time", "bigann1m")
    front = front_of(points, "encode_us_per_vector", "mse")
    assert [dict(point.settings)["beam_size"] for point in front] == [1, 4]
    table = study_table(points, "run_time", "bigann1m")
    assert table.header[:3] == ["method", "bytes", "B"]
    assert [(row[2], row[-1]) for row in table.rows] == [(1, "yes"), (2, ""), (4, "yes"), (8, ""), (16, "")]
    assert table.caption == "BigANN1M: num_database=5000."


def test_recall_and_speed_are_the_better_the_larger() -> None:
    records = []
    for nprobe, recall, speed in ((1, 0.4, 900.0), (2, 0.5, 500.0), (4, 0.5, 400.0), (8, math.nan, 100.0)):
        at = {"section": "search", "settings": {"engine": "qinco", "nprobe": nprobe}}
        records += [
            record("QINCo2-S", recall, metric="recall_at_1", **at),
            record("QINCo2-S", speed, metric="queries_per_s", **at),
        ]
    front = front_of(study_points(Measurements(records), "search", "bigann1m"), "queries_per_s", "recall_at_1")
    assert [dict(point.settings)["nprobe"] for point in front] == [1, 2]


def test_an_ablation_is_compared_with_all_ingredients() -> None:
    def both(method: str, mse: float) -> list[dict[str, Any]]:
        at = {"section": "ablation", "dataset": "photo_sift"}
        validation = record(method, mse - 10, metric="validation_mse", **at)
        return [validation, record(method, mse, settings={"beam_size": 8}, **at)]

    records = [*both("all ingredients", 16_000.0), *both("no beam", 16_800.0)]
    points = study_points(Measurements(records), "ablation", "photo_sift")
    table = study_table(points, "ablation", "photo_sift", "all ingredients")
    # training and evaluation make one row
    assert table.header == ["method", "bytes", "MSE", "validation MSE", "MSE against all ingredients"]
    assert [[text(cell) for cell in row] for row in table.rows] == [
        ["all ingredients", "8", "16,000", "15,990", ""],
        ["no beam", "8", "16,800", "16,790", "+5.0 %"],
    ]


def test_what_seeds_alone_may_bring_is_no_ingredient() -> None:
    def of(method: str, *values: float) -> list[dict[str, Any]]:
        at = {"section": "ablation", "dataset": "photo_sift"}
        return [record(method, value, seed=seed, **at) for seed, value in enumerate(values)]

    records = [*of("base", 1_000.0, 1_010.0, 1_020.0), *of("little", 1_010.0, 1_020.0, 1_030.0), *of("much", 1_100.0)]
    points = study_points(Measurements(records), "ablation", "photo_sift")
    rows = study_table(points, "ablation", "photo_sift", "base").rows
    assert [text(row[-1]) for row in rows] == ["", "+1.0 %, within noise", "+8.9 %"]


def test_an_ablation_tells_with_which_search_its_rows_were_evaluated() -> None:
    def caption(**searches: dict[str, Any]) -> str:
        at = {"section": "ablation", "dataset": "photo_sift"}
        records = [record(name, 1.0, settings=search | {"num_database": 9}, **at) for name, search in searches.items()]
        records += [record("base", 1.0, metric="validation_mse", **at)]
        points = study_points(Measurements(records), "ablation", "photo_sift")
        return study_table(points, "ablation", "photo_sift").caption

    wide, narrow = {"num_candidates": 16, "beam_size": 32}, {"num_candidates": 16, "beam_size": 1}
    assert caption(base=wide, no_beam=wide).endswith(
        "The rows differ in training; all were evaluated with the same search (A=16, B=32), whatever search they were "
        "trained with. Validation MSE is of the search of the training."
    )
    assert "evaluated with different searches (A=16, B=32; A=16, B=1)," in caption(base=wide, no_beam=narrow)
    assert "same search (B=8, T=16)," in caption(base={"beam_size": 8, "candidate_budget": 16})
    assert caption().endswith("validation MSE is of the search that each was trained with.")


def test_epochs_do_not_tell_seeds_apart() -> None:
    at = {"metric": "train_s", "section": "speed"}
    records = [record("QINCo2-S", 100.0 + seed, seed=seed, settings={"epochs": 5 + seed}, **at) for seed in (0, 1)]
    [point] = study_points(Measurements(records), "speed", "bigann1m")
    assert point.value("train_s") == 100.5


def test_a_rate_a_row_and_an_encoding_a_column() -> None:
    records = []
    for full in (1, 2):
        at = {"section": "dynamic_rate", "dataset": "photo_sift", "settings": {"encoded_bytes": full}}
        records += [record("QINCo2-S", 100.0 / step, num_bytes=step, **at) for step in range(1, full + 1)]
    table = rate_table(study_points(Measurements(records), "dynamic_rate", "photo_sift"), "photo_sift")
    assert table.header == ["bytes decoded", "QINCo2-S, 1 byte", "QINCo2-S, 2 bytes"]
    assert [[text(cell) for cell in row] for row in table.rows] == [["1", "100.0", "100.0"], ["2", "", "50.00"]]


def test_a_record_that_lacks_a_field_is_named() -> None:
    broken = record("RQ", 1.0)
    del broken["metric"]
    with pytest.raises(ValueError, match=r'^record 1 of results.json has no "metric": \{') as error:
        Measurements([record("RQ", 1.0), broken])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r'^task 0 of results.json has no "state": \{'):
        read_tasks([{"name": "a"}])
