"""`qinco plan` for real: a set whose files are missing, a user's files, and a file by itself."""

import json
from pathlib import Path

import numpy as np
import pytest

SMALL = [
    "model=qinco2_tiny", "model.num_steps=2", "model.codebook_size=16", "model.embed_dim=8", "model.hidden_dim=8",
    "recipe.batch_size=64", "device=cpu", "num_threads=1", "seconds=0.02", "hydra.run.dir=plan",
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> None:
    for name, rows in {"train": 300, "base": 250}.items():
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32))


def _record(folder: Path) -> dict:
    return json.loads((folder / "plan" / "plan.json").read_text())


def test_a_billion_vectors_that_are_not_here(qinco, tmp_path):
    outcome = qinco("plan", "data=bigann", "data.size=1B", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "bigann 1B" in outcome.out
    assert "no file of the set is" in " ".join(outcome.out.split())
    record = _record(tmp_path)
    assert record["data"]["num_rows"] == 10**9
    assert record["times"]["training"]["rows"] == 60 * 10**7
    assert record["disk"]["vectors_file_bytes"] == 132 * 10**9
    assert {path.name for path in (tmp_path / "plan").iterdir()} == {".hydra", "plan.json", "plan.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_files_of_the_user(qinco, files, tmp_path):
    data = ["data=files", "data.train=train.npy", "data.database=base.npy", "data.num_val=100"]
    outcome = qinco("plan", *data, *SMALL, "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    record = _record(tmp_path)
    assert (record["data"]["num_rows"], record["data"]["num_train"], record["data"]["dim"]) == (250, 200, 5)
    assert (record["data"]["measured_on"], record["times"]["training"]["rows"]) == ("base.npy", 600)


def test_a_file_by_itself(qinco, files, tmp_path):
    outcome = qinco("plan", "input=base.npy", *SMALL, "num_rows=1000", "num_devices=2")
    assert outcome.code == 0, outcome.err
    record = _record(tmp_path)
    assert (record["data"]["name"], record["data"]["num_rows"], record["settings"]["num_devices"]) == (
        "base.npy", 1000, 2,
    )  # fmt: skip
