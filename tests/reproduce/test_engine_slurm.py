"""SLURM: a job a task, with dependencies; what is in the queue is not submitted twice. A fake sbatch takes them."""

import os
import subprocess
from pathlib import Path

import pytest

from qinco_lit.reproducing.engine import Stop
from qinco_lit.reproducing.slurm import SlurmOptions, submit
from tests.reproduce.tiny_scale import commands, engine_of

_SBATCH = """#!/bin/bash
if [ -e {folder}/full ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi
id=$(($(wc -l < {folder}/jobs) + 101))
echo "$@" >> {folder}/jobs
echo $id >> {folder}/queue
echo "$id;cluster"
"""
_SQUEUE = """#!/bin/bash
[ "$*" = "--me --noheader --format=%i" ] || exit 1
cat {folder}/queue
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `jobs`, the arguments of every sbatch, and `queue`, the ids of jobs that are still there."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name in ("jobs", "queue"):
        (folder / name).touch()
    for name, script in {"sbatch": _SBATCH, "squeue": _SQUEUE}.items():
        (folder / name).write_text(script.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


OPTIONS = SlurmOptions(partition="gpu", time="24:00:00", cpus=8, options=["--account=lab"], setup=["module load cuda"])
TYPED = ["scale=mine", "scale.seeds=[0]", "launcher=slurm", "only=[main]", "slurm.partition=gpu"]


def _jobs(cluster: Path) -> list[list[str]]:
    return [line.split() for line in (cluster / "jobs").read_text().splitlines()]


def test_jobs_depend_on_what_they_need(cluster, output):
    assert submit(engine_of(output), OPTIONS, TYPED) == ["101", "102", "103", "104"]
    jobs = _jobs(cluster)
    train, evaluate = jobs[:2]
    folder = output / "d/Tiny-8B-s0/train"
    assert train == [
        "--parsable", "--job-name=d/Tiny-8B-s0/train", f"--output={folder}/slurm-%j.log", "--signal=B:TERM@180",
        "--partition=gpu", "--time=24:00:00", "--gpus=1", "--cpus-per-task=8", "--account=lab", f"{folder}/task.sbatch",
    ]  # fmt: skip
    assert evaluate[-3:] == [
        "--dependency=afterok:101", "--kill-on-invalid-dep=yes", f"{output}/d/Tiny-8B-s0/evaluate/task.sbatch",
    ]  # fmt: skip
    assert [job[1] for job in jobs[2:]] == ["--job-name=d/Big-8B-s0/train", "--job-name=d/Big-8B-s0/evaluate"]
    assert jobs[3][-3] == "--dependency=afterok:103"


def test_all_that_a_task_needs_is_named(cluster, output):
    submit(engine_of(output, "search", studies=True), OPTIONS, TYPED)
    jobs = {job[1].removeprefix("--job-name="): (place + 101, job) for place, job in enumerate(_jobs(cluster))}
    ids = {name.rpartition("/")[2]: number for name, (number, _) in jobs.items()}
    search = jobs["d/ivf-Tiny-16B-s0/search"][1]
    assert f"--dependency=afterok:{ids['train']}:{ids['encode']}:{ids['index']}" in search


def test_a_job_is_the_same_command_for_one_task(output, cluster):
    engine = engine_of(output)
    submit(engine, OPTIONS, TYPED)
    script = (output / "d/Tiny-8B-s0/train/task.sbatch").read_text().splitlines()
    assert script == [
        "#!/bin/bash",
        f"# qinco train data=x model=tiny seed=0 logger=none hydra.run.dir={output}/d/Tiny-8B-s0/train",
        "module load cuda",
        "export SLURM_JOB_NAME=interactive  # Lightning starts the processes of several GPUs by itself",
        f"cd {Path.cwd()}",
        f"exec {' '.join(engine.program)} reproduce scale=mine 'scale.seeds=[0]' slurm.partition=gpu "
        f"'only=[d/Tiny-8B-s0/train]' launcher=local output={output}",
    ]
    subprocess.run(["bash", "-n", str(output / "d/Tiny-8B-s0/train/task.sbatch")], check=True)


def test_neither_what_is_queued_nor_what_is_done_is_submitted_again(cluster, output):
    submit(engine_of(output), OPTIONS, TYPED)
    assert submit(engine_of(output), OPTIONS, TYPED) == []
    (cluster / "queue").write_text("103\n104\n")  # the jobs of Tiny have ended, without results
    assert submit(engine_of(output), OPTIONS, TYPED) == ["105", "106"]
    assert [job[1] for job in _jobs(cluster)[4:]] == [
        "--job-name=d/Tiny-8B-s0/train",
        "--job-name=d/Tiny-8B-s0/evaluate",
    ]
    assert "--dependency=afterok:105" in _jobs(cluster)[5]
    engine_of(output, "d/Tiny-8B-s0/train").run(Stop())  # a job has done its task
    (cluster / "queue").write_text("")
    assert submit(engine_of(output, "Tiny"), OPTIONS, TYPED) == ["107"]
    assert commands(output) == ["train d/Tiny-8B-s0/train"]
    assert not any(word.startswith("--dependency") for word in _jobs(cluster)[-1])


def test_tasks_without_data_or_with_other_results_are_not_submitted(cluster, output):
    assert submit(engine_of(output, missing={"d": "get it"}), OPTIONS, TYPED) == []
    engine_of(output, "Tiny").run(Stop())
    (output / "d/Tiny-8B-s0/train/.hydra/overrides.yaml").write_text("- data=other\n")
    assert submit(engine_of(output), OPTIONS, TYPED) == ["101", "102"]
    assert {job[1].split("/")[1] for job in _jobs(cluster)} == {"Big-8B-s0"}


def test_sbatch_refuses(cluster, output):
    (cluster / "full").touch()
    with pytest.raises(
        ValueError, match=r"^sbatch refused d/Tiny-8B-s0/train: sbatch: error: QOSMaxSubmitJobPerUserLimit$"
    ):
        submit(engine_of(output), OPTIONS, TYPED)


def test_no_cluster_here(output, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"^launcher=slurm needs `sbatch`, which is not on the PATH: run it on "
    ):
        submit(engine_of(output), OPTIONS, TYPED)


def test_what_is_not_given_is_left_to_the_cluster():
    assert SlurmOptions().words() == ["--gpus=1"]
    assert SlurmOptions(gpus=None, time=60).words() == ["--time=60"]
