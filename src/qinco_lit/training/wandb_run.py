"""One W&B run per job, offline unless asked otherwise, never prompting."""

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast
from uuid import uuid4

from pytorch_lightning.loggers import Logger, WandbLogger

from qinco_lit.atomic import write_atomically
from qinco_lit.training.run_log import read_summary

# 255: what W&B itself records for a Ctrl-C
EXIT_CODES = {"finished": 0, "failed": 1, "interrupted": 255}
_MAX_NAME = 128  # characters that W&B takes
_IDENTITY = "wandb.json"  # in the run folder: what a resumed run goes on under


def start_wandb(
    run_dir: Path,
    *,
    config: Mapping[str, Any],
    project: str,
    entity: str | None,
    group: str | None,
    job_type: str | None,
    tags: Sequence[str],
    mode: str,
    name: str | None = None,
) -> WandbLogger:
    """Open (or, for a resumed folder, go on with) the run's W&B record.

    Args:
        run_dir: the run's folder; the W&B files lie in it.
        config: the resolved configuration, recorded as flat dotted keys without those of the logger.
        project, entity, group, job_type, tags, name: how W&B files the run; a resumed one keeps its group and name.
            A run of a W&B sweep (`wandb agent`) has the sweep's project and entity.
        mode: offline, online or disabled; the environment's WANDB_MODE goes first.

    Call it on rank 0 only; `wandb_id` tells the run's id.

    Raises:
        ValueError: W&B refuses, for instance online without a login.
    """
    import wandb

    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it says so each time that W&B's service cannot be reached
    earlier = _identity(run_dir)
    filed: dict[str, Any] = {"id": earlier.get("id") or uuid4().hex[:8], "project": project, "entity": entity}
    if in_wandb_sweep():
        filed = {}  # the agent says, and W&B complains about another opinion
    group, name = earlier.get("group", group), earlier.get("name", name) or "/".join(run_dir.parts[-3:])
    chosen = os.environ.get("WANDB_MODE", mode)
    try:
        # opened here and not by WandbLogger, which passes an option that W&B complains about on the terminal
        run = wandb.init(
            **filed,
            name=name[:_MAX_NAME],
            dir=str(run_dir),
            config=flatten({key: value for key, value in config.items() if key != "logger"}),
            group=group,
            job_type=job_type,
            tags=list(tags),
            resume="allow",
            allow_val_change=True,
            mode=cast("Literal['online', 'offline', 'disabled', 'shared']", chosen),
            settings=wandb.Settings(silent=True),
        )
    except wandb.Error as error:
        raise ValueError(f"W&B in mode {chosen}: {error} (logger.mode=offline needs no login)") from error
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    run.define_metric("val/mse", summary="min", step_metric="trainer/global_step", step_sync=True)
    write_atomically(run_dir / _IDENTITY, json.dumps({"id": run.id, "group": group, "name": name}, indent=2) + "\n")
    return WandbLogger(experiment=run, log_model=False)


def wandb_id(run_dir: Path) -> str | None:
    """The id under which W&B knows the run of a folder; None where there is none."""
    return _identity(run_dir).get("id")


def in_wandb_sweep() -> bool:
    """Whether `wandb agent` started this process."""
    return "WANDB_SWEEP_ID" in os.environ


def finish_wandb(loggers: Iterable[Logger], *, state: str, summary: Mapping[str, Any] | None = None) -> None:
    """Close the record, so that the next job of a multirun gets its own.

    Args:
        loggers: those of W&B among them are closed.
        state: finished, failed or interrupted.
        summary: plain values for the run's row in W&B's tables.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({"state": state, **(summary or {})})
            logger.experiment.finish(exit_code=EXIT_CODES[state])


def log_codec(loggers: Iterable[Logger], codec_dir: Path, metadata: Mapping[str, Any]) -> None:
    """Record a codec folder as an artifact of type `codec` of the run; offline it waits for `wandb sync`."""
    import wandb

    for logger in loggers:
        if isinstance(logger, WandbLogger) and not logger.experiment.disabled:
            run = logger.experiment
            artifact = wandb.Artifact(artifact_name(run.name or "run", run.id), type="codec", metadata=dict(metadata))
            for file in sorted(
                path for path in codec_dir.rglob("*") if path.is_file()
            ):  # add_dir talks on the terminal
                artifact.add_file(str(file), name=file.relative_to(codec_dir).as_posix())
            run.log_artifact(artifact)


def artifact_name(run_name: str, run_id: str) -> str:
    """A name that W&B takes (letters, digits, `.`, `_` and `-`; at most 128) and that no other run has."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", run_name).strip("-.")
    return f"codec-{readable[: _MAX_NAME - len(run_id) - 7]}-{run_id}"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys; W&B then filters and groups by every option."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _identity(run_dir: Path) -> dict[str, Any]:
    path = run_dir / _IDENTITY
    if path.is_file():
        identity: dict[str, Any] = json.loads(path.read_text())
        return identity
    recorded = read_summary(run_dir).get("wandb_id")  # of runs from before there was the file
    return {"id": recorded} if recorded else {}
