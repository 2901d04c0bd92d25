"""Are the options of a job ones that its parts accept: asked before anything is made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinco_lit.options import check_arguments

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


def check_train(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco train` (plain nested values) against what will receive them. Raises ValueError."""
    from pytorch_lightning import Trainer

    from qinco_lit.training import Recipe
    from qinco_lit.training.presets import check_model
    from qinco_lit.training.trainer import check_trainer

    types = {"seed": int, "resume": str | None, "overwrite": bool, "data_dir": str}
    check_arguments("", lambda: None, {name: config[name] for name in types if name in config}, extra=types)
    if not 0 <= config["seed"] < 1 << 32:
        raise ValueError(f"seed={config['seed']}: give 0 to {(1 << 32) - 1}")
    _check_data(config["data"])
    check_model(config["model"])
    if config.get("coarse") is not None:  # runs of before there were lists lack it
        coarse = {"centroids": str | None, "num_lists": int | None}
        check_arguments("coarse", lambda: None, config["coarse"], extra=coarse)
        centroids, num_lists = (config["coarse"].get(name) for name in coarse)
        if (centroids is None) == (num_lists is None):
            raise ValueError(
                "coarse=ivf needs either coarse.num_lists=N, whose centroids are found first, or "
                "coarse.centroids=FILE.npy, as `qinco centroids` writes one"
            )
        if num_lists is not None and num_lists < 1:
            raise ValueError(f"coarse.num_lists={num_lists}: give at least 1")
    check_arguments("recipe", Recipe, config["recipe"])
    Recipe(**config["recipe"])
    check_arguments("trainer", Trainer, config["trainer"], extra={"checkpoint_every_s": float | None})
    check_trainer(config["trainer"], schedule=config["recipe"]["schedule"])
    _check_logger(config.get("logger"))


def check_evaluate(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco evaluate` (plain nested values) against what will receive them. Raises ValueError."""
    if config["codec"] is None:
        raise ValueError("codec=DIR is required: the codec/ folder of a training run")
    from qinco_lit.commands.evaluate import evaluate

    options = {name: value for name, value in config.items() if name not in ("data", "logger")}
    given, extra = ("codec_dir", "data", "output_dir", "logger", "config"), {"codec": str, "data_dir": str}
    check_arguments("", evaluate, options, given=given, extra=extra)
    _check_data(config["data"])
    _check_logger(config["logger"], has_codec=False)


def check_centroids(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco centroids` (plain nested values) against their receivers. Raises ValueError."""
    for name, what in {"num_lists": "num_lists=N", "output": "output=FILE.npy"}.items():
        if config[name] is None:
            raise ValueError(f"{what} is required: qinco centroids data=CHOICE num_lists=N output=FILE.npy")
    if (config["input"] is None) == (config.get("data") is None):
        raise ValueError("give either input=FILE, any file of vectors, or data=CHOICE, the training rows of a data set")
    from qinco_lit.coarse.centroids import check_options, train_centroids

    options = {name: value for name, value in config.items() if name != "data"}
    given, extra = ("x", "output", "progress", "makes_output"), {"input": str | None, "output": str, "data_dir": str}
    check_arguments("", train_centroids, options, given=given, extra=extra)
    counts = {name: config[name] for name in ("num_lists", "iterations", "max_training_rows", "num_threads")}
    check_options(Path(config["output"]), counts, config["min_gain"])
    if config["input"] is None:
        _check_data(config["data"])


def check_encode(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco encode` (plain nested values) against what will receive them. Raises ValueError."""
    for name, what in {"codec": "codec=DIR", "output": "output=FILE.h5"}.items():
        if config[name] is None:
            raise ValueError(f"{what} is required: qinco encode codec=DIR input=FILE output=FILE.h5")
    if (config["input"] is None) == (config.get("data") is None):
        raise ValueError("give either input=FILE, any file of vectors, or data=CHOICE, the database of a data set")
    from pytorch_lightning import Trainer

    from qinco_lit.codec_folder import check_is_codec
    from qinco_lit.encoding.encode_file import check_counts, encode
    from qinco_lit.encoding.shards import check_output

    options = {name: value for name, value in config.items() if name not in ("data", "trainer")}
    given, extra = ("codec", "vectors", "trainer", "progress"), {"codec": str, "input": str | None, "data_dir": str}
    check_arguments("", encode, options, given=given, extra=extra)
    check_arguments("trainer", Trainer, config["trainer"])
    check_output(Path(config["output"]))
    check_counts({name: config[name] for name in ("shard_rows", "batch_size", "num_threads")})
    if config["input"] is None:
        _check_data(config["data"])
        check_is_codec(Path(config["codec"]))  # before the data are made or read


def check_decode(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco decode` (plain values) against what will receive them. Raises ValueError."""
    for name, what in {"codec": "codec=DIR", "codes": "codes=FILE.h5", "output": "output=FILE"}.items():
        if config[name] is None:
            raise ValueError(f"{what} is required: qinco decode codec=DIR codes=FILE.h5 output=FILE.fvecs")
    from qinco_lit.encoding.decode_file import decode_file

    paths = {"codec": str, "codes": str, "output": str}
    check_arguments("", decode_file, config, given=(*paths, "progress"), extra=paths)


def check_index(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco index` (plain nested values) against what will receive them. Raises ValueError."""
    for name, what in {"codec": "codec=DIR", "codes": "codes=FILE.h5", "output": "output=DIR"}.items():
        if config[name] is None:
            raise ValueError(f"{what} is required: qinco index codec=DIR codes=FILE.h5 data=CHOICE output=DIR")
    if config.get("data") is None:
        raise ValueError("data=CHOICE is required: the data set whose training vectors fit the decoders")
    from qinco_lit.commands.index import index

    options = {name: value for name, value in config.items() if name != "data"}
    check_arguments("", index, options, given=("codec_dir", "data"), extra={"codec": str, "data_dir": str})
    _check_data(config["data"])


def check_plan(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco plan` (plain nested values) against what will receive them. Raises ValueError."""
    if (config["codec"] is None) == (config.get("model") is None):
        raise ValueError("give either codec=DIR, the codec/ folder of a training run, or model=CHOICE, untrained")
    if (config["input"] is None) == (config.get("data") is None):
        raise ValueError("give either input=FILE, any file of vectors, or data=CHOICE, the database of a data set")
    from qinco_lit.codec_folder import check_is_codec
    from qinco_lit.commands.plan import plan
    from qinco_lit.planning.plan import check_options
    from qinco_lit.training import Recipe

    options = {name: value for name, value in config.items() if name not in ("data", "model", "recipe", "trainer")}
    given = ("data", "output_dir", "recipe", "codec_dir", "model", "max_epochs")
    extra = {"codec": str | None, "input": str | None, "data_dir": str}
    check_arguments("", plan, options, given=given, extra=extra)
    check_arguments("trainer", lambda: None, config["trainer"], extra={"max_epochs": int})
    check_arguments("recipe", Recipe, config["recipe"])
    Recipe(**config["recipe"])
    counts = {name: config[name] for name in ("num_rows", "num_devices", "num_threads")}
    check_options({"max_epochs": config["trainer"]["max_epochs"], **counts}, config["seconds"])
    if config["codec"] is None:
        from qinco_lit.training.presets import check_model

        check_model(config["model"])
    if config["input"] is None:
        _check_data(config["data"])
    if config["codec"] is not None:
        check_is_codec(Path(config["codec"]))


def check_reproduce(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco reproduce` (plain nested values) against their receivers. Raises ValueError."""
    from qinco_lit.commands.reproduce import check_launcher, reproduce
    from qinco_lit.reproducing.scale import read_scale
    from qinco_lit.reproducing.slurm import SlurmOptions
    from qinco_lit.reproducing.tasks import choose, expand

    given = ("scale_name", "find_missing", "environment", "overrides", "program")
    check_arguments("", reproduce, config, given=given, extra={"data_dir": str})
    check_arguments("slurm", SlurmOptions, config["slurm"])
    check_launcher(config["launcher"])
    choose(expand(read_scale(config["scale"])), config["only"])


def check_search(config: Mapping[str, Any]) -> None:
    """Check the options of `qinco search` (plain nested values) against what will receive them. Raises ValueError."""
    if config["index"] is None:
        raise ValueError("index=DIR is required: what `qinco index` wrote")
    from qinco_lit.commands.search import search

    options = {name: value for name, value in config.items() if name not in ("data", "logger")}
    given, extra = ("index_dir", "data", "output_dir", "logger", "config"), {"index": str, "data_dir": str}
    check_arguments("", search, options, given=given, extra=extra)
    _check_data(config["data"])
    _check_logger(config["logger"], has_codec=False)


def _check_logger(options: Mapping[str, Any] | None, *, has_codec: bool = True) -> None:
    if options is None:
        return
    from qinco_lit.training.wandb_run import start_wandb

    check_arguments("logger", start_wandb, options, given=("run_dir", "config"), extra={"log_codec": bool})
    if options.get("log_codec") and not has_codec:
        raise ValueError("logger.log_codec=true: only `qinco train` makes a codec to log")


def _check_data(options: Mapping[str, Any]) -> None:
    from qinco_lit.data.data_module import data_target, is_data_module, option_types

    target, given = data_target(options), ("batch_size", "seed")
    extra = {} if is_data_module(target) else option_types()
    extra = {name: hint for name, hint in extra.items() if name not in given}
    check_arguments("data", target, options, given=given, extra=extra)
