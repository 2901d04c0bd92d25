"""`reproduce`: run the experiments of the papers, resumable, and report ours next to the published numbers."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qinco_lit.options import unknown
from qinco_lit.reproducing.choose import choose
from qinco_lit.reproducing.engine import Engine, Stop
from qinco_lit.reproducing.listing import counted, failures, listed, typed_data_dir
from qinco_lit.reproducing.process import QINCO
from qinco_lit.reproducing.results import write_results
from qinco_lit.reproducing.scale import DatasetSpec, Scale, read_scale
from qinco_lit.reproducing.slurm import SlurmOptions, submit
from qinco_lit.reproducing.tasks import expand

log = logging.getLogger(__name__)

LAUNCHERS = ("local", "slurm")
# The options of a data set -> how to get it, in one line; None where it is there or makes itself.
FindMissing = Callable[[Sequence[str]], str | None]


def reproduce(
    *,
    scale: Mapping[str, Any],
    scale_name: str,
    output: Path,
    only: Sequence[str] = (),
    dry_run: bool = False,
    launcher: str = "local",
    slurm: Mapping[str, Any] | None = None,
    find_missing: FindMissing,
    environment: Mapping[str, str],
    overrides: Sequence[str] = (),
    program: Sequence[str] | None = None,
) -> None:
    """Run the tasks of a scale that are not done, then write `results.json` and the report.

    Args:
        scale: data sets, methods, experiments (conf/scale, `Scale`).
        scale_name: in results and report.
        output: folder of all tasks.
        only: words that choose tasks (`choose`).
        dry_run: list the tasks instead; nothing is written.
        launcher: local, or slurm: submit the tasks and return.
        slurm: fields of `SlurmOptions`.
        find_missing: is asked about the options of each data set; nothing is ever downloaded.
        environment: variables of every task, in addition to this process's.
        overrides: what the user typed, for tasks that a cluster starts later.
        program: what `qinco` is; None: this one.

    Raises:
        ValueError: an impossible scale or choice.
        KeyboardInterrupt: SIGINT or SIGTERM; the running task saved what it could, results and report are written.
        SystemExit: with 1, when a task failed or its folder holds something else.
    """
    described = read_scale(scale)
    tasks = expand(described)
    chosen = choose(tasks, only)
    missing = _missing(described, {task.dataset for task in tasks if task.name in chosen}, find_missing)
    data_dir = typed_data_dir(environment)
    engine = Engine(tasks, output, chosen, missing, program or QINCO, environment)
    outcomes = engine.outcomes()
    for name in sorted({task.dataset for task in tasks if outcomes[task.name].state == "missing_data"}):
        log.warning("data set %s is missing: %s", name, missing[name])
    if dry_run:
        sys.stdout.write(listed(tasks, outcomes, output, described.hardware, data_dir) + "\n")
        return
    stop = Stop()
    try:
        if launcher == "slurm":
            submit(engine, SlurmOptions(**(slurm or {})), overrides)
        else:
            with stop.on_signals():
                engine.run(stop)
    finally:
        outcomes = engine.outcomes()
        write_results(tasks, outcomes, output, scale_name=scale_name, hardware=described.hardware, data_dir=data_dir)
    log.info("%s", counted(tasks, outcomes, described.hardware))
    for line in failures(outcomes):
        log.error("failed: %s", line)
    log.info("report: %s", output / "report.html")
    if stop():
        raise KeyboardInterrupt
    if any(outcomes[name].state == "failed" for name in chosen):
        raise SystemExit(1)


def check_launcher(name: str) -> None:
    """Raise ValueError for a launcher that does not exist."""
    if name not in LAUNCHERS:
        raise unknown("choice", f"launcher={name}", LAUNCHERS)


def _missing(scale: Scale, names: set[str], find_missing: FindMissing) -> dict[str, str]:
    datasets: dict[str, DatasetSpec] = {name: spec for name, spec in scale.datasets.items() if name in names}
    found = {name: find_missing(spec.options) for name, spec in datasets.items()}
    return {name: how for name, how in found.items() if how is not None}
