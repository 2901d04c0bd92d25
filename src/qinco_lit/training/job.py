"""A training in its run folder: from a data set to a codec, resumable."""

import logging
import math
import signal
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float32
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import LambdaCallback

from qinco_lit.coarse.assignment import FrozenLists, list_assigner
from qinco_lit.coarse.centroids import check_num_rows, train_centroids
from qinco_lit.codec import Codec
from qinco_lit.mistakes import in_one_line
from qinco_lit.options import Count, Range, in_range
from qinco_lit.progress import shown
from qinco_lit.published import read_centroids
from qinco_lit.quantizers import Quantizer, build_quantizer
from qinco_lit.run_folder import BEFORE_EPOCHS, measured
from qinco_lit.training.baselines import baselines_of, with_baselines
from qinco_lit.training.checkpoints import BestModel, LastCheckpoint, TrainingInterruptedError
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.progress import Reporter
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.run_folder import check_folder, only_trainer
from qinco_lit.training.run_log import JsonLinesLogger, RunRecord, read_summary
from qinco_lit.training.start import initialize
from qinco_lit.training.trainer import make_trainer, quiet_lightning, seconds_between, signals_given_back
from qinco_lit.training.wandb_run import finish_wandb, in_wandb_sweep, log_codec, start_wandb, wandb_id
from qinco_lit.vectors import as_vectors_file
from qinco_lit.vectors.code_info import check_centroids_reading

log = logging.getLogger(__name__)

_PRESELECTOR_ROWS = 1024


@in_range
def train_in_folder(
    *,
    data: LightningDataModule,
    model: Mapping[str, Any],
    centroids_path: Path | None = None,
    num_lists: Count | None = None,
    recipe: Mapping[str, Any],
    trainer: Mapping[str, Any],
    logger: Mapping[str, Any] | None = None,
    seed: Annotated[int, Range(0, (1 << 32) - 1)],
    run_dir: Path,
    resume: bool,
    overwrite: bool = False,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    advice: str | None = None,
) -> float:
    """Train, write `run_dir/codec`, return the best validation MSE (raw space, sum over dimensions).

    Args:
        data: a data module with `dim` and `train_vectors` after setup (docs/architecture.md).
        model: arguments of `build_quantizer` but `dim` and `num_lists`.
        centroids_path: npy file of coarse centroids, in raw space: trains an IVF model.
        num_lists: trains an IVF model whose centroids are found first, by k-means of the training vectors, and kept in
            `run_dir/coarse/centroids.npy`.
        recipe: fields of `Recipe`.
        trainer: arguments of `pl.Trainer`, plus `checkpoint_every_s`.
        logger: arguments of `start_wandb` and `log_codec` (whether the codec becomes an artifact), None for no W&B.
        seed: of weights, order and k-means.
        run_dir: where everything is written.
        resume: go on from `run_dir/checkpoints/last.ckpt`, or from the beginning where there is none yet.
        overwrite: begin anew where a training is finished or could go on; what it has made is removed.
        config, overrides: the resolved configuration and what the user typed, for the record.
        advice: what a user is told who has interrupted it; None: nothing, and a second signal does not end the process.

    Raises:
        ValueError, FileNotFoundError: the user's mistakes, in one line; a folder that is not free among them.
        KeyboardInterrupt: SIGINT or SIGTERM; the checkpoint to resume from is written.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = last if resume and last.is_file() else None
    if resume and checkpoint is None:
        if read_summary(run_dir).get("state") == "finished":
            raise FileNotFoundError(f"cannot resume {run_dir}: {last}, which a finished run has, does not exist")
        log.info("%s ended before its first checkpoint: it begins again", run_dir)
    if checkpoint is not None and not zipfile.is_zipfile(checkpoint):
        raise ValueError(f"cannot resume {run_dir}: {checkpoint} is damaged; restore it, or begin in another folder")
    quiet_lightning()
    typed_recipe, reports = Recipe(**recipe), JsonLinesLogger(run_dir / "metrics.jsonl")
    best = BestModel(run_dir / "checkpoints" / "best.ckpt", patience_epochs=typed_recipe.patience_epochs)
    every_s = seconds_between(trainer["checkpoint_every_s"])
    kept = LastCheckpoint(last, every_s=every_s, reports=reports, ends_process=advice is not None)
    is_shown = bool(trainer.get("enable_progress_bar", True))
    # `kept` is the last of all, so that it keeps the state the others have reached
    callbacks = [Reporter(show=is_shown), best, kept]
    fitter = make_trainer(trainer, run_dir=run_dir, logger=reports, callbacks=callbacks)
    check_folder(run_dir, resume=resume, overwrite=overwrite)
    given = None if centroids_path is None else read_centroids(centroids_path)
    data.prepare_data()
    data.setup("fit")
    rows: Any = data.train_vectors  # type: ignore[attr-defined]
    if centroids_path is not None and given is not None:
        _check_centroids(centroids_path, given, data)
        num_lists = len(given)
    elif num_lists is not None:
        rows = as_vectors_file(rows, "train_vectors")
        check_num_rows(rows, num_lists, len(rows))
    sizes = typed_recipe.trained_model({**model, "num_lists": num_lists})
    quantizer = build_quantizer(data.dim, **sizes)  # type: ignore[attr-defined]
    validates = checkpoint is None and fitter.limit_val_batches and not fitter.fast_dev_run  # type: ignore[attr-defined]
    baselines = baselines_of(quantizer, typed_recipe, len(data.train_vectors)) if validates else ()  # type: ignore[attr-defined]

    def prepared(centroids_file: Path | None) -> QuantizerTraining:
        """The module; the centroids of its lists are given, or kept in a file when they are found."""
        device, centroids = fitter.strategy.root_device, given
        if num_lists is not None and centroids is None:
            if checkpoint is not None and centroids_file is not None and centroids_file.is_file():
                centroids = read_centroids(centroids_file)
            else:
                if centroids_file is not None:
                    centroids_file.parent.mkdir(parents=True, exist_ok=True)
                centroids = train_centroids(
                    rows, num_lists, output=centroids_file, seed=seed,
                    device=str(device) if device.type == "cuda" else "cpu",
                    progress=is_shown and fitter.is_global_zero, makes_output=fitter.is_global_zero,
                )  # fmt: skip
        lists = None
        if centroids is not None:
            with shown("graph over the centroids", show=is_shown and fitter.is_global_zero):
                lists = FrozenLists(centroids, list_assigner(centroids, rows, device), device)
        start = partial(initialize, recipe=typed_recipe, seed=seed, lists=lists, show_progress=is_shown)
        begin, as_baselines = with_baselines(start, baselines, lists=lists, show_progress=is_shown)
        return QuantizerTraining(
            quantizer, typed_recipe, start=begin, baselines=as_baselines, seed=seed, lists=lists,
            num_rows=len(data.train_vectors),  # type: ignore[attr-defined]
        )  # fmt: skip

    if fitter.fast_dev_run:  # type: ignore[attr-defined]
        return _dry_run(fitter, prepared(None), data)
    facts: dict[str, Any] = {"seed": seed, "parameters": _num_parameters(quantizer), "reason": None, "baseline": None}
    # everything before may be refused
    with only_trainer(run_dir, resume=resume, overwrite=overwrite), signals_given_back():
        job = _Job(fitter, prepared(run_dir / "coarse" / "centroids.npy"), data, best, kept, is_shown)
        codec_artifact = False
        if logger is not None and fitter.is_global_zero:
            options = {name: value for name, value in logger.items() if name != "log_codec"}
            fitter.loggers.append(start_wandb(run_dir, config=config, **options))
            codec_artifact = bool(logger.get("log_codec"))
            facts["wandb_id"] = wandb_id(run_dir)
        record = RunRecord(run_dir, resume=resume, config=config, overrides=overrides, facts=facts)
        return _fit(job, record, run_dir, checkpoint, codec_artifact=codec_artifact, advice=advice)


def _check_centroids(path: Path, centroids: Float32[np.ndarray, "lists dim"], data: Any) -> None:
    """Refuse centroids of another reading, or of another data set."""
    check_centroids_reading(path, data)
    if centroids.shape[1] != data.dim:
        given = f"coarse.centroids={path} has dimension {centroids.shape[1]}"
        raise ValueError(f"{given}, the training vectors have {data.dim}: give centroids of this data set")


def _dry_run(fitter: Trainer, module: QuantizerTraining, data: LightningDataModule) -> float:
    try:
        fitter.fit(module, datamodule=data)
    except TrainingInterruptedError as interruption:
        raise KeyboardInterrupt from interruption
    log.info("fast_dev_run: training and validation went through; nothing is kept")
    return math.nan


@dataclass(frozen=True)
class _Job:
    """A training, and what it keeps."""

    fitter: Trainer
    module: QuantizerTraining
    data: LightningDataModule
    best: BestModel
    kept: LastCheckpoint
    is_shown: bool

    def fit(self, checkpoint: Path | None) -> None:
        """Train, from the beginning or from a checkpoint on; the weights at the end have been validated."""
        # given beforehand, the module knows at its setup that it need not be initialised
        self.fitter.ckpt_path = None if checkpoint is None else str(checkpoint)
        self._validate_baselines()
        self.fitter.fit(self.module, datamodule=self.data)
        if self.fitter.limit_val_batches and self.best.validated_step != self.fitter.global_step:
            self.kept.forget_later_reports()  # of this validation, when the run was resumed to the same end
            self.fitter.validate(self.module, datamodule=self.data, verbose=False)

    def _validate_baselines(self) -> None:
        """What the epochs must beat; the best of them is the best model until one does, and is reported as an epoch."""
        found: dict[str, dict[str, float]] = {}
        for baseline in self.module.baselines:
            self.module.baseline = baseline
            self.fitter.validate(self.module, datamodule=self.data, verbose=False)
            found[baseline] = self.module.validation
        self.module.baseline, self.module.validation = None, {}
        if found:
            best = min(found.values(), key=lambda figures: figures["val/mse"])
            errors = {f"val/mse_{baseline}": figures["val/mse"] for baseline, figures in found.items()}
            for logger in self.fitter.loggers:
                logger.log_metrics({**best, **errors, "epoch": BEFORE_EPOCHS}, step=0)

    @property
    def best_mse(self) -> float:
        """NaN where nothing was validated."""
        return math.nan if self.best.mse is None else self.best.mse


def _fit(
    job: _Job, record: RunRecord, run_dir: Path, checkpoint: Path | None, *, codec_artifact: bool, advice: str | None
) -> float:
    fitter = job.fitter
    if fitter.is_global_zero and checkpoint is None:
        job.kept.reports.cut(0)
        record.begin()
    elif fitter.is_global_zero:  # what cannot be resumed is refused before that
        fitter.callbacks.append(LambdaCallback(on_train_start=lambda *_: record.begin()))  # type: ignore[attr-defined]
    state, reason = "failed", None
    try:
        job.fit(checkpoint)
        if fitter.is_global_zero:
            some = job.data.train_vectors[:_PRESELECTOR_ROWS]  # type: ignore[attr-defined]
            best_file = None if job.best.mse is None else run_dir / "checkpoints" / "best.ckpt"
            with shown("writing the codec", show=job.is_shown):
                _write_codec(job.module.quantizer, best_file, some, run_dir / "codec")
        if codec_artifact:
            metadata = {"best_val_mse": job.best.mse, **job.module.quantizer.config}
            log_codec(fitter.loggers, run_dir / "codec", metadata)
        state = "finished"
    except TrainingInterruptedError as interruption:
        state = "interrupted"
        if advice is not None and in_wandb_sweep() and interruption.signal_number == signal.SIGTERM:
            # a sweep ends runs that promise little this way; its agent takes other exit codes than 0 for failures
            log.info("ended early by the W&B sweep")
            return job.best_mse
        if advice is not None:
            log.warning("interrupted; %s", advice)
        raise KeyboardInterrupt(signal.Signals(interruption.signal_number).name) from interruption
    except SystemExit as exit_:  # Lightning turns a Ctrl-C outside the training loop into this
        state = "interrupted"
        raise KeyboardInterrupt from exit_
    except Exception as error:
        reason = in_one_line(error)
        raise
    finally:
        if fitter.is_global_zero:
            done = {"epochs": fitter.current_epoch, "steps": fitter.global_step}
            best = {"best_val_mse": job.best.mse, "baseline": job.best.baseline}
            try:
                record.end(state, {**done, **best, **measured(run_dir / "metrics.jsonl"), "reason": reason})
            except OSError as error:  # not instead of what has ended the training
                if reason is None:
                    raise
                log.warning("%s", in_one_line(error))
        finish_wandb(fitter.loggers, state=state, summary=_wandb_summary(run_dir))
    if fitter.is_global_zero:
        told = "not validated" if job.best.mse is None else f"validation MSE {job.best.mse:.6g}"
        if job.best.baseline is not None:
            told += f", that of {job.best.baseline.upper()}, which no epoch was below"
        log.info("%s; codec: %s", told, run_dir / "codec")
    return job.best_mse


def _wandb_summary(run_dir: Path) -> dict[str, Any]:
    """What W&B's table of runs shows of a training: the best epoch's validation, and what it cost."""
    summary = read_summary(run_dir)
    best = summary.get("best_metrics", {})
    figures = {f"best/{name.removeprefix('val/')}": value for name, value in best.items() if name.startswith("val/")}
    told = ("best_epoch", "wall_s", "parameters", "epochs", "reason")
    return {**figures, **{name: summary[name] for name in told if summary.get(name) is not None}}


def _write_codec(quantizer: Quantizer, best: Path | None, some_vectors: Any, target: Path) -> None:
    """Of the best model, or of the last one, where none was validated."""
    quantizer.cpu()
    if best is not None:
        checkpoint = torch.load(best, map_location="cpu", weights_only=True)
        prefix = "quantizer."
        state = {
            name.removeprefix(prefix): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(prefix)
        }
        own = quantizer.state_dict()
        quantizer.load_state_dict({name: state.get(name, own[name]) for name in own})
    codec = Codec(quantizer)
    if quantizer.default_search.tries_all:  # QINCo1: lets `num_candidates` be chosen at encoding time
        log.info("fitting a pre-selector on %d vectors", len(some_vectors))
        codec.fit_preselector(some_vectors)
    codec.save(target)


def _num_parameters(quantizer: Quantizer) -> int:
    """Of the model as published, where it tries all codewords: its pre-selectors only save time."""
    unused = "preselector" if quantizer.default_search.tries_all else None
    return sum(each.numel() for name, each in quantizer.named_parameters() if name.rpartition(".")[2] != unused)
