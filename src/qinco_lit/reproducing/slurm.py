"""Tasks as jobs of a SLURM cluster: one sbatch each, with what it needs as dependencies."""

import logging
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qinco_lit.atomic import write_atomically
from qinco_lit.reproducing.engine import Engine
from qinco_lit.reproducing.state import RECORD, read_json, write_record
from qinco_lit.reproducing.tasks import Task, by_cost, path_option

log = logging.getLogger(__name__)

SCRIPT = "task.sbatch"
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

    def words(self) -> list[str]:
        """Return the options as words for sbatch."""
        named = {"partition": self.partition, "time": self.time, "gpus": self.gpus, "cpus-per-task": self.cpus}
        return [*(f"--{name}={value}" for name, value in named.items() if value is not None), *self.options]


def submit(engine: Engine, slurm: SlurmOptions, overrides: Sequence[str]) -> list[str]:
    """Submit every chosen task that is not done and not in the queue; return the ids of the jobs, in order of cost.

    A job runs `qinco reproduce` for its one task: it continues what an earlier job left, waits for none, and
    brings results and report up to date. It depends on the jobs of what it needs (afterok).

    Args:
        engine: the tasks and their folder.
        slurm: how.
        overrides: what the user typed, repeated by the jobs but for what chooses and launches.

    Raises:
        FileNotFoundError: no sbatch here.
        ValueError: sbatch refused a job, in its words.
    """
    outcomes = engine.outcomes()
    queued = _queued([task for task in engine.tasks if outcomes[task.name].state == "not_run"], engine.output)
    job_ids: list[str] = []
    for task in by_cost(engine.tasks):
        can_run = outcomes[task.name].state == "not_run" and task.name in engine.chosen
        waits_for = [name for name in task.needs if outcomes[name].state != "done"]
        if not can_run or task.name in queued or any(name not in queued for name in waits_for):
            continue
        script = engine.output / task.name / SCRIPT
        write_atomically(script, _script(task, engine, slurm, overrides))
        job_id = _sbatch(task, script, slurm, [queued[name] for name in waits_for])
        queued[task.name] = job_id
        job_ids.append(job_id)
        write_record(engine.output / task.name, name=task.name, command=list(task.command), job_id=job_id)
        log.info("job %s: %s", job_id, task.name)
    log.info("%d jobs submitted; `squeue` shows them, the same command again shows what is left", len(job_ids))
    return job_ids


def _script(task: Task, engine: Engine, slurm: SlurmOptions, overrides: Sequence[str]) -> str:
    kept = [word for word in overrides if word.partition("=")[0] not in ("only", "launcher", "dry_run", "output")]
    words = ["reproduce", *kept, f"only=[{task.name}]", "launcher=local", path_option("output", str(engine.output))]
    return "\n".join(
        [
            "#!/bin/bash",
            f"# {shlex.join(['qinco', *task.words(str(engine.output))])}",
            *slurm.setup,
            "export SLURM_JOB_NAME=interactive  # Lightning starts the processes of several GPUs by itself",
            f"cd {shlex.quote(str(Path.cwd()))}",
            f"exec {shlex.join([*engine.program, *words])}",  # SLURM's signals reach qinco, not a shell
            "",
        ]
    )


def _sbatch(task: Task, script: Path, slurm: SlurmOptions, needs: Sequence[str]) -> str:
    words = [
        "sbatch",
        "--parsable",
        f"--job-name={task.name}",
        f"--output={script.parent}/slurm-%j.log",
        f"--signal=B:TERM@{_WARNING_S}",
        *slurm.words(),
    ]
    if needs:
        words += [f"--dependency=afterok:{':'.join(needs)}", "--kill-on-invalid-dep=yes"]
    done = _call([*words, str(script)])
    if done.returncode != 0:
        raise ValueError(f"sbatch refused {task.name}: {_said(done)}")
    return done.stdout.strip().partition(";")[0]


def _queued(tasks: Sequence[Task], output: Path) -> dict[str, str]:
    """Return the job ids of tasks that were submitted before and are still in the queue, by name."""
    records = {task.name: read_json(output / task.name / RECORD) or {} for task in tasks}
    submitted = {name: str(record["job_id"]) for name, record in records.items() if record.get("job_id")}
    if not submitted:
        return {}
    done = _call(["squeue", "--me", "--noheader", "--format=%i"])
    if done.returncode != 0:
        raise ValueError(f"squeue failed: {_said(done)}")
    alive = set(done.stdout.split())
    return {name: job_id for name, job_id in submitted.items() if job_id in alive}


def _call(words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"launcher=slurm needs `{words[0]}`, which is not on the PATH: run it on a login node of the cluster"
        ) from None


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
