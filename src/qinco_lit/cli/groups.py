"""The groups of a config, each against what receives it: asked before anything is made. All raise ValueError."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qinco_lit.options import Count, check_arguments

Options = Mapping[str, Any]

# Parameters of what receives the options that are none themselves, and what to give instead.
NO_OPTIONS = {
    "model.num_lists": "the lists are coarse.num_lists=N, or the rows of coarse.centroids=FILE.npy, with coarse=ivf",
    "model.search": "model.candidate_budget=T tries the T best pairs of the beam, null A codewords per hypothesis",
    "recipe.compile_search": "torch.compile never made the search faster; leave it out",
}
# What configs of before may hold, and nothing reads any more.
GONE = ("model.search", "recipe.compile_search")

# What only models of parts have (PQ-QINCo).
NEEDS_PARTS = ("model.num_parts", "model.part_dims", "model.part_steps", "model.opq")


def check_data(options: Options) -> None:
    """Against the data module of `_target_`, or that of the files it names; batch size and seed are no options."""
    from qinco_lit.data.data_module import data_target, is_data_module, option_types

    target, given = data_target(options), ("batch_size", "seed")
    extra = {} if is_data_module(target) else option_types()
    extra = {name: hint for name, hint in extra.items() if name not in given}
    check_arguments("data", target, options, given=given, extra=extra)


def check_model(options: Options) -> None:
    """Against the quantizer, and its sizes against each other, for vectors of any dimension."""
    from qinco_lit.training import presets

    presets.check_model(options)


def check_recipe(options: Options) -> None:
    """Against `Recipe`, which knows the ranges."""
    from qinco_lit.training import Recipe

    check_arguments("recipe", Recipe, options)
    Recipe(**options)


def check_coarse(options: Options) -> None:
    """Where the lists of a training come from."""
    check_arguments("coarse", lambda: None, options, extra={"centroids": str | None, "num_lists": Count | None})
    if (options.get("centroids") is None) == (options.get("num_lists") is None):
        raise ValueError(
            "coarse=ivf needs either coarse.num_lists=N, whose centroids are found first, or "
            "coarse.centroids=FILE.npy, as `qinco centroids` writes one"
        )


def check_trainer(options: Options, **extra: Any) -> None:
    """Against Lightning's Trainer."""
    from pytorch_lightning import Trainer

    check_arguments("trainer", Trainer, options, extra=extra)


def check_planned_trainer(options: Options) -> None:
    """Of a training that is only planned."""
    check_arguments("trainer", lambda: None, options, extra={"max_epochs": Count})


def check_training(config: Options) -> None:
    """The trainer of `qinco train`, next to its recipe."""
    from qinco_lit.training.trainer import check_trainer as check_of_training

    check_trainer(config["trainer"], checkpoint_every_s=float | None)
    check_of_training(config["trainer"], schedule=config["recipe"]["schedule"])


def check_logger(*, has_codec: bool = False) -> Callable[[Options], None]:
    """Against what starts a run of W&B; `has_codec`: the job makes a codec to log."""

    def check(options: Options) -> None:
        from qinco_lit.training.wandb_run import start_wandb

        check_arguments("logger", start_wandb, options, given=("run_dir", "config"), extra={"log_codec": bool})
        if options.get("log_codec") and not has_codec:
            raise ValueError("logger.log_codec=true: only `qinco train` makes a codec to log")

    return check


def check_slurm(options: Options) -> None:
    """Of tasks that a cluster runs."""
    from qinco_lit.reproducing.slurm import SlurmOptions

    check_arguments("slurm", SlurmOptions, options)


def check_codec(config: Options) -> None:
    """Where a codec is asked for it is one: before the data are made or read."""
    from qinco_lit.codec_folder import check_is_codec

    if config["codec"] is not None:
        check_is_codec(Path(config["codec"]))
