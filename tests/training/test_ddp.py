"""Two CPU processes: one model, disjoint rows."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.vectors import open_vectors
from tests import processes
from tests.training import ddp_job, ranks_job

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def states(vectors_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    return _trained(vectors_path, tmp_path_factory.mktemp("ddp"), num_lists=0)


def _trained(
    vectors_path: Path, folder: Path, *, num_lists: int, num_parts: int = 1
) -> dict[str, dict[str, torch.Tensor]]:
    processes.run_ranks(ddp_job.main, str(vectors_path), str(folder), num_lists, num_parts, num_ranks=2, cwd=folder)
    names = [f"{when}-rank{rank}" for when in ("start", "end") for rank in (0, 1)]
    return {name: torch.load(folder / f"{name}.pt") for name in names}


@pytest.mark.parametrize("when", ["start", "end"])
def test_ranks_hold_the_same_weights(states: dict[str, dict[str, torch.Tensor]], when: str) -> None:
    first, second = (states[f"{when}-rank{rank}"]["weights"] for rank in (0, 1))
    assert first.keys() == second.keys()  # type: ignore[attr-defined]
    for name, value in first.items():  # type: ignore[attr-defined]
        assert torch.equal(value, second[name]), name
    assert states["start-rank1"]["weights"]["parts.0.first_codebook"].any()  # type: ignore[call-overload]


def test_training_changed_them(states: dict[str, dict[str, torch.Tensor]]) -> None:
    start, end = (states[f"{when}-rank0"]["weights"] for when in ("start", "end"))
    assert not torch.equal(start["parts.0.first_codebook"], end["parts.0.first_codebook"])  # type: ignore[call-overload]


def test_usage_and_validation_are_sums_over_ranks(states: dict[str, dict[str, torch.Tensor]]) -> None:
    first, second = states["end-rank0"], states["end-rank1"]
    assert torch.equal(first["usage"], second["usage"])
    assert (first["usage"].sum(1) == 2048).all()  # every training row of the epoch, once
    assert first["val_mse"] == second["val_mse"] > 0


def test_a_checkpoint_has_the_batches_that_every_rank_is_to_train_on_again(
    states: dict[str, dict[str, torch.Tensor]],
) -> None:
    own: list[Any] = [states[f"end-rank{rank}"]["replay"] for rank in (0, 1)]
    gathered: Any = states["end-rank0"]["replay_of_all"]
    assert [len(of_rank) for of_rank in gathered] == [3, 3]
    for found, (expected,) in zip(gathered, own, strict=True):
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one["batch"], other["batch"])
            assert torch.equal(one["codes"], other["codes"])
    assert not torch.equal(gathered[0][0]["batch"], gathered[1][0]["batch"])


def test_ranks_see_disjoint_rows_that_make_up_the_set(
    states: dict[str, dict[str, torch.Tensor]], vectors_path: Path
) -> None:
    seen = [states[f"end-rank{rank}"]["rows"].numpy() for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 2048  # two epochs of half the rows
    both = np.concatenate([rows[:1024] for rows in seen])  # the first epoch
    expected = open_vectors(vectors_path)[:2048]
    np.testing.assert_array_equal(both[np.lexsort(both.T)], expected[np.lexsort(expected.T)])


def test_frozen_centroids_are_on_every_rank_and_stay(vectors_path: Path, tmp_path: Path) -> None:
    states = _trained(vectors_path, tmp_path, num_lists=9)
    start, end, other = (states[name]["weights"] for name in ("start-rank1", "end-rank1", "end-rank0"))
    for name, value in end.items():  # type: ignore[attr-defined]
        assert torch.equal(value, other[name]), name
    raw = torch.from_numpy(open_vectors(vectors_path)[:9])
    for state in (start, end):
        assert torch.equal(state["coarse_centroids"], (raw - state["data_mean"]) / state["data_std"])
    assert not torch.equal(start["parts.0.steps.0.codebook"], end["parts.0.steps.0.codebook"])


def test_parts_rotation_and_their_centroids_are_on_every_rank(vectors_path: Path, tmp_path: Path) -> None:
    states = _trained(vectors_path, tmp_path, num_lists=9, num_parts=2)
    for when in ("start", "end"):
        first, second = (states[f"{when}-rank{rank}"]["weights"] for rank in (0, 1))
        for name, value in first.items():  # type: ignore[attr-defined]
            assert torch.equal(value, second[name]), name
        rotated = torch.from_numpy(open_vectors(vectors_path)[:9]) @ first["rotation"].T  # type: ignore[call-overload]
        expected = (rotated - second["data_mean"]) / second["data_std"]  # type: ignore[call-overload]
        torch.testing.assert_close(second["coarse_centroids"], expected)  # type: ignore[call-overload]
    start, end = (states[f"{when}-rank1"]["weights"] for when in ("start", "end"))
    changed = [name for name, value in start.items() if not torch.equal(value, end[name])]  # type: ignore[attr-defined]
    assert {name for name in start if "codebook" in name} <= set(changed)
    assert not [name for name in changed if "rotation" in name or "coarse" in name or "data_" in name]


@pytest.mark.parametrize("recipe", ["tuned", "paper"])
def test_in_mixed_precision_ranks_end_with_one_model(
    recipe: str, small: list[str], vectors_path: Path, tmp_path: Path
) -> None:
    options = ["train", *small, f"recipe={recipe}", "hydra.run.dir=run", "trainer.max_epochs=2"]
    options += ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "trainer.precision=bf16-mixed"]
    if recipe == "paper":
        processes.run_ranks(ranks_job.run, options, str(tmp_path), num_ranks=2, cwd=tmp_path)
    else:  # as a user starts it: Lightning starts the second process
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RANKS_FOLDER": str(tmp_path), "PYTHONPATH": paths}
        command = [sys.executable, "-m", "tests.training.ranks_job", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert torch.equal(first["usage"], second["usage"])
    assert (first["usage"].sum(1) == 2048).all()  # every training row of the epoch, once, in integers
    assert first["figures"]["val/mse"] == second["figures"]["val/mse"]
    # both epochs became better, so the codec is what the ranks ended with, and its error the validation's
    codec = Codec.load(tmp_path / "run" / "codec", precision="float32")
    x = torch.from_numpy(open_vectors(vectors_path)[2048:])
    error = (codec.decode(codec.encode(x)) - x).square().sum(1).double().mean()
    assert float(error) == pytest.approx(first["figures"]["val/mse"], rel=1e-5)
