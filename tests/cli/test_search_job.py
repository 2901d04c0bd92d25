"""`qinco search` from the command line: with files of vectors, twice in the same folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.search.test_search_command import positions

ARGUMENTS = [
    "nprobe=[2,8]",
    "ef_search=[12]",
    "num_additive=[16]",
    "num_pairwise=[4,0]",
    "repeats=1",
    "latency_queries=2",
    "num_threads=1",
    "baselines=[ivf_pq]",
    "data=files",
    "data.name=mine",
    "data.train=train.npy",
    "data.database=base.npy",
    "data.queries=queries.npy",
    "data.num_val=100",
    "data_dir=data",
]


@pytest.fixture
def _files(tmp_path: Path) -> None:
    given = positions()
    given.bundle.save(tmp_path / "index")  # type: ignore[attr-defined]
    for name, rows in {"train": np.tile(given.x, (2, 1)), "base": given.x, "queries": given.queries}.items():
        np.save(tmp_path / f"{name}.npy", rows)


@pytest.mark.usefixtures("_files")
def test_the_same_command_goes_on_in_its_folder(qinco, tmp_path):
    outcome = qinco("search", "index=index", *ARGUMENTS, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert "Pareto front of QINCo2" in outcome.out
    assert "results: " in outcome.out
    lines = [line for line in outcome.err.splitlines() if line.startswith(("qinco: point ", "ivf_pq: point "))]
    assert len(lines) == len((tmp_path / "run" / "points.jsonl").read_text().splitlines()) - 1 > 2
    first = json.loads((tmp_path / "run" / "search.json").read_text())
    assert first["data"]["name"] == "mine"
    assert list(first["engines"]) == ["qinco", "ivf_pq"]
    before = (tmp_path / "run" / "points.jsonl").read_bytes()
    again = qinco("search", "index=index", *ARGUMENTS, "hydra.run.dir=run")
    assert again.code == 0
    assert (tmp_path / "run" / "points.jsonl").read_bytes() == before
    second = json.loads((tmp_path / "run" / "search.json").read_text())
    for name, engine in second["engines"].items():
        assert engine["points"] == first["engines"][name]["points"]
    refused = qinco("search", "index=index", *ARGUMENTS, "hydra.run.dir=run", "batch_size=7")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "points.jsonl holds points with batch_size=1024, not 7: choose another folder" in refused.err
    assert (tmp_path / "run" / "points.jsonl").read_bytes() == before


@pytest.mark.usefixtures("_files")
def test_mistakes_leave_no_folder(qinco, tmp_path):
    for option, message in (("nprobe=[99]", "nprobe=99: the index has 12 lists"), ("index=none", "no index in none")):
        outcome = qinco("search", "index=index", *ARGUMENTS, "hydra.run.dir=run", option)
        assert outcome.code == 2
        *told, last = outcome.err.splitlines()  # true neighbours are computed once, and say so
        assert len(told) <= 1
        assert last.startswith("qinco: error: ")
        assert message in last
        assert not (tmp_path / "run").exists()
