"""`reproduce`: run the experiments of the papers, resumable, and report ours next to the published numbers."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qinco_lit.options import unknown
from qinco_lit.reproducing.reproduce import FindMissing, Reproduction
from qinco_lit.reproducing.slurm import SlurmOptions

log = logging.getLogger(__name__)

LAUNCHERS = ("local", "slurm")


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
        scale, output, scale_name, only, find_missing, environment: of `Reproduction`.
        dry_run: list the tasks instead; nothing is written.
        launcher: local, or slurm: submit the tasks and return.
        slurm: fields of `SlurmOptions`.
        overrides: what the user typed, for tasks that a cluster starts later.
        program: what `qinco` is; None: this one.

    Raises:
        ValueError: an impossible scale or choice.
        KeyboardInterrupt: SIGINT or SIGTERM; the running task saved what it could, results and report are written.
        SystemExit: with 1, when a task failed or its folder holds something else.
    """
    reproduction = Reproduction(
        scale, output, scale_name=scale_name, only=only, find_missing=find_missing, environment=environment,
        program=program,
    )  # fmt: skip
    for name, how in reproduction.missing().items():
        log.warning("data set %s is missing: %s", name, how)
    if dry_run:
        sys.stdout.write(reproduction.listing() + "\n")
        return
    if launcher == "slurm":
        outcomes = reproduction.submit(SlurmOptions(**(slurm or {})), overrides)
    else:
        outcomes = reproduction.run()
    if any(outcomes[name].state == "failed" for name in reproduction.runner.chosen):
        raise SystemExit(1)


def check_launcher(name: str) -> None:
    """Raise ValueError for a launcher that does not exist."""
    if name not in LAUNCHERS:
        raise unknown("choice", f"launcher={name}", LAUNCHERS)
