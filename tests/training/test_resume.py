"""A run that was interrupted or prolonged ends where the uninterrupted one ends: bit for bit (test_killed.py)."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from qinco_lit.cli import main
from tests import processes
from tests.training.conftest import SMALL
from tests.training.kill_job import stopped_at_step

EPOCHS = 3


@pytest.fixture(scope="module")
def _whole(vectors_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    given = [*SMALL, f"data.train={vectors_path}", f"data_dir={folder / 'data'}", f"trainer.max_epochs={EPOCHS}"]
    assert main(["train", *given, f"hydra.run.dir={folder / 'whole'}"]) == 0
    return folder / "whole"


@pytest.fixture
def uninterrupted(_whole: Path, tmp_path: Path) -> Path:
    """A finished run, which the test may change."""
    return Path(shutil.copytree(_whole, tmp_path / "whole"))


def _rows(run_dir: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("time_s", "vectors_per_s")} for row in rows]


def _weights(run_dir: Path) -> bytes:
    return (run_dir / "codec" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("number", "step", "every_s", "code"),
    [
        (signal.SIGKILL, 20, 0.0, -9),  # in the second epoch; the checkpoint is one of a moment before
        (signal.SIGTERM, 8, 600.0, 130),  # in the first, between two splits
        (signal.SIGINT, 35, 600.0, 130),
    ],
)
def test_resumed_equals_uninterrupted(
    number: int, step: int, every_s: float, code: int, uninterrupted: Path, small: list[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "killed"
    options = [*small, f"trainer.max_epochs={EPOCHS}", f"hydra.run.dir={run_dir}", "trainer.log_every_n_steps=1"]
    given = [*options, f"trainer.checkpoint_every_s={every_s}"]
    stopped, output = processes.run(stopped_at_step, given, number, step, cwd=tmp_path)
    assert stopped == code, output
    assert "Traceback" not in output
    assert not (run_dir / "codec").exists(), "the run ended before it was killed"

    resumed, output = processes.run(processes.qinco, ["train", f"resume={run_dir}"], cwd=tmp_path)
    assert resumed == 0, output
    assert _weights(run_dir) == _weights(uninterrupted)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["state"] == "finished"
    assert summary["epochs"] == EPOCHS
    assert (run_dir / "train.log").read_text().count(
        "residual k-means"
    ) == 1  # what the checkpoint has is not made again
    assert not (tmp_path / "outputs").exists()  # no new folder


def test_interrupted_run_says_how_to_go_on(small: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "killed"
    given = [*small, "trainer.max_epochs=50", f"hydra.run.dir={run_dir}"]
    output = processes.run(stopped_at_step, given, signal.SIGTERM, 3, cwd=tmp_path)[1]
    assert f"qinco train resume={run_dir}" in output
    assert json.loads((run_dir / "summary.json").read_text())["state"] == "interrupted"


@pytest.mark.parametrize(
    "options",
    [
        ["recipe.cosine_reach=0"],
        ["recipe.schedule=plateau", "recipe.plateau_epochs=1", "recipe.lr=3e-2"],
        ["recipe.schedule=plateau", "recipe.patience_epochs=2", "recipe.lr=1e-1", "recipe.clip_value=null"],
    ],
    ids=["constant rate", "plateau", "early end"],
)
def test_a_prolonged_run_is_the_longer_one(options: list[str], small: list[str], tmp_path: Path) -> None:
    """Under a schedule and a search that do not depend on the length."""
    options = [*options, "recipe.narrow_share=0"]
    runs = {name: tmp_path / name for name in ("long", "short")}
    for name, epochs in (("long", 6), ("short", 3)):
        given = [f"trainer.max_epochs={epochs}", f"hydra.run.dir={runs[name]}"]
        assert main(["train", *small, *options, *given]) == 0
    moved = tmp_path / "elsewhere"  # the best model is known there, too
    runs["short"].rename(moved)
    assert main(["train", f"resume={moved}", "trainer.max_epochs=6"]) == 0
    assert _weights(moved) == _weights(runs["long"])
    assert (moved / "checkpoints" / "best.ckpt").read_bytes() == (
        runs["long"] / "checkpoints" / "best.ckpt"
    ).read_bytes()
    assert _rows(moved) == _rows(runs["long"])
    for figure in ("epochs", "steps", "best_val_mse", "best_epoch", "last_metrics"):
        assert _summary(moved)[figure] == _summary(runs["long"])[figure], figure


def test_a_diverged_end_does_not_replace_the_best_model_of_a_moved_run(uninterrupted: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    uninterrupted.rename(moved)
    before = _weights(moved)
    given = [f"trainer.max_epochs={EPOCHS + 1}", "recipe.lr=1", "recipe.cosine_reach=0", "recipe.clip_value=null"]
    assert main(["train", f"resume={moved}", *given]) == 0
    assert _rows(moved)[-2]["val/mse"] > 2 * _summary(moved)["best_val_mse"]
    assert _weights(moved) == before
    assert _summary(moved)["best_val_mse"] == _summary(moved)["best_metrics"]["val/mse"]


def test_a_run_without_its_best_model_keeps_the_next_one(uninterrupted: Path) -> None:
    (uninterrupted / "checkpoints" / "best.ckpt").unlink()
    assert main(["train", f"resume={uninterrupted}", f"trainer.max_epochs={EPOCHS + 1}"]) == 0
    assert _summary(uninterrupted)["best_val_mse"] == _rows(uninterrupted)[-2]["val/mse"]


def test_patience_given_with_resume_holds(small: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    given = ["recipe.lr=1e-1", "recipe.clip_value=null", "recipe.cosine_reach=0", "trainer.max_epochs=12"]
    given += ["recipe.batch_size=64"]
    assert main(["train", *small, *given, "recipe.patience_epochs=2", f"hydra.run.dir={run_dir}"]) == 0
    first = _summary(run_dir)["epochs"]
    assert first < 12
    assert main(["train", f"resume={run_dir}"]) == 0
    assert _summary(run_dir)["epochs"] == first
    assert main(["train", f"resume={run_dir}", "recipe.patience_epochs=4"]) == 0
    assert _summary(run_dir)["epochs"] >= first + 2


def test_a_finished_run_can_be_prolonged(uninterrupted: Path, tmp_path: Path) -> None:
    assert main(["train", f"resume={uninterrupted}", f"trainer.max_epochs={EPOCHS + 1}"]) == 0
    assert json.loads((uninterrupted / "summary.json").read_text())["epochs"] == EPOCHS + 1


def _summary(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def test_what_is_given_with_resume_holds_for_the_next_one(uninterrupted: Path) -> None:
    typed = {path: path.read_bytes() for path in (uninterrupted / ".hydra").iterdir()}
    first = _summary(uninterrupted)["overrides"]
    given = [f"trainer.max_epochs={EPOCHS + 1}", "recipe.patience_epochs=7", "+trainer.limit_val_batches=2"]
    assert main(["train", f"resume={uninterrupted}", *given]) == 0
    assert main(["train", f"resume={uninterrupted}", "trainer.limit_val_batches=1"]) == 0  # nothing more to train
    assert main(["train", f"resume={uninterrupted}", f"trainer.max_epochs={EPOCHS + 2}"]) == 0
    config = json.loads((uninterrupted / "config.json").read_text())
    assert config["trainer"]["max_epochs"] == EPOCHS + 2
    assert config["trainer"]["limit_val_batches"] == 2  # the call with another one changed nothing
    assert config["recipe"]["patience_epochs"] == 7
    summary = _summary(uninterrupted)
    assert summary["epochs"] == EPOCHS + 2
    kept = [f"trainer.max_epochs={EPOCHS + 2}", "recipe.patience_epochs=7", "+trainer.limit_val_batches=2"]
    assert summary["resume_overrides"] == kept
    # as one command line that gives the same run: the last value of an option, where the first one stood
    assert summary["overrides"] == [kept[0] if o.startswith("trainer.max_epochs") else o for o in first] + kept[1:]
    assert typed == {path: path.read_bytes() for path in (uninterrupted / ".hydra").iterdir()}


def test_other_surroundings_of_a_resumed_run_are_on_record(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _summary(uninterrupted)
    assert main(["train", f"resume={uninterrupted}", f"trainer.max_epochs={EPOCHS + 1}"]) == 0
    assert "earlier_environments" not in _summary(uninterrupted)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    for more in (2, 3):
        assert main(["train", f"resume={uninterrupted}", f"trainer.max_epochs={EPOCHS + more}"]) == 0
    summary = _summary(uninterrupted)
    names = ("git_revision", "versions", "hardware", "arithmetic")
    assert summary["earlier_environments"] == [{name: before[name] for name in names}]
    assert summary["arithmetic"]["variables"]["MKL_CBWR"] == "COMPATIBLE"


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("data.metric=ip", "resume={run} keeps the choices of its run; leave out data.metric=ip"),
        ("seed=3", "resume={run} keeps the choices of its run; leave out seed=3"),
        ("model.num_steps=4", "cannot resume: the checkpoint's model has num_steps=3, this run's num_steps=4"),
        (
            "recipe.batch_size=32",
            "cannot resume: the checkpoint was made with batch_size=128, this run has batch_size=32",
        ),
    ],
)
def test_what_would_be_another_run_is_refused_and_changes_nothing(
    option: str, reason: str, uninterrupted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = ["summary.json", "config.json", "metrics.jsonl"]
    before = {name: (uninterrupted / name).read_bytes() for name in files}
    capfd.readouterr()
    assert main(["train", f"resume={uninterrupted}", f"trainer.max_epochs={EPOCHS + 1}", option]) == 2
    assert reason.format(run=uninterrupted) in capfd.readouterr().err.splitlines()[-1]
    assert before == {name: (uninterrupted / name).read_bytes() for name in files}


def test_the_search_of_a_resumed_model_may_change(uninterrupted: Path) -> None:
    options = [f"trainer.max_epochs={EPOCHS + 1}", "model.beam_size=2"]
    assert main(["train", f"resume={uninterrupted}", *options]) == 0
    assert json.loads((uninterrupted / "codec" / "config.json").read_text())["model"]["beam_size"] == 2


def test_a_damaged_summary_is_one_line(uninterrupted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (uninterrupted / "summary.json").write_text("{")
    capfd.readouterr()
    assert main(["train", f"resume={uninterrupted}"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"qinco: error: {uninterrupted / 'summary.json'} is damaged: ")


def test_resume_without_a_checkpoint_is_one_line(uninterrupted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (uninterrupted / "checkpoints" / "last.ckpt").unlink()
    capfd.readouterr()
    assert main(["train", f"resume={uninterrupted}"]) == 2
    assert "cannot resume" in capfd.readouterr().err


def test_a_run_of_before_some_options_went_is_resumed(small: list[str], tmp_path: Path) -> None:
    """Its saved config holds `model.search` and `recipe.compile_search`, which nothing reads any more."""
    run_dir, other = tmp_path / "old", tmp_path / "new"
    assert main(["train", *small, "trainer.max_epochs=1", f"hydra.run.dir={run_dir}"]) == 0
    shutil.copytree(run_dir, other)
    saved = run_dir / ".hydra" / "config.yaml"
    for group, line in (("model", "search: per_hypothesis"), ("recipe", "compile_search: false")):
        saved.write_text(saved.read_text().replace(f"\n{group}:\n", f"\n{group}:\n  {line}\n"))
    assert "compile_search" in saved.read_text()
    for folder in (run_dir, other):
        assert main(["train", f"resume={folder}", "trainer.max_epochs=2"]) == 0
    assert _weights(run_dir) == _weights(other)


def test_a_run_of_before_some_options_came_goes_on_as_it_began(small: list[str], tmp_path: Path) -> None:
    """Its saved config holds none of them, and its checkpoint no batches to train on again, and no baseline."""
    run_dir, other = tmp_path / "old", tmp_path / "new"
    off = ["optimizer=adamw", "replay_after=0", "mix_below_rows=0", "narrow_share=0"]
    given = [*small, *(f"recipe.{option}" for option in off), "trainer.max_epochs=1"]
    assert main(["train", *given, f"hydra.run.dir={run_dir}"]) == 0
    shutil.copytree(run_dir, other)
    saved, last = run_dir / ".hydra" / "config.yaml", run_dir / "checkpoints" / "last.ckpt"
    came = ("muon_factor", "replay_after", "mix_below_rows", "baselines_below_rows", "narrow_share")
    lines = saved.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(came)]
    assert len(kept) == len(lines) - len(came)
    saved.write_text("".join(kept))
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["replay"]
    for name in ("baseline", "mse_of_epochs"):
        del checkpoint["callbacks"]["BestModel"][name]
    torch.save(checkpoint, last)
    for folder in (run_dir, other):
        assert main(["train", f"resume={folder}", "trainer.max_epochs=2"]) == 0
    assert _weights(run_dir) == _weights(other)


def test_a_checkpoint_of_before_is_refused(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert main(["train", *small, "trainer.max_epochs=1", f"hydra.run.dir={run_dir}"]) == 0
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["quantizer"]["search"] = "per_hypothesis"
    torch.save(checkpoint, last)
    capsys.readouterr()
    assert main(["train", f"resume={run_dir}", "trainer.max_epochs=2"]) == 2
    assert "cannot resume: an older version wrote the checkpoint" in capsys.readouterr().err
