"""Around a job: what it is called with, what becomes of its folder, and the exit codes."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit import cli
from qinco_lit.cli import main

Run = Callable[[dict[str, Any], Path], float | None]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Run], list[tuple[dict[str, Any], Path]]]]:
    """Replace the work of `train`; return the list of the calls it gets."""

    def replace(run: Run) -> list[tuple[dict[str, Any], Path]]:
        calls: list[tuple[dict[str, Any], Path]] = []

        def recorded(config: dict[str, Any], run_dir: Path) -> float | None:
            calls.append((config, run_dir))
            return run(config, run_dir)

        monkeypatch.setitem(cli.JOBS, "train", cli.Job("", lambda config: None, recorded))
        return calls

    return replace


def _succeed(config: dict[str, Any], run_dir: Path) -> float:
    (run_dir / "metrics.jsonl").write_text("{}\n")
    return 1.0


def _fail(error: BaseException) -> Run:
    def run(config: dict[str, Any], run_dir: Path) -> None:
        raise error

    return run


def test_run_folder_names_data_and_model(qinco, job, tmp_path):
    [*calls] = job(_succeed)
    calls = job(_succeed)
    assert qinco("train", "model=qinco1", "data=bigann", "model.num_steps=4").code == 0
    [(config, run_dir)] = calls
    assert config["model"]["num_steps"] == 4
    assert config["data"]["root"] == "data/bigann"
    assert "hydra" not in config
    assert run_dir.parent == tmp_path / "outputs" / "train" / "bigann" / "qinco1"
    assert (run_dir / ".hydra" / "config.yaml").is_file()


def test_environment_names_the_data_folder(qinco, job, monkeypatch):
    monkeypatch.setenv("QINCO_DATA", "elsewhere")
    calls = job(_succeed)
    qinco("train", "data=bigann")
    assert calls[0][0]["data"]["root"] == "elsewhere/bigann"


@pytest.mark.parametrize("error", [ValueError("bad\nnumber"), FileNotFoundError("gone"), OSError(28, "No space left")])
def test_users_mistake_in_the_job(refused, job, error):
    job(_fail(error))
    assert refused("train") == str(error).replace("\n", ". ")


def test_a_folder_with_results_is_kept(qinco, job, tmp_path):
    def run(config: dict[str, Any], run_dir: Path) -> None:
        _succeed(config, run_dir)
        raise ValueError("loss is NaN")

    job(run)
    outcome = qinco("train", "hydra.run.dir=run")
    assert (outcome.code, outcome.err) == (2, "qinco: error: loss is NaN\n")
    assert (tmp_path / "run" / "metrics.jsonl").is_file()


def test_a_bug_keeps_its_traceback(qinco, job):
    job(_fail(RuntimeError("a bug")))
    outcome = qinco("train")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "a bug" in outcome.err


def _odd_shapes() -> None:
    np.zeros((2, 3)) + np.zeros((2, 4))


def _unpacked() -> None:
    (_,) = range(2)


def _of_the_standard_library() -> None:
    json.loads("{")


@pytest.mark.parametrize("work", [_odd_shapes, _unpacked, _of_the_standard_library])
def test_what_nobody_meant_to_say_is_called_unexpected_and_keeps_its_traceback(qinco, job, tmp_path, work):
    job(lambda config, run_dir: work())
    outcome = qinco("train", "hydra.run.dir=run")
    name = "JSONDecodeError" if work is _of_the_standard_library else "ValueError"
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith(f" ({name}, unexpected: the traceback is in {tmp_path / 'run' / 'train.log'})\n")
    log = (tmp_path / "run" / "train.log").read_text()
    assert "Traceback" in log
    assert work.__name__ in log


def test_interrupt(qinco, job):
    job(_fail(KeyboardInterrupt()))
    outcome = qinco("train")
    assert (outcome.code, outcome.err) == (130, "qinco: interrupted\n")


def test_interrupt_that_lightning_turned_into_an_exit(qinco, job):
    def run(config: dict[str, Any], run_dir: Path) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 - as Lightning does

    job(run)
    assert qinco("train").code == 130


def test_multirun_runs_every_combination(qinco, job, tmp_path):
    calls = job(_succeed)
    outcome = qinco("train", "-m", "model=qinco1,qinco2", "model.num_steps=4,8", "hydra.sweep.dir=sweep")
    assert outcome.code == 0
    assert [run_dir.relative_to(tmp_path).as_posix() for _, run_dir in calls] == [f"sweep/{i}" for i in range(4)]
    assert [config["model"]["num_steps"] for config, _ in calls] == [4, 8, 4, 8]


@pytest.mark.parametrize(
    ("arguments", "num_logs"),
    [
        (["train", "hydra.run.dir=run"], 1),
        (["train", "-m", "seed=1,2", "hydra.sweep.dir=run"], 2),
        (["verify", "no.h5"], 0),
    ],
    ids=["job", "multirun", "tool"],
)
def test_the_root_logger_is_given_back(qinco, job, tmp_path, arguments, num_logs):
    root, held = logging.getLogger(), []

    def run(config: dict[str, Any], run_dir: Path) -> float:
        logging.getLogger("qinco_lit.anything").info("training")
        held.extend(handler for handler in root.handlers if isinstance(handler, logging.FileHandler))
        return _succeed(config, run_dir)

    job(run)
    before = list(root.handlers), root.level
    qinco(*arguments)
    assert (root.handlers, root.level) == before
    assert all(handler.stream is None for handler in held)  # closed
    logs = list((tmp_path / "run").rglob("train.log"))
    assert len(logs) == len(held) == num_logs
    root.warning("of another program")
    assert all(log.read_text().count("\n") == 1 for log in logs)


def test_flags_may_follow_overrides(qinco, job):
    calls = job(_succeed)
    assert qinco("train", "model=qinco1", "-m", "seed=1,2").code == 0
    assert [config["seed"] for config, _ in calls] == [1, 2]


def test_primary_config_of_the_user(qinco, job, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "steps.yaml").write_text(
        "defaults: [train, _self_]\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      model.num_steps: 4,8\n"
    )
    calls = job(_succeed)
    assert qinco("train", "-m", "-cd", "mine", "-cn", "steps", "seed=3").code == 0
    assert [(config["model"]["num_steps"], config["seed"]) for config, _ in calls] == [(4, 3), (8, 3)]


def test_sweep_file_is_checked_before_it_runs(refused, job, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "steps.yaml").write_text(
        "defaults: [train, _self_]\nhydra:\n  sweeper:\n    params:\n      model.num_step: 4,8\n"
    )
    job(_succeed)
    assert "unknown option model.num_step " in refused("train", "-m", "-cd", "mine", "-cn", "steps")


def test_resume_restores_the_config_in_the_same_folder(qinco, job, tmp_path):
    calls = job(_succeed)
    qinco("train", "model=qinco1", "data=bigann", "data.limit_train=1000", "hydra.run.dir=a run")
    saved = {path: path.read_bytes() for path in (tmp_path / "a run" / ".hydra").iterdir()}
    assert qinco("train", "resume=a run", "trainer.max_epochs=80").code == 0
    (first, folder), (again, folder_again) = calls
    assert folder_again == folder == tmp_path / "a run"
    assert first.pop("overwrite") is False  # no option of a run, but of the command that begins it
    assert again == {**first, "resume": "a run", "trainer": {**first["trainer"], "max_epochs": 80}}
    assert saved == {path: path.read_bytes() for path in (tmp_path / "a run" / ".hydra").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["a run"]


def test_a_run_is_resumed_from_any_folder_in_the_one_where_it_was_started(qinco, job, tmp_path, monkeypatch):
    places: list[tuple[Path, str]] = []
    job(lambda config, run_dir: places.append((Path.cwd(), config["data"]["root"])))
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert qinco("train", "data=bigann", "hydra.run.dir=run").code == 0
    monkeypatch.chdir(tmp_path / "here")
    assert qinco("train", "resume=../there/run").code == 0
    monkeypatch.setenv("QINCO_DATA", "mine")
    assert qinco("train", "resume=../there/run").code == 0
    there = tmp_path / "there"
    assert places == [(there, "data/bigann"), (there, "data/bigann"), (there, f"{tmp_path}/here/mine/bigann")]
    assert Path.cwd() == tmp_path / "here"
    job(_fail(FileNotFoundError("x.npy: no such file")))
    assert qinco("train", "resume=../there/run").err == (
        f"qinco: error: x.npy: no such file (relative paths are meant from {there}, where the run was started)\n"
    )
    (there / "run").rename(tmp_path / "run")
    there.rmdir()
    job(lambda config, run_dir: places.append((Path.cwd(), "")))
    assert qinco("train", "resume=../run").code == 0  # moved: where one is
    assert places[-1][0] == tmp_path / "here"


def test_resume_refuses_what_it_cannot_do(qinco, refused, job):
    job(_succeed)
    qinco("train", "hydra.run.dir=run")
    assert refused("train", "resume=run", "model=qinco1") == (
        "resume=run keeps the choices of its run; leave out model=qinco1"
    )
    assert "leave out -m" in refused("train", "-m", "resume=run")
    assert "unknown option trainer.max_epoch " in refused("train", "resume=run", "trainer.max_epoch=3")


def test_a_resumed_run_keeps_its_folder_after_a_mistake(qinco, job, tmp_path):
    job(lambda config, run_dir: 0.0)
    qinco("train", "hydra.run.dir=run")
    job(_fail(ValueError("the data changed")))
    assert qinco("train", "resume=run").code == 2
    assert (tmp_path / "run" / ".hydra" / "config.yaml").is_file()


@pytest.mark.parametrize("name", ["faiss.loader", "aiobotocore.credentials"])
def test_no_command_says_what_libraries_say_at_every_start(monkeypatch, name):
    """Whichever call loads them; what the caller of `main` has set is as it was."""
    loader, said = logging.getLogger(name), []
    monkeypatch.setattr(loader, "level", logging.DEBUG)
    monkeypatch.setattr("qinco_lit.cli.run_job", lambda *_: said.append(loader.isEnabledFor(logging.INFO)))
    assert main(["centroids"]) == 0
    assert said == [False]
    assert loader.level == logging.DEBUG
