"""Compared and planned: every member has its row, and costs what its files are."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.family.members import MEMBERS, ROWS, Walk, qinco


def test_compare_shows_every_member_with_what_was_measured(walk_of: Callable[[str], Walk], folder: Path) -> None:
    walks = {name: walk_of(name) for name in MEMBERS}
    assert qinco(folder, "compare", *walks, "--output", "compared") == ""
    with (folder / "compared" / "compare.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file) if row["kind"] == "codec"}
    assert set(rows) == set(walks)
    for name, walk in walks.items():
        row, figures = rows[name], walk.metrics["methods"]["codec"]
        assert row["method"] == walk.member.label
        for metric in ("mse", "recall_at_1", "recall_at_10", "bytes_per_vector"):
            assert float(row[metric]) == pytest.approx(figures[metric], rel=1e-6)
        assert int(float(row["parameters"])) == walk.read("summary.json")["parameters"]
        assert int(row["model.codebook_size"]) == walk.member.codebook_size
        parts = len(walk.member.part_dims)
        assert row["model.num_parts"] == ("" if parts == 1 else str(parts))
        assert row["model.part_steps"] == {"pq_qinco2": "[3, 1]"}.get(name, "" if parts == 1 else "null")


def test_a_plan_counts_the_bytes_of_the_store(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("planning.plan", "planning.measurements"):
        monkeypatch.setattr(f"qinco_lit.{place}.BLOCK_ROWS", 32)
    options = ("codec=@/codec", "input=base.npy", "device=cpu", "seconds=0.01", "recipe.batch_size=16")
    assert walk.qinco("plan", *options, "hydra.run.dir=@/planned") == ""
    plan = walk.read("planned/plan.json")
    assert plan["data"]["num_rows"] == ROWS
    assert plan["disk"]["packed_codes_bytes"] == ROWS * -(-walk.member.bits // 8)
    assert plan["disk"]["list_ids_bytes"] == (4 * ROWS if walk.member.has_lists else 0)
    assert plan["model"]["config"] == walk.codec.quantizer.config
    assert plan["model"]["num_parameters"] == sum(each.numel() for each in walk.codec.quantizer.parameters())
