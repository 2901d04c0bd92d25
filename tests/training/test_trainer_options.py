"""Options of pl.Trainer: what they do is what they say, or they are refused before anything is written."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qinco_lit.cli import main
from qinco_lit.codec import Codec
from qinco_lit.vectors import open_vectors
from tests.training.conftest import SMALL

_BATCHES = 16  # of an epoch
_FLOOR = 1e-3


Train = Callable[..., Path]


@pytest.fixture
def train(small: list[str], tmp_path: Path) -> Train:
    def run(*options: str) -> Path:
        run_dir = tmp_path / "run"
        assert main(["train", *small, "trainer.max_epochs=2", *options, f"hydra.run.dir={run_dir}"]) == 0
        return run_dir

    return run


def _rows(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _summary(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "summary.json").read_text())


def _error(run_dir: Path, vectors_path: Path) -> float:
    """Of the codec on the validation vectors."""
    codec, x = Codec.load(run_dir / "codec"), open_vectors(vectors_path)[2048:]
    return float(((codec.decode(codec.encode(x)) - x) ** 2).sum(1).mean())


@pytest.mark.parametrize("every", [1, 4, 5])
def test_schedule_and_epochs_count_optimizer_steps(every: int, train: Train) -> None:
    run_dir = train(f"+trainer.accumulate_grad_batches={every}", "trainer.log_every_n_steps=1")
    steps = 2 * math.ceil(_BATCHES / every)
    reports = [row for row in _rows(run_dir) if "lr" in row]
    assert [row["step"] for row in reports] == list(range(1, steps + 1))
    assert reports[-1]["epochs_seen"] == 2
    before_the_last = (steps - 1) / (steps // 2)
    expected = math.cos((before_the_last - 0.3) / (2 - 0.3) * math.pi / 2)
    assert reports[-1]["lr"] == pytest.approx(max(row["lr"] for row in reports) * expected, rel=0.05)
    assert _summary(run_dir)["steps"] == steps


def test_steps_end_the_training_and_its_schedule_within_an_epoch(train: Train, vectors_path: Path) -> None:
    run_dir = train("+trainer.max_steps=40", "trainer.log_every_n_steps=1", "recipe.batch_size=64")
    batches = 2 * _BATCHES
    rows = _rows(run_dir)
    rates = [row["lr"] for row in rows if "lr" in row]
    assert len(rates) == 40
    assert rates[-1] < 0.1 * max(rates)
    validated = [row["step"] for row in rows if "val/mse" in row]
    assert validated == [batches, 40]  # the weights at the end, too
    summary = _summary(run_dir)
    assert (summary["steps"], summary["state"]) == (40, "finished")
    assert summary["best_val_mse"] == pytest.approx(_error(run_dir, vectors_path), rel=1e-5)
    # again, which leaves nothing to train; then on: the second epoch is finished
    before = (run_dir / "metrics.jsonl").read_text()
    assert main(["train", f"resume={run_dir}"]) == 0
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == len(before.splitlines())
    assert main(["train", f"resume={run_dir}", "trainer.max_steps=-1"]) == 0
    assert _summary(run_dir)["steps"] == 2 * batches
    assert [row["step"] for row in _rows(run_dir) if "val/mse" in row] == [batches, 2 * batches]


def test_without_validation_the_codec_is_the_last_model(train: Train, vectors_path: Path) -> None:
    run_dir = train("+trainer.limit_val_batches=0")
    assert not any("val/mse" in row for row in _rows(run_dir))
    assert "best_val_mse" not in _summary(run_dir)
    trained = _error(run_dir, vectors_path)
    assert main(["train", f"resume={run_dir}", "trainer.limit_val_batches=1.0"]) == 0  # validates what is there
    assert _summary(run_dir)["best_val_mse"] == pytest.approx(trained, rel=1e-5)


@pytest.mark.parametrize(("every", "schedule"), [(2, "cosine"), (3, "cosine"), (3, "plateau")])
def test_validation_every_few_epochs(every: int, schedule: str, train: Train, vectors_path: Path) -> None:
    run_dir = train(f"+trainer.check_val_every_n_epoch={every}", f"recipe.schedule={schedule}", "trainer.max_epochs=4")
    steps = [row["step"] / _BATCHES for row in _rows(run_dir) if "val/mse" in row]
    assert steps == {2: [2, 4], 3: [3, 4]}[every]
    assert _summary(run_dir)["best_val_mse"] == pytest.approx(_error(run_dir, vectors_path), rel=1e-5)


def test_a_fast_dev_run_ends_well_and_leaves_nothing(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = train("+trainer.fast_dev_run=true")
    assert not run_dir.exists()
    assert (
        capfd.readouterr()
        .err.splitlines()[-1]
        .endswith("fast_dev_run: training and validation went through; nothing is kept")
    )


def test_no_report_but_at_the_end_of_an_epoch(train: Train) -> None:
    rows = _rows(train("trainer.log_every_n_steps=0"))
    assert [row["step"] for row in rows if "train/mse" in row] == [_BATCHES, 2 * _BATCHES]


@pytest.fixture(scope="module")
def plain(vectors_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    given = [*SMALL, f"data.train={vectors_path}", f"data_dir={folder / 'data'}", "trainer.max_epochs=2"]
    assert main(["train", *given, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.mark.parametrize(
    "options",
    [
        ["+trainer.num_sanity_val_steps=2"],
        ["+trainer.enable_model_summary=true"],
        ["~logger"],
        ["trainer.enable_progress_bar=false"],
        ["+trainer.profiler=simple"],
        ["trainer.precision=32"],
    ],
    ids=lambda options: options[0],
)
def test_what_changes_no_number(
    options: list[str], train: Train, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # these tests have no logger to delete
    given = [option for option in options if option != "~logger"] or ["logger=wandb", "~logger"]
    capfd.readouterr()
    run_dir = train(*given)
    printed = capfd.readouterr()
    name = "weights.safetensors"
    assert (run_dir / "codec" / name).read_bytes() == (plain / "codec" / name).read_bytes()
    assert _summary(run_dir)["best_val_mse"] == _summary(plain)["best_val_mse"]
    assert ("model_summary=true" in options[0]) == ("Trainable params" in printed.out)
    assert ("profiler" in options[0]) == (run_dir / "fit-profile.txt").is_file()


def test_fewer_batches_are_an_epoch(train: Train) -> None:
    run_dir = train("+trainer.limit_train_batches=10")
    assert _summary(run_dir)["steps"] == 20
    assert [row["epochs_seen"] for row in _rows(run_dir) if "epochs_seen" in row] == [1, 2]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("trainer.precision=16-true", "weights are kept in float32, give one of 32-true, bf16-mixed, 16-mixed"),
        ("trainer.precision=bf16-true", "weights are kept in float32"),
        ("trainer.precision=64-true", "weights are kept in float32"),
        ("+trainer.profiler=xla", "give one of simple, advanced, pytorch"),
        ("trainer.strategy=ddp_spawn", "give auto (ddp with more than one device) or ddp"),
        ("trainer.strategy=fsdp", "give auto (ddp with more than one device) or ddp"),
        ("+trainer.logger=false", "logger=wandb or logger=none chooses what else is"),
        ("+trainer.callbacks=[]", "recipe.patience_epochs ends a training early"),
        ("+trainer.default_root_dir=x", "give hydra.run.dir=DIR"),
        ("+trainer.enable_checkpointing=false", "trainer.checkpoint_every_s says how often"),
        ("+trainer.use_distributed_sampler=true", "the data module shares the vectors among the devices"),
        ("+trainer.gradient_clip_val=1.0", "give recipe.clip_value"),
        ("+trainer.reload_dataloaders_every_n_epochs=1", "where the one before stopped"),
        ("+trainer.barebones=true", "it leaves out checkpoints and reports"),
        ("+trainer.max_steps=0", "give at least 1"),
        ("+trainer.accumulate_grad_batches=0", "give at least 1"),
        ("+trainer.check_val_every_n_epoch=0", "give at least 1"),
        ("trainer.log_every_n_steps=-1", "give at least 0"),
        ("+trainer.limit_train_batches=0", "leaves nothing to train on"),
        ("+trainer.max_steps=x", "expected an integer"),
        ("+trainer.val_check_interval=0", "give trainer.limit_val_batches=0"),
        ("trainer.checkpoint_every_s=-1", "give at least 0"),
    ],
)
def test_what_a_training_cannot_take_is_refused_in_one_line(
    option: str, message: str, small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *small, option, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"qinco: error: {option.lstrip('+').partition('=')[0]}")
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["trainer.devices=abc", "trainer.accelerator=tpu", "+trainer.max_time=soon"])
def test_what_lightning_cannot_take_is_one_line(
    option: str, small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *small, option, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("qinco: error: Lightning refuses the options of trainer: ")
    assert not (tmp_path / "run").exists()


def test_a_plateau_needs_validation(small: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *small, "+trainer.limit_val_batches=0", "recipe.schedule=plateau"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.endswith("the learning rate follows the validation error; give recipe.schedule=cosine")
