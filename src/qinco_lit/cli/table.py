"""The commands: what each is called, how its options are checked, and what it runs."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from qinco_lit.cli.run_folders import UNTYPED, typed_overrides
from qinco_lit.cli.sweeps import Earlier, earlier_attempt
from qinco_lit.cli.tracking import describe_run, is_multirun
from qinco_lit.commands import (
    compare,
    download,
    export_checkpoint,
    fit_preselector,
    import_checkpoint,
    truncate,
    verify,
)
from qinco_lit.commands.checks import (
    check_centroids,
    check_decode,
    check_encode,
    check_evaluate,
    check_index,
    check_plan,
    check_reproduce,
    check_search,
    check_train,
)
from qinco_lit.mistakes import remove_if_unused


@dataclass(frozen=True)
class Job:
    """A Hydra command: `check` raises ValueError for options that cannot work, `run` does the work."""

    summary: str
    check: Callable[[dict[str, Any]], None]
    run: Callable[[dict[str, Any], Path], float | None]


@dataclass(frozen=True)
class Tool:
    """A command with plain arguments."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _data_module(config: dict[str, Any], **arguments: int) -> Any:
    from qinco_lit.data.data_module import data_module

    return data_module(config["data"], **arguments)


def _train(config: dict[str, Any], run_dir: Path) -> float | None:
    from hydra.core.hydra_config import HydraConfig

    from qinco_lit.commands.train import train

    settings, earlier = HydraConfig.get(), Earlier()
    typed, overwrite = typed_overrides([str(override) for override in settings.overrides.task]), False
    if is_multirun(settings):  # the same sweep again goes on with its jobs
        earlier = earlier_attempt(run_dir, typed)
    else:
        overwrite = bool(config.get("overwrite"))
    config = {name: value for name, value in config.items() if name not in UNTYPED}
    if earlier.result is not None:
        return earlier.result
    describe_run(config, settings, run_dir)
    error = train(
        config,
        data=_data_module(config, batch_size=config["recipe"]["batch_size"], seed=config["seed"]),
        run_dir=run_dir,
        resume=config["resume"] is not None or earlier.has_checkpoint,
        overwrite=overwrite,
        overrides=[] if earlier.has_checkpoint else typed,
    )
    if config["trainer"].get("fast_dev_run") and not is_multirun(settings):
        remove_if_unused(run_dir, {".hydra", f"{settings.job.name}.log"})
    return error


def _evaluate(config: dict[str, Any], run_dir: Path) -> None:
    from hydra.core.hydra_config import HydraConfig

    from qinco_lit.commands.evaluate import evaluate

    describe_run(config, HydraConfig.get(), run_dir)
    others = ("codec", "data", "data_dir", "cache_dir", "choices")
    options = {name: value for name, value in config.items() if name not in others}
    evaluate(
        codec_dir=Path(config["codec"]),
        data=_data_module(config, batch_size=config["batch_size"]),
        output_dir=run_dir,
        cache_dir=Path(config["cache_dir"]),
        config=config,
        **options,
    )


def _centroids(config: dict[str, Any], run_dir: Path) -> None:  # noqa: ARG001 (all of it goes to output=)
    from qinco_lit.commands.centroids import centroids
    from qinco_lit.vectors import open_vectors

    if config["input"] is not None:
        vectors = open_vectors(config["input"])
    else:
        data = _data_module(config)
        data.prepare_data()
        data.setup("fit")
        vectors = data.train_vectors
    centroids(config, vectors)


def _encode(config: dict[str, Any], run_dir: Path) -> None:  # noqa: ARG001 (all of it goes to output=)
    from qinco_lit.encoding.encode_file import encode
    from qinco_lit.vectors import open_vectors

    if config["input"] is not None:
        vectors = open_vectors(config["input"])
    else:
        data = _data_module(config)
        data.prepare_data()
        data.setup("predict")
        vectors = data.database
    others = ("codec", "input", "data", "data_dir", "output")
    options = {name: value for name, value in config.items() if name not in others}
    encode(codec=Path(config["codec"]), vectors=vectors, output=Path(config["output"]), **options)


def _decode(config: dict[str, Any], run_dir: Path) -> None:  # noqa: ARG001 (all of it goes to output=)
    from qinco_lit.encoding.decode_file import decode_file

    options = {name: value for name, value in config.items() if name not in ("codec", "codes", "output")}
    decode_file(config["codec"], config["codes"], config["output"], **options)


def _index(config: dict[str, Any], run_dir: Path) -> None:  # noqa: ARG001 (all of it goes to output=)
    from qinco_lit.commands.index import index

    names = ("training_codes", "ids", "centroids")
    paths: dict[str, Any] = {name: None if config[name] is None else Path(config[name]) for name in names}
    others = ("codec", "codes", "data", "data_dir", "output", *paths)
    options = {name: value for name, value in config.items() if name not in others}
    index(
        codec_dir=Path(config["codec"]),
        codes=Path(config["codes"]),
        data=_data_module(config),
        output=Path(config["output"]),
        **paths,
        **options,
    )


def _search(config: dict[str, Any], run_dir: Path) -> None:
    from hydra.core.hydra_config import HydraConfig

    from qinco_lit.commands.search import search

    describe_run(config, HydraConfig.get(), run_dir)
    others = ("index", "data", "data_dir", "cache_dir", "choices")
    options = {name: value for name, value in config.items() if name not in others}
    search(
        index_dir=Path(config["index"]),
        data=_data_module(config),
        output_dir=run_dir,
        cache_dir=Path(config["cache_dir"]),
        config=config,
        **options,
    )


def _plan(config: dict[str, Any], run_dir: Path) -> None:
    from qinco_lit.commands.plan import plan

    others = ("codec", "input", "data", "data_dir", "trainer")
    options = {name: value for name, value in config.items() if name not in others}
    plan(
        data=_data_facts(config),
        codec_dir=None if config["codec"] is None else Path(config["codec"]),
        max_epochs=config["trainer"]["max_epochs"],
        output_dir=run_dir,
        **options,
    )


def _data_facts(config: dict[str, Any]) -> Any:
    """What is known of the data: from `describe` next to the data set's `_target_`, or from its files."""
    from qinco_lit.planning.plan import facts_of_file, facts_of_module
    from qinco_lit.vectors import open_vectors

    if config["input"] is not None:
        return facts_of_file(open_vectors(config["input"]))
    options = {name: value for name, value in config["data"].items() if not name.startswith("_")}
    module = import_module(str(config["data"]["_target_"]).rpartition(".")[0])
    if hasattr(module, "describe"):
        return module.describe(**options)
    data = _data_module(config)
    data.prepare_data()
    data.setup("predict")
    return facts_of_module(data)


def _download(options: argparse.Namespace) -> None:
    download.run(options, _published_sets(options.data_dir))


def _published_sets(data_dir: Path) -> dict[str, download.PublishedSet]:
    """The data configs that offer a choice of published sizes, with the files that their target's module names."""
    from omegaconf import OmegaConf

    import qinco_lit.conf

    sets = {}
    for path in sorted((Path(qinco_lit.conf.__path__[0]) / "data").glob("*.yaml")):
        config = OmegaConf.create({"data_dir": str(data_dir), "data": OmegaConf.load(path)}).data
        if "size" in config:
            module = import_module(str(config["_target_"]).rpartition(".")[0])
            files = partial(module.published_files, name=config.name)
            sets[path.stem] = download.PublishedSet(Path(config.root), files)
    return sets


def _reproduce(config: dict[str, Any], run_dir: Path) -> None:  # noqa: ARG001 (all of it goes to output=)
    from hydra.core.hydra_config import HydraConfig

    from qinco_lit.cli.missing_data import missing_data
    from qinco_lit.commands.reproduce import reproduce

    settings, data_dir = HydraConfig.get(), str(config["data_dir"])
    options = {name: value for name, value in config.items() if name not in ("output", "data_dir")}
    reproduce(
        **options,
        scale_name=str(settings.runtime.choices["scale"]),
        output=Path(config["output"]),
        find_missing=lambda data: missing_data(data, data_dir),
        environment={"QINCO_DATA": data_dir},
        overrides=[str(override) for override in settings.overrides.task],
    )


JOBS = {
    "train": Job("train a quantizer on vectors (python train.py is the same)", check_train, _train),
    "evaluate": Job("measure a trained codec next to PQ, OPQ, RQ and LSQ", check_evaluate, _evaluate),
    "centroids": Job("find the centroids of an index's lists by k-means, resumable", check_centroids, _centroids),
    "encode": Job("turn a file of vectors into a store of codes, resumable, on many devices", check_encode, _encode),
    "decode": Job("turn a store of codes back into vectors", check_decode, _decode),
    "index": Job("build an index to search from a store of codes, resumable", check_index, _index),
    "search": Job("recall against speed of an index, next to those of faiss, resumable", check_search, _search),
    "plan": Job("time, disk and memory for a whole data set, from short measurements", check_plan, _plan),
    "reproduce": Job("run the experiments of the papers and report ours next to theirs", check_reproduce, _reproduce),
}
TOOLS = {
    "import": Tool(
        "turn a published checkpoint into a codec folder", import_checkpoint.add_arguments, import_checkpoint.run
    ),
    "export": Tool(
        "turn a codec folder into a published checkpoint", export_checkpoint.add_arguments, export_checkpoint.run
    ),
    "fit-preselector": Tool(
        "let a codec without pre-selectors (QINCo1) try few codewords",
        fit_preselector.add_arguments,
        fit_preselector.run,
    ),
    "compare": Tool("runs, sweeps, evaluations and searches side by side", compare.add_arguments, compare.run),
    "download": Tool(
        "bring a data set or checkpoint of the papers, resumable and checked", download.add_arguments, _download
    ),
    "truncate": Tool(
        "keep the first codes of a store or the first steps of a codec", truncate.add_arguments, truncate.run
    ),
    "verify": Tool("check that a store of codes is complete and undamaged", verify.add_arguments, verify.run),
}
