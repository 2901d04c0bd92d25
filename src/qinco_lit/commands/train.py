"""`train`: fit a quantizer to a data set, resumable, ending in a codec."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule

from qinco_lit.training.job import train_in_folder


def train(
    config: Mapping[str, Any],
    *,
    data: LightningDataModule,
    run_dir: Path,
    resume: bool,
    overwrite: bool,
    overrides: Sequence[str],
) -> float:
    """Train as configured, and return the best validation MSE.

    Args:
        config: the resolved configuration, which the run folder records.
        data: the data module of `config["data"]`.
        run_dir, resume, overwrite, overrides: as of `train_in_folder`.
    """
    coarse = config.get("coarse") or {}
    centroids = coarse.get("centroids")
    return train_in_folder(
        data=data,
        model=config["model"],
        centroids_path=None if centroids is None else Path(centroids),
        num_lists=coarse.get("num_lists"),
        recipe=config["recipe"],
        trainer=config["trainer"],
        logger=config.get("logger"),
        seed=config["seed"],
        run_dir=run_dir,
        resume=resume,
        overwrite=overwrite,
        config=config,
        overrides=overrides,
        advice=f"go on with: qinco train resume={run_dir}",
    )
