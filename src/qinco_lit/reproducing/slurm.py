"""Tasks as jobs of a SLURM cluster: one each, with what it needs as dependencies, submitted by submitit."""

import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from qinco_lit.reproducing.folder import RECORD, read_json, write_record
from qinco_lit.reproducing.runner import Runner
from qinco_lit.reproducing.tasks import Task, by_cost, path_option

log = logging.getLogger(__name__)

# In a task's folder: scripts and logs of its jobs.
JOBS = "slurm"
# Seconds before a job's time is up at which its task is asked to save its work and stop.
_WARNING_S = 180


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """How jobs are submitted; what is None is left to the cluster.

    Attributes:
        partition, time, gpus, cpus: of each job: `--partition`, `--time`, `--gpus`, `--cpus-per-task`.
        options: further ones of sbatch, as on its command line: `--account=NAME`.
        setup: lines of shell before the task, to load modules or to set variables.
    """

    partition: str | None = None
    time: str | int | None = None
    gpus: int | None = 1
    cpus: int | None = None
    options: Sequence[str] = ()
    setup: Sequence[str] = ()


def submit(runner: Runner, slurm: SlurmOptions, overrides: Sequence[str]) -> list[str]:
    """Submit every chosen task that is not done and not in the queue; return the ids of the jobs, in order of cost.

    A job runs `qinco reproduce` for its one task: it continues what an earlier job left, waits for none, and
    brings results and report up to date. It depends on the jobs of what it needs (afterok).

    Args:
        runner: the tasks and their folder.
        slurm: how.
        overrides: what the user typed, repeated by the jobs but for what chooses and launches.

    Raises:
        FileNotFoundError: no SLURM here.
        ValueError: submitit is not installed; sbatch refused a job, in its words.
    """
    _check_is_cluster()
    outcomes = runner.outcomes()
    queued = _queued([task for task in runner.tasks if outcomes[task.name].state == "not_run"], runner)
    job_ids: list[str] = []
    for task in by_cost(runner.tasks):
        can_run = outcomes[task.name].state == "not_run" and task.name in runner.chosen
        waits_for = [name for name in task.needs if outcomes[name].state != "done"]
        if not can_run or task.name in queued or any(name not in queued for name in waits_for):
            continue
        job_id = _submit(task, _command(task, runner, overrides), runner, slurm, [queued[name] for name in waits_for])
        queued[task.name] = job_id
        job_ids.append(job_id)
        write_record(runner.output / task.name, name=task.name, command=list(task.command), job_id=job_id)
        log.info("job %s: %s", job_id, task.name)
    log.info("%d jobs submitted; `squeue` shows them, the same command again shows what is left", len(job_ids))
    return job_ids


def run_in_place(command: Sequence[str]) -> None:
    """Become a command, in the process that SLURM has started: its signals and its exit code are the task's."""
    os.environ["SLURM_JOB_NAME"] = "interactive"  # Lightning starts the processes of several GPUs by itself
    os.execvp(command[0], list(command))


def _command(task: Task, runner: Runner, overrides: Sequence[str]) -> list[str]:
    kept = [word for word in overrides if word.partition("=")[0] not in ("only", "launcher", "dry_run", "output")]
    output = path_option("output", str(runner.output))
    return [*runner.program, "reproduce", *kept, f"only=[{task.name}]", "launcher=local", output]


def _submit(task: Task, command: list[str], runner: Runner, slurm: SlurmOptions, needs: Sequence[str]) -> str:
    import submitit

    more: dict[str, str | int] = {"signal": f"TERM@{_WARNING_S}"}
    if slurm.gpus is not None:
        more["gpus"] = slurm.gpus
    if needs:
        more |= {"dependency": f"afterok:{':'.join(needs)}", "kill-on-invalid-dep": "yes"}
    executor = submitit.SlurmExecutor(runner.output / task.name / JOBS)
    executor.update_parameters(
        job_name=task.name,
        partition=slurm.partition,
        time=slurm.time,
        cpus_per_task=slurm.cpus,
        additional_parameters=more,
        # sbatch reads options until the first line that is neither comment nor empty
        setup=[*([f"#SBATCH {shlex.join(slurm.options)}"] if slurm.options else []), *slurm.setup],
        # one process, whatever the job has room for; since SLURM 22.05 srun asks anew for its cores
        srun_args=["--ntasks=1", "--nodes=1", *([f"--cpus-per-task={slurm.cpus}"] if slurm.cpus else [])],
        stderr_to_stdout=True,
    )
    try:
        return executor.submit(run_in_place, command).job_id
    except submitit.core.utils.FailedJobError as error:
        said = (str(error).strip() or "nothing").splitlines()[-1]
        raise ValueError(f"sbatch refused {task.name}: {said}") from error


def _check_is_cluster() -> None:
    if importlib.util.find_spec("submitit") is None:
        raise ValueError("launcher=slurm needs submitit: pip install 'qinco_lit[slurm]'")
    for name in ("sbatch", "srun", "squeue"):
        if shutil.which(name) is None:
            raise FileNotFoundError(
                f"launcher=slurm needs `{name}`, which is not on the PATH: run it on a login node of the cluster"
            )


def _queued(tasks: Sequence[Task], runner: Runner) -> dict[str, str]:
    """Return the job ids of tasks that were submitted before and are still in the queue, by name."""
    records = {task.name: read_json(runner.output / task.name / RECORD) or {} for task in tasks}
    submitted = {name: str(record["job_id"]) for name, record in records.items() if record.get("job_id")}
    if not submitted:
        return {}
    # not submitit's sacct: it needs a database that not every cluster has
    done = subprocess.run(["squeue", "--me", "--noheader", "--format=%i"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise ValueError(f"squeue failed: {said}")
    alive = set(done.stdout.split())
    return {name: job_id for name, job_id in submitted.items() if job_id in alive}
