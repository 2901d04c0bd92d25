"""What `qinco search` says while it measures, and of an index that it cannot measure."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.commands.search import search
from tests.search.index_jobs import ROWS, data_of
from tests.search.test_search_command import QUICK, Data, positions

OPTIONS: dict[str, Any] = {**QUICK, "latency_queries": 0}


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qinco_lit.commands.search.figure_bytes", lambda *_: b"")


def test_a_line_for_every_point_where_there_is_no_bar(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = positions()
    given.bundle.save(tmp_path / "index")  # type: ignore[attr-defined]
    caplog.set_level(logging.INFO)
    run = {
        "index_dir": tmp_path / "index", "data": Data(given), "output_dir": tmp_path / "out",
        "cache_dir": tmp_path / "cache", "baselines": ["ivf_pq"],
    }  # fmt: skip
    record = search(**{**run, **OPTIONS})
    assert "ivf_pq: building, or reading what an earlier search has built" in caplog.messages
    for name, engine in record["engines"].items():
        lines = [line for line in caplog.messages if line.startswith(f"{name}: point ")]
        assert len(lines) == len(engine["points"])
        assert all(f" of {engine['num_candidates']}: " in line for line in lines)
        numbers = [int(line.removeprefix(f"{name}: point ").split(" ")[0]) for line in lines]
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 1
        assert numbers[-1] <= engine["num_candidates"]
        point = engine["points"][0]
        recall = ", ".join(f"R@{k} {100 * point[f'recall_at_{k}']:.1f} %" for k in (1, 10, 100))
        words = " ".join(f"{key}={value}" for key, value in point["parameters"].items())
        assert [
            line for line in lines if line.endswith(f": {words}: {recall}, {point['queries_per_s']:,.0f} queries/s")
        ]
    caplog.clear()
    search(**{**run, **OPTIONS})
    assert not [line for line in caplog.messages if re.search("point [0-9]+ of", line)]


def test_an_index_with_ids_of_its_own_is_refused(build: Any, inputs: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).permutation(ROWS))  # all of them look like positions
    build("own", ids=str(tmp_path / "ids.npy"), pairwise=False)
    data = data_of(inputs, queries=str(inputs / "base.npy"), cache_dir=str(tmp_path / "cache"))
    message = (
        f"^{tmp_path}/own was built with ids=FILE: recall needs positions in the database, which the true neighbours "
        "are; measure an index of the same codes without ids=$"
    )
    with pytest.raises(ValueError, match=message):
        search(index_dir=tmp_path / "own", data=data, output_dir=tmp_path / "out", num_queries=5, **QUICK)
    assert not (tmp_path / "out").exists()
    build("plain", pairwise=False)
    options = {**OPTIONS, "num_pairwise": None, "num_queries": 5}
    record = search(index_dir=tmp_path / "plain", data=data, output_dir=tmp_path / "out", **options)
    assert record["data"]["num_queries"] == 5
