"""One W&B run per training, offline unless asked otherwise, never prompting."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast
from uuid import uuid4

from pytorch_lightning.loggers import Logger, WandbLogger

from qinco_lit.training.run_log import read_summary, write_summary


def start_wandb(
    run_dir: Path,
    *,
    config: Mapping[str, Any],
    project: str,
    entity: str | None,
    group: str | None,
    job_type: str,
    tags: Sequence[str],
    mode: str,
) -> Logger:
    """Open (or, for a resumed folder, go on with) the run's W&B record.

    Args:
        run_dir: the run's folder; the W&B files lie in it.
        config: the resolved configuration, recorded as flat dotted keys.
        project, entity, group, job_type, tags: how W&B files the run.
        mode: offline, online or disabled; the environment's WANDB_MODE goes first.

    Call it on rank 0 only.

    Raises:
        ValueError: W&B refuses, for instance online without a login.
    """
    import wandb

    run_id = str(read_summary(run_dir).get("wandb_id") or uuid4().hex[:8])
    chosen = os.environ.get("WANDB_MODE", mode)
    try:
        # opened here and not by WandbLogger, which passes an option that W&B complains about on the terminal
        run = wandb.init(
            name="/".join(run_dir.parts[-3:]),
            dir=str(run_dir),
            config=flatten(config),
            project=project,
            entity=entity,
            group=group,
            job_type=job_type,
            tags=list(tags),
            id=run_id,
            resume="allow",
            allow_val_change=True,
            mode=cast("Literal['online', 'offline', 'disabled', 'shared']", chosen),
            settings=wandb.Settings(silent=True),
        )
    except wandb.Error as error:
        raise ValueError(f"W&B in mode {chosen}: {error} (logger.mode=offline needs no login)") from error
    run.define_metric("trainer/global_step")
    run.define_metric("val/mse", summary="min", step_metric="trainer/global_step")
    write_summary(run_dir, wandb_id=run_id)
    return WandbLogger(experiment=run, log_model=False)


def finish_wandb(loggers: Iterable[Logger], *, failed: bool) -> None:
    """Close the record, so that the next job of a multirun gets its own; a failed job shows as failed."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=1 if failed else 0)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys; W&B then filters and groups by every option."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
