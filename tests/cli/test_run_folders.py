"""The folder of a job: its own, made before Hydra writes, and untouched by a job that is refused."""

import errno
import os
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from qinco_lit import cli
from qinco_lit.run_folder import only_process, reserved

COMMANDS = {
    "train": ["train", "data=bigann"],
    "evaluate": ["evaluate", "codec=c", "data=bigann"],
    "search": ["search", "index=i", "data=bigann"],
    "plan": ["plan", "model=qinco2", "data=bigann"],
}


@pytest.fixture
def works(monkeypatch):
    """Replace the work of all jobs with a run folder; return the list of (config, run folder)."""

    def replace(run=lambda config, run_dir: (run_dir / "result").write_text(str(config.get("seed")))):
        calls: list[tuple[dict[str, Any], Path]] = []

        def recorded(config: dict[str, Any], run_dir: Path) -> None:
            calls.append((config, run_dir))
            run(config, run_dir)

        for name in COMMANDS:
            monkeypatch.setitem(cli.JOBS, name, cli.Job("", lambda config: None, recorded))
        return calls

    return replace


def _mistake(config: dict[str, Any], run_dir: Path) -> None:
    raise ValueError("no such thing")


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- folders named by the time --------------------------------------------------------------------------------------


@pytest.fixture
def one_second(monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 1, 31, 12)

    monkeypatch.setattr("hydra.core.utils.datetime", Stopped)


@pytest.mark.usefixtures("one_second")
@pytest.mark.parametrize("command", COMMANDS)
def test_runs_of_one_second_have_folders_of_their_own(qinco, works, command):
    calls = works()
    for _ in range(3):
        assert qinco(*COMMANDS[command]).code == 0
    names = [run_dir.name for _, run_dir in calls]
    assert names == ["2026-01-31_12-00-00", "2026-01-31_12-00-00_2", "2026-01-31_12-00-00_3"]
    assert all((run_dir / ".hydra" / "config.yaml").is_file() for _, run_dir in calls)


@pytest.mark.usefixtures("one_second")
def test_sweeps_of_one_second_have_folders_of_their_own(qinco, works, tmp_path):
    calls = works()
    for _ in range(2):
        assert qinco("train", "-m", "data=bigann", "seed=1,2").code == 0
    first, second = sorted((tmp_path / "multirun" / "train").iterdir())
    assert second.name == f"{first.name}_2"
    assert [run_dir for _, run_dir in calls] == [first / "0", first / "1", second / "0", second / "1"]


def test_a_folder_is_given_to_one_of_those_who_ask_at_once(tmp_path):
    given: list[Path] = []
    threads = [threading.Thread(target=lambda: given.append(reserved(tmp_path / "a" / "run"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given)) == 16
    assert sorted(given) == sorted((tmp_path / "a").iterdir())


def test_a_rank_that_nobody_has_told_a_folder_makes_none(qinco, works, tmp_path, monkeypatch):
    calls = works(lambda config, run_dir: None)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert qinco("train", "data=bigann").code == 0
    assert [run_dir for _, run_dir in calls] == [tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_the_ranks_of_torchrun_share_the_folder_of_the_first(qinco, works, monkeypatch):
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    calls = works()
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        assert qinco("train", "data=bigann").code == 0
    assert len({run_dir for _, run_dir in calls}) == 1
    assert [path.name for path in calls[0][1].parent.iterdir()] == [calls[0][1].name]


# --- what is refused changes nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "other"), [*((name, name) for name in COMMANDS), ("train", "evaluate"), ("search", "train")]
)
def test_a_job_that_is_refused_leaves_the_run_of_its_folder_as_it_is(qinco, works, tmp_path, command, other):
    works()
    assert qinco(*COMMANDS[command], "hydra.run.dir=run").code == 0
    before = _contents(tmp_path)
    works(_mistake)
    outcome = qinco(*COMMANDS[other], "hydra.run.dir=run", "data.num_val=3")
    assert (outcome.code, outcome.err) == (2, "qinco: error: no such thing\n")
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("command", ["evaluate", "search", "plan"])
def test_a_folder_is_of_one_job_at_a_time(qinco, works, tmp_path, command):
    calls = works()
    typed = tmp_path / "run" / ".hydra" / "overrides.yaml"
    assert qinco(*COMMANDS[command], "hydra.run.dir=run").code == 0
    before = _contents(tmp_path)
    with only_process(tmp_path / "run"):
        outcome = qinco(*COMMANDS[command], "hydra.run.dir=run", "data.num_val=3")
    assert outcome.err == (
        f"qinco: error: {tmp_path}/run: another process works in this folder; wait for it, or give hydra.run.dir=DIR\n"
    )
    assert (outcome.code, len(calls), _contents(tmp_path)) == (2, 1, before)
    assert qinco(*COMMANDS[command], "hydra.run.dir=run", "data.num_val=3").code == 0
    assert "data.num_val=3" in typed.read_text()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".hydra", "result"]


def test_a_sweep_is_of_one_command_at_a_time(qinco, works, tmp_path):
    calls = works()
    sweep = ["train", "-m", "data=bigann", "seed=1,2", "hydra.sweep.dir=sweep"]
    assert qinco(*sweep).code == 0
    before = _contents(tmp_path)
    busy = "another process works in this folder; wait for it, or give hydra.run.dir=DIR"
    for folder in ("sweep", "sweep/1"):
        with only_process(tmp_path / folder):
            assert qinco(*sweep).err.endswith(f"{busy}\n")
    assert (len(calls), _contents(tmp_path)) == (2, before)


def test_overwriting_is_for_one_run(refused, qinco, works):
    works()
    assert refused("train", "-m", "data=bigann", "seed=1,2", "overwrite=true") == (
        "overwrite=true is for one run: a sweep begins anew in another hydra.sweep.dir"
    )
    assert qinco("train", "data=bigann", "hydra.run.dir=run", "overwrite=true").code == 0
    assert "overwrite" not in Path("run/.hydra/config.yaml").read_text()
    assert "overwrite" not in Path("run/.hydra/overrides.yaml").read_text()
    assert refused("train", "resume=run", "overwrite=true") == (
        "resume=run goes on with a run, overwrite=true begins anew: leave one out"
    )


# --- folders that cannot be made ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "place", "reason"),
    [
        *((command, "file", "File exists") for command in COMMANDS),
        ("train", "file/sub", "Not a directory"),
        ("train", "n" * 300, "File name too long"),
        ("train", "/proc/sub", "No such file or directory"),
        ("train", "link", "File exists"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_line(refused, works, tmp_path, command, place, reason):
    works()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("/unmounted")
    line = f"the folder {place} cannot be made ({reason}): name another one"
    assert refused(*COMMANDS[command], f"hydra.run.dir={place}") == line
    sweep = refused(*COMMANDS[command], "-m", "data.num_val=3,4", f"hydra.sweep.dir={place}")
    assert sweep.startswith(f"the folder {place}")


@pytest.mark.parametrize(
    ("command", "code"),
    [*((command, errno.EROFS) for command in COMMANDS), ("train", errno.EACCES), ("train", errno.ENOSPC)],
)
def test_a_place_that_takes_no_folder_is_one_line(refused, works, tmp_path, monkeypatch, command, code):
    calls, mkdir = works(), Path.mkdir

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if not path.is_dir():
            raise OSError(code, os.strerror(code), str(path))
        mkdir(path, *arguments, **options)

    (tmp_path / "there").mkdir()
    monkeypatch.setattr(Path, "mkdir", refuse)
    reason = os.strerror(code)
    for options in ([], ["hydra.run.dir=run"], ["-m", "data.num_val=3,4", "hydra.sweep.dir=sweep"]):
        line = refused(*COMMANDS[command], *options)
        assert line.startswith("the folder ")
        assert line.endswith(f" cannot be made ({reason}): name another one")
    assert reason in refused(*COMMANDS[command], "hydra.run.dir=there")
    assert calls == []


def test_a_job_of_a_sweep_whose_folder_cannot_be_made_stops_it_before_it_begins(refused, works):
    works()
    sweep = ["train", "-m", "data=bigann", "hydra.sweep.dir=sweep", "seed=1,2"]
    long = f"hydra.sweep.subdir={'n' * 300}_${{seed}}"
    assert "cannot be made (File name too long)" in refused(*sweep, long)


# --- folders of the jobs of a sweep ---------------------------------------------------------------------------------

NAMED = "hydra.sweep.subdir=${hydra.job.override_dirname}"


def test_jobs_in_folders_of_other_names_are_gone_on_with_if_they_are_the_same(qinco, refused, works, tmp_path):
    calls = works()
    named = [NAMED, "hydra.job.config.override_dirname.exclude_keys=[trainer.max_epochs]"]
    sweep = ["train", "-m", "data=bigann", "seed=1,2", "hydra.sweep.dir=sweep", *named]
    assert qinco(*sweep).code == 0
    assert [run_dir.name for _, run_dir in calls] == ["data=bigann,seed=1", "data=bigann,seed=2"]
    assert refused(*sweep, "trainer.max_epochs=3") == (
        "sweep/data=bigann,seed=1 is the run of fewer options, not of trainer.max_epochs=3: "
        "choose another hydra.sweep.dir"
    )
    assert qinco(*sweep[:3], "seed=1,2,3", *sweep[4:]).code == 0
    assert len(calls) == 5


def test_two_jobs_in_one_folder_are_refused(refused, works):
    works()
    assert refused("train", "-m", "data=bigann", "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same") == (
        "hydra.sweep.subdir=same is the folder of jobs 0 and 1 alike: let it tell jobs apart"
    )
