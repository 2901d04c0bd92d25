"""`train`: fit a quantizer to a data set, resumable, ending in a codec."""

import logging
import math
import signal
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from torch import Tensor

from qinco_lit.arrays import AssignLists
from qinco_lit.codec import Codec
from qinco_lit.commands.lists import list_assigner
from qinco_lit.commands.readings import check_centroids_reading
from qinco_lit.mistakes import in_one_line
from qinco_lit.published import read_centroids
from qinco_lit.quantizers import QINCo, Quantizer, build_quantizer
from qinco_lit.quantizers.kmeans import nearest_codeword
from qinco_lit.training.best_epoch import best_epoch
from qinco_lit.training.callbacks import LastCheckpoint, Reporter, TrainingInterruptedError
from qinco_lit.training.initialization import check_rows, kmeans_codebooks
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.run_folder import only_trainer
from qinco_lit.training.run_log import JsonLinesLogger, RunRecord, read_summary
from qinco_lit.training.start import InitialCodebooks
from qinco_lit.training.wandb_run import finish_wandb, in_wandb_sweep, log_codec, start_wandb, wandb_id

log = logging.getLogger(__name__)

_PRESELECTOR_ROWS = 1024


def train(
    *,
    data: LightningDataModule,
    model: Mapping[str, Any],
    centroids_path: Path | None = None,
    recipe: Mapping[str, Any],
    trainer: Mapping[str, Any],
    logger: Mapping[str, Any] | None,
    seed: int,
    run_dir: Path,
    resume: bool,
    config: Mapping[str, Any],
    overrides: Sequence[str],
) -> float:
    """Train, write `run_dir/codec`, return the best validation MSE (raw space, sum over dimensions).

    Args:
        data: a data module with `dim` and `train_vectors` after setup (docs/architecture.md).
        model: arguments of `build_quantizer` but `dim` and `num_lists`.
        centroids_path: npy file of coarse centroids, in raw space: trains an IVF model.
        recipe: fields of `Recipe`.
        trainer: arguments of `pl.Trainer`, plus `checkpoint_every_s`.
        logger: arguments of `start_wandb` and `log_codec` (whether the codec becomes an artifact), None for no W&B.
        seed: of weights and order.
        run_dir: where everything is written.
        resume: go on from `run_dir/checkpoints/last.ckpt`.
        config, overrides: the resolved configuration and what the user typed, for the record.

    Raises:
        ValueError, FileNotFoundError: the user's mistakes, in one line.
        KeyboardInterrupt: SIGINT or SIGTERM; the checkpoint to resume from is written.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise FileNotFoundError(
            f"cannot resume {run_dir}: {last} does not exist (the run ended before its first checkpoint)"
        )
    quiet_lightning()
    typed_recipe = Recipe(**recipe)
    fitter = _trainer(dict(trainer), typed_recipe, run_dir)
    module = _module(data, model, centroids_path, typed_recipe, seed, fitter.strategy.root_device)
    facts: dict[str, Any] = {"seed": seed, "parameters": _num_parameters(module.quantizer), "reason": None}
    with only_trainer(run_dir):  # everything before may be refused
        codec_artifact = False
        if logger is not None and fitter.is_global_zero:
            options = {name: value for name, value in logger.items() if name != "log_codec"}
            fitter.loggers.append(start_wandb(run_dir, config=config, **options))
            codec_artifact = bool(logger.get("log_codec"))
            facts["wandb_id"] = wandb_id(run_dir)
        record = RunRecord(run_dir, resume=resume, config=config, overrides=overrides, facts=facts)
        return _fit(fitter, module, data, record, run_dir, last if resume else None, codec_artifact=codec_artifact)


def _fit(
    fitter: Trainer,
    module: QuantizerTraining,
    data: LightningDataModule,
    record: RunRecord,
    run_dir: Path,
    checkpoint: Path | None,
    *,
    codec_artifact: bool,
) -> float:
    if fitter.is_global_zero and checkpoint is None:
        record.begin()
    elif fitter.is_global_zero:  # what cannot be resumed is refused before that
        fitter.callbacks.append(LambdaCallback(on_train_start=lambda *_: record.begin()))  # type: ignore[attr-defined]
    state, reason = "failed", None
    try:
        # given beforehand, the module knows at its setup that it need not be initialised
        fitter.ckpt_path = None if checkpoint is None else str(checkpoint)
        fitter.fit(module, datamodule=data)
        if fitter.is_global_zero:
            some = data.train_vectors[:_PRESELECTOR_ROWS]  # type: ignore[attr-defined]
            _write_codec(module.quantizer, run_dir / "checkpoints" / "best.ckpt", some, run_dir / "codec")
        if codec_artifact:
            log_codec(fitter.loggers, run_dir / "codec", {"best_val_mse": _best_mse(fitter), **module.quantizer.config})
        state = "finished"
    except TrainingInterruptedError as interruption:
        state = "interrupted"
        if in_wandb_sweep() and interruption.signal_number == signal.SIGTERM:
            # a sweep ends runs that promise little this way; its agent takes other exit codes than 0 for failures
            log.info("ended early by the W&B sweep")
            return _best_or_nan(fitter)
        log.warning("interrupted; go on with: qinco train resume=%s", run_dir)
        raise KeyboardInterrupt(signal.Signals(interruption.signal_number).name) from interruption
    except SystemExit as exit_:  # Lightning turns a Ctrl-C outside the training loop into this
        state = "interrupted"
        raise KeyboardInterrupt from exit_
    except Exception as error:
        reason = in_one_line(error)
        raise
    finally:
        if fitter.is_global_zero:
            metrics = {name: float(value) for name, value in fitter.callback_metrics.items()}
            done = {"epochs": fitter.current_epoch, "steps": fitter.global_step, "best_val_mse": _best_mse(fitter)}
            best = best_epoch(run_dir / "metrics.jsonl")
            known = {"best_epoch": best.get("epoch"), "best_metrics": best, "reason": reason}
            record.end(state, {**done, "last_metrics": metrics, **known})
        finish_wandb(fitter.loggers, state=state, summary=_wandb_summary(run_dir))
    if fitter.is_global_zero:
        log.info("validation MSE %.6g; codec: %s", _best_or_nan(fitter), run_dir / "codec")
    return _best_or_nan(fitter)


def _wandb_summary(run_dir: Path) -> dict[str, Any]:
    """What W&B's table of runs shows of a training: the best epoch's validation, and what it cost."""
    summary = read_summary(run_dir)
    best = summary.get("best_metrics", {})
    figures = {f"best/{name.removeprefix('val/')}": value for name, value in best.items() if name.startswith("val/")}
    told = ("best_epoch", "wall_s", "parameters", "epochs", "reason")
    return {**figures, **{name: summary[name] for name in told if summary.get(name) is not None}}


def _module(
    data: LightningDataModule,
    model: Mapping[str, Any],
    centroids_path: Path | None,
    recipe: Recipe,
    seed: int,
    device: torch.device,
) -> QuantizerTraining:
    centroids = None if centroids_path is None else read_centroids(centroids_path)
    data.prepare_data()
    data.setup("fit")
    dim: int = data.dim  # type: ignore[attr-defined]
    assign_lists = None
    if centroids_path is not None and centroids is not None:
        check_centroids_reading(centroids_path, data)
        if centroids.shape[1] != dim:
            given = f"coarse.centroids={centroids_path} has dimension {centroids.shape[1]}"
            raise ValueError(f"{given}, the training vectors have {dim}: give centroids of this data set")
        assign_lists = list_assigner(centroids, data.train_vectors, device)  # type: ignore[attr-defined]
    quantizer = build_quantizer(dim, **model, num_lists=None if centroids is None else len(centroids))
    return QuantizerTraining(
        quantizer,
        recipe,
        initial_codebooks=_initial_codebooks(recipe),
        seed=seed,
        centroids=centroids,
        assign_lists=assign_lists,
        train_rotation=partial(
            _rotation,
            part_dims=[part.dim for part in quantizer.parts],
            seed=seed,
            centroids=None if centroids is None else torch.from_numpy(centroids),
            assign_lists=assign_lists,
            device=device,
        ),
    )


def _rotation(
    rows: Shaped[Tensor, "rows dim"],
    *,
    part_dims: list[int],
    seed: int,
    centroids: Float[Tensor, "lists dim"] | None,
    assign_lists: AssignLists | None,
    device: torch.device,
) -> Float[Tensor, "dim dim"]:
    """OPQ of raw training vectors, or of what their centroids leave of them."""
    from qinco_lit.search.rotation import opq_rotation, some_rows

    chosen = some_rows(len(rows), seed)
    x = check_rows(rows[chosen].float(), chosen)
    log.info("OPQ: a rotation for parts of %s dimensions, on %d vectors", ", ".join(map(str, part_dims)), len(x))
    if centroids is not None:
        middle = centroids.mean(0)  # a matrix product compares vectors far from the origin badly
        near = (
            assign_lists(x)
            if assign_lists
            else nearest_codeword((x - middle).to(device), (centroids - middle).to(device)).cpu()
        )
        x = x - centroids[near]
    return torch.from_numpy(opq_rotation(x.numpy(), part_dims, seed=seed))


def _trainer(trainer: dict[str, Any], recipe: Recipe, run_dir: Path) -> Trainer:
    every_s = trainer.pop("checkpoint_every_s")
    every_s = math.inf if every_s is None else every_s
    if trainer.get("precision") is None:
        trainer["precision"] = _precision(str(trainer.get("accelerator")))
    callbacks: list[Callback] = [
        Reporter(show=bool(trainer.pop("enable_progress_bar", True))),
        EarlyStopping("val/mse", patience=recipe.patience_epochs, check_finite=False),
        ModelCheckpoint(
            run_dir / "checkpoints",
            "best",
            monitor="val/mse",
            save_weights_only=True,
            enable_version_counter=False,
        ),
        # the last of all, so that it keeps the state the others have reached
        LastCheckpoint(run_dir / "checkpoints" / "last.ckpt", every_s=every_s),
    ]
    return Trainer(
        **trainer,
        logger=JsonLinesLogger(run_dir / "metrics.jsonl"),
        callbacks=callbacks,
        default_root_dir=run_dir,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _initial_codebooks(recipe: Recipe) -> InitialCodebooks:
    def from_faiss(quantizer: QINCo, x: Tensor, generator: torch.Generator) -> Iterable[Tensor]:
        from qinco_lit.search.residual_codebooks import residual_codebooks

        seed = int(torch.randint(1 << 31, (), generator=generator))
        codebooks = residual_codebooks(x.cpu().numpy(), quantizer.num_steps, quantizer.codebook_size, seed=seed)
        return torch.from_numpy(codebooks).to(x.device)

    if recipe.initial_codebooks == "faiss_rq":
        return from_faiss
    return partial(kmeans_codebooks, iterations=recipe.kmeans_iterations, split_empty=recipe.kmeans_split_empty)


def _precision(accelerator: str) -> str:
    on_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return "bf16-mixed" if trains_in_bfloat16(on_gpu=on_gpu) else "32-true"


def trains_in_bfloat16(*, on_gpu: bool) -> bool:
    """Whether trainer.precision=null means bf16-mixed."""
    return on_gpu and torch.cuda.is_bf16_supported()


def _best_or_nan(fitter: Trainer) -> float:
    best = _best_mse(fitter)
    return math.nan if best is None else best


def _best_mse(fitter: Trainer) -> float | None:
    for callback in fitter.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
            return float(callback.best_model_score)
    return None


def _write_codec(quantizer: Quantizer, best: Path, some_vectors: Any, target: Path) -> None:
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    prefix = "quantizer."
    state = {
        name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)
    }
    own = quantizer.cpu().state_dict()
    quantizer.load_state_dict({name: state.get(name, own[name]) for name in own})
    codec = Codec(quantizer)
    if not quantizer.config["preselector"]:  # QINCo1: lets `num_candidates` be chosen at encoding time
        log.info("fitting a pre-selector on %d vectors", len(some_vectors))
        codec.fit_preselector(some_vectors)
    codec.save(target)


def _num_parameters(quantizer: Quantizer) -> int:
    return sum(parameter.numel() for parameter in quantizer.parameters())


def quiet_lightning() -> None:
    """Keep the adverts and advice of Lightning and faiss off the user's terminal; their errors still raise."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it says which variants it did not find
    # our loaders are one background thread by design, and the process count is the user's choice
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    # validation figures are summed over ranks before they are logged
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")
