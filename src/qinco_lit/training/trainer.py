"""The pl.Trainer of a training: which of its options a user may give, and what of it is ours."""

import logging
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from qinco_lit.mistakes import in_one_line
from qinco_lit.quantizers.precision import has_fast_bfloat16

_FLOAT32, _BFLOAT16, _FLOAT16 = "32-true", "bf16-mixed", "16-mixed"
_PRECISIONS = (_FLOAT32, _BFLOAT16, _FLOAT16)
_SHORT_PRECISIONS = {"32": _FLOAT32, "bf16": _BFLOAT16, "16": _FLOAT16}
_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
# Options of pl.Trainer that a training cannot take, and why, or what to give instead.
_OURS = {
    "logger": "metrics.jsonl is always written; logger=wandb or logger=none chooses what else is",
    "callbacks": "they are ours; recipe.patience_epochs ends a training early",
    "default_root_dir": "give hydra.run.dir=DIR",
    "enable_checkpointing": "what a run is resumed from is always written; trainer.checkpoint_every_s says how often",
    "use_distributed_sampler": "the data module shares the vectors among the devices",
    "gradient_clip_val": "give recipe.clip_value",
    "gradient_clip_algorithm": "recipe.clip_value clips by value",
    "reload_dataloaders_every_n_epochs": "every epoch goes on in the data where the one before stopped",
    "barebones": "it leaves out checkpoints and reports, which are what a run folder holds",
}
_PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler,
}  # fmt: skip
_LIGHTNING = ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric")
# of faiss: it says which variants it did not find
_QUIET_LOGGERS = {**dict.fromkeys(_LIGHTNING, logging.ERROR), "faiss.loader": logging.WARNING}
_inside_lock, _inside, _noted = threading.Lock(), 0, ExitStack()  # of `settings_kept`
_DEFAULTS = {"num_sanity_val_steps": 0, "enable_model_summary": False}
_AT_LEAST = {
    "max_steps": 1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 0,
    "num_sanity_val_steps": -1, "limit_train_batches": 0, "min_epochs": 0, "min_steps": 0, "checkpoint_every_s": 0,
}  # fmt: skip


def check_trainer(options: Mapping[str, Any], *, schedule: str) -> None:
    """Refuse what would end in a traceback or in another training than was asked for; their types are known to fit.

    Args:
        options: arguments of pl.Trainer, plus `checkpoint_every_s`.
        schedule: of the learning rate, as in `Recipe`.

    Raises:
        ValueError: one line.
    """
    for name, instead in _OURS.items():
        if name in options:
            raise ValueError(f"trainer.{name} is no option of a training: {instead}")
    precision = options.get("precision")
    if precision is not None and _full_name(precision) not in _PRECISIONS:
        known = ", ".join(_PRECISIONS)
        raise ValueError(f"trainer.precision={precision}: weights are kept in float32, give one of {known}")
    profiler = options.get("profiler")
    if profiler is not None and profiler not in _PROFILERS:
        raise ValueError(f"trainer.profiler={profiler}: give one of {', '.join(_PROFILERS)}")
    strategy = options.get("strategy", "auto")
    if strategy not in _STRATEGIES:
        raise ValueError(f"trainer.strategy={strategy}: give auto (ddp with more than one device) or ddp")
    for name, least in _AT_LEAST.items():
        value = options.get(name)
        if value is not None and value < least and not (name == "max_steps" and value == -1):
            raise ValueError(f"trainer.{name}={value}: give at least {least}")
    if options.get("val_check_interval", 1) == 0:
        raise ValueError("trainer.val_check_interval=0: for no validation give trainer.limit_val_batches=0")
    epochs = options.get("max_epochs")
    if epochs is None or epochs < 1:
        raise ValueError(f"trainer.max_epochs={epochs}: give at least 1, the learning rate's schedule needs an end")
    if options.get("limit_train_batches", 1) == 0:
        raise ValueError("trainer.limit_train_batches=0 leaves nothing to train on")
    if options.get("limit_val_batches", 1) == 0 and schedule == "plateau":
        raise ValueError(
            "trainer.limit_val_batches=0 with recipe.schedule=plateau: the learning rate follows the validation error; "
            "give recipe.schedule=cosine"
        )


def make_trainer(
    options: Mapping[str, Any], *, run_dir: Path, logger: Logger, callbacks: Sequence[Callback]
) -> Trainer:
    """The Trainer of a training, from options that `check_trainer` let pass; a profile goes to the run folder.

    Raises:
        ValueError: Lightning cannot make one, as of devices that are not there.
    """
    given = {**_DEFAULTS, **options}
    given.pop("checkpoint_every_s", None)
    given.pop("enable_progress_bar", None)  # `Reporter` is it
    if given.get("profiler") is not None:  # into a file: Lightning says it in its log, which is quiet
        given["profiler"] = _PROFILERS[given["profiler"]](dirpath=run_dir, filename="profile")
    given |= _precision(given.get("precision"), str(given.get("accelerator")))
    ours: dict[str, Any] = {
        "logger": logger, "callbacks": list(callbacks), "enable_progress_bar": False, "use_distributed_sampler": False,
        "enable_checkpointing": False,  # Lightning's own: `callbacks` write ours
    }  # fmt: skip
    try:
        return Trainer(**given, **ours)
    except Exception as error:  # of many kinds, for values of the right type that it knows no use for
        raise ValueError(f"Lightning refuses the options of trainer: {in_one_line(error)}") from error


def _precision(given: str | int | None, accelerator: str) -> dict[str, Any]:
    """The options that say it: what is given, or what the device does well."""
    on_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    if given is None:
        return {"precision": _BFLOAT16 if trains_in_bfloat16(on_gpu=on_gpu) else _FLOAT32}
    name = _full_name(given)
    if name == _FLOAT16 and not on_gpu and accelerator in ("auto", "cpu"):  # for which Lightning takes bfloat16
        return {"precision": None, "plugins": [MixedPrecision("16-mixed", "cpu")]}
    return {"precision": name}


def _full_name(precision: str | int) -> str:
    return _SHORT_PRECISIONS.get(str(precision), str(precision))


def trains_in_bfloat16(*, on_gpu: bool) -> bool:
    """Whether trainer.precision=null means bf16-mixed: not on a GPU that emulates it (before Ampere)."""
    return on_gpu and has_fast_bfloat16(torch.device("cuda"))


def seconds_between(checkpoint_every_s: float | None) -> float:
    """Of checkpoints; without a number no time is too long."""
    return math.inf if checkpoint_every_s is None else checkpoint_every_s


@contextmanager
def settings_kept() -> Iterator[None]:
    """Leave what belongs to the whole process as it was: a training in a user's program is one of many things there.

    These are the settings of torch that Lightning changes, the state of its random numbers, levels of loggers, and
    filters of warnings. Of trainings in several threads the first to begin notes them, the last to end restores them.
    """
    global _inside, _noted
    with _inside_lock:
        if _inside == 0:
            _noted = ExitStack()
            _noted.enter_context(_noted_settings())
        _inside += 1
    try:
        yield
    finally:
        with _inside_lock:
            _inside -= 1
            if _inside == 0:
                _noted.close()


@contextmanager
def _noted_settings() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    levels = {name: logging.getLogger(name).level for name in _QUIET_LOGGERS}
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    device = torch.cuda.current_device() if used else 0  # to ask would open a context
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.set_device(device)


@contextmanager
def signals_given_back() -> Iterator[None]:
    """Leave the handlers of SIGINT and SIGTERM as they were: Lightning does not, where its work is interrupted."""
    if threading.current_thread() is not threading.main_thread():  # has none
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quiet_lightning() -> None:
    """Keep the adverts and advice of Lightning and faiss off the user's terminal; their errors still raise."""
    for name, level in _QUIET_LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    # our loaders are one background thread by design, and the process count is the user's choice
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    # validation figures are summed over ranks before they are logged
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")
