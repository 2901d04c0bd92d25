"""SLURM: a job a task, with dependencies; what is in the queue is not submitted twice. A fake sbatch takes them."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qinco_lit.reproducing.runner import Stop
from qinco_lit.reproducing.slurm import SlurmOptions, run_in_place, submit
from tests.reproduce.tiny_scale import commands, runner_of

pytest.importorskip("submitit")

_SBATCH = """#!/bin/bash
if [ -e {folder}/full ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi
id=$(($(ls {folder}/jobs | wc -l) + 101))
cp "$1" {folder}/jobs/$id
echo $id >> {folder}/queue
echo "Submitted batch job $id on cluster cluster"
"""
_SQUEUE = """#!/bin/bash
[ "$*" = "--me --noheader --format=%i" ] || exit 1
cat {folder}/queue
"""
_SRUN = """#!/bin/bash
echo "$@" > {folder}/srun
while [[ "$1" == --* ]]; do if [ "$1" = --output ]; then shift; fi; shift; done
exec "$@"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `jobs`, the scripts of all jobs by id, and `queue`, the ids of jobs that are still there."""
    folder = tmp_path / "cluster"
    (folder / "jobs").mkdir(parents=True)
    (folder / "queue").touch()
    for name, script in {"sbatch": _SBATCH, "squeue": _SQUEUE, "srun": _SRUN}.items():
        (folder / name).write_text(script.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


OPTIONS = SlurmOptions(partition="gpu", time="24:00:00", cpus=8, options=["--account=my lab"], setup=["MODULE=cuda"])
TYPED = ["scale=mine", "scale.seeds=[0]", "launcher=slurm", "only=[main]", "slurm.partition=gpu"]


def _options(cluster: Path, job: int) -> dict[str, str]:
    """What sbatch reads in a script: options until the first line that is neither comment nor empty."""
    options = {}
    for line in (cluster / "jobs" / str(job)).read_text().splitlines():
        if line and not line.startswith("#"):
            break
        for word in shlex.split(line.removeprefix("#SBATCH")) if line.startswith("#SBATCH") else []:
            name, _, value = word.removeprefix("--").partition("=")
            options[name] = value
    return options


def _tasks(cluster: Path) -> dict[str, int]:
    """Ids by name of task."""
    return {_options(cluster, int(path.name))["job-name"]: int(path.name) for path in (cluster / "jobs").iterdir()}


def test_jobs_depend_on_what_they_need(cluster, output):
    assert submit(runner_of(output), OPTIONS, TYPED) == ["101", "102", "103", "104"]
    train, evaluate, *others = (_options(cluster, job) for job in (101, 102, 103, 104))
    folder = output / "d/Tiny-8B-s0/train/slurm"
    expected = {
        "job-name": "d/Tiny-8B-s0/train", "output": f"{folder}/%j_0_log.out", "signal": "TERM@180",
        "partition": "gpu", "time": "24:00:00", "gpus": "1", "cpus-per-task": "8", "account": "my lab",
    }  # fmt: skip
    assert {name: train.get(name) for name in expected} == expected
    assert "dependency" not in train
    assert evaluate["job-name"] == "d/Tiny-8B-s0/evaluate"
    assert (evaluate["dependency"], evaluate["kill-on-invalid-dep"]) == ("afterok:101", "yes")
    assert [each["job-name"] for each in others] == ["d/Big-8B-s0/train", "d/Big-8B-s0/evaluate"]
    assert others[1]["dependency"] == "afterok:103"


def test_all_that_a_task_needs_is_named(cluster, output):
    submit(runner_of(output, "search", studies=True), OPTIONS, TYPED)
    jobs = _tasks(cluster)
    ids = {name.rpartition("/")[2]: number for name, number in jobs.items()}
    search = _options(cluster, jobs["d/ivf-Tiny-16B-s0/search"])
    assert search["dependency"] == f"afterok:{ids['train']}:{ids['encode']}:{ids['index']}"


def test_a_job_is_the_same_command_for_one_task(output, cluster, monkeypatch):
    """The whole way, through submitit's own script: SLURM's process becomes the command, which sees what it must."""
    told = output.parent / "told"
    say = f"import os, sys; open({str(told)!r}, 'w').write(repr([*sys.argv[1:], os.environ['SLURM_JOB_NAME'], "
    say += "os.environ['MODULE'], os.getcwd()])); sys.exit(3)"
    runner = runner_of(output)
    runner.program = (sys.executable, "-c", say)
    submit(runner, SlurmOptions(cpus=2, setup=["export MODULE=cuda"]), TYPED)
    job = subprocess.run(
        ["bash", str(cluster / "jobs/101")], env={**os.environ, "SLURM_JOB_ID": "101", "SLURM_JOB_NAME": "d/Tiny"},
        check=False,
    )  # fmt: skip
    assert job.returncode == 3  # afterok goes by it
    assert told.read_text() == repr([
        "reproduce", "scale=mine", "scale.seeds=[0]", "slurm.partition=gpu", "only=[d/Tiny-8B-s0/train]",
        "launcher=local", f"output={output}", "interactive", "cuda", str(Path.cwd()),
    ])  # fmt: skip
    asked = (cluster / "srun").read_text().split()
    assert {"--ntasks=1", "--nodes=1", "--cpus-per-task=2"} <= set(asked)


def test_the_signal_before_the_end_reaches_the_command():
    """SLURM signals the processes that it started: what one becomes has its number and no handler of submitit's."""
    say = "import os, signal; print(os.getpid(), int(signal.getsignal(signal.SIGTERM)))"
    code = (
        "import signal, sys; from qinco_lit.reproducing.slurm import run_in_place;"
        f"signal.signal(signal.SIGTERM, lambda *_: None); run_in_place([sys.executable, '-c', {say!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0].split() == [str(process.pid), "0"]
    assert run_in_place.__module__ == "qinco_lit.reproducing.slurm"  # pickled by its name


def test_neither_what_is_queued_nor_what_is_done_is_submitted_again(cluster, output):
    submit(runner_of(output), OPTIONS, TYPED)
    assert submit(runner_of(output), OPTIONS, TYPED) == []
    (cluster / "queue").write_text("103\n104\n")  # the jobs of Tiny have ended, without results
    assert submit(runner_of(output), OPTIONS, TYPED) == ["105", "106"]
    train, evaluate = (_options(cluster, job) for job in (105, 106))
    assert (train["job-name"], evaluate["job-name"]) == ("d/Tiny-8B-s0/train", "d/Tiny-8B-s0/evaluate")
    assert evaluate["dependency"] == "afterok:105"
    runner_of(output, "d/Tiny-8B-s0/train").run(Stop())  # a job has done its task
    (cluster / "queue").write_text("")
    assert submit(runner_of(output, "Tiny"), OPTIONS, TYPED) == ["107"]
    assert commands(output) == ["train d/Tiny-8B-s0/train"]
    assert "dependency" not in _options(cluster, 107)


def test_tasks_without_data_or_with_other_results_are_not_submitted(cluster, output):
    assert submit(runner_of(output, missing={"d": "get it"}), OPTIONS, TYPED) == []
    runner_of(output, "Tiny").run(Stop())
    (output / "d/Tiny-8B-s0/train/.hydra/overrides.yaml").write_text("- data=other\n")
    assert submit(runner_of(output), OPTIONS, TYPED) == ["101", "102"]
    assert {name.split("/")[1] for name in _tasks(cluster)} == {"Big-8B-s0"}


def test_sbatch_refuses(cluster, output):
    (cluster / "full").touch()
    with pytest.raises(
        ValueError, match=r"^sbatch refused d/Tiny-8B-s0/train: sbatch: error: QOSMaxSubmitJobPerUserLimit$"
    ):
        submit(runner_of(output), OPTIONS, TYPED)


def test_no_cluster_here(output, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"^launcher=slurm needs `sbatch`, which is not on the PATH: run it on "
    ):
        submit(runner_of(output), OPTIONS, TYPED)


def test_without_the_extra_it_is_named(output, cluster, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^launcher=slurm needs submitit: pip install 'qinco_lit\[slurm\]'$"):
        submit(runner_of(output), OPTIONS, TYPED)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (SlurmOptions(), {"gpus": "1"}),
        (SlurmOptions(gpus=None, time=60), {"time": "60"}),
        (SlurmOptions(gpus=0, options=["-A", "lab"]), {"gpus": "0", "-A": "", "lab": ""}),
    ],
)
def test_what_is_not_given_is_left_to_the_cluster(cluster, output, options, given):
    submit(runner_of(output, "d/Tiny-8B-s0/train"), options, TYPED)
    found = _options(cluster, 101)
    names = ("partition", "time", "gpus", "cpus-per-task", "-A", "lab")
    assert {name: found[name] for name in names if name in found} == given
    assert not re.search(r"--cpus-per-task", (cluster / "jobs/101").read_text())
