"""The commands: what each is called, what it runs, and what of it no signature says."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from qinco_lit.cli import groups
from qinco_lit.cli.run_folders import UNTYPED, typed_overrides
from qinco_lit.cli.spec import (
    Spec,
    Supply,
    data_facts,
    data_module,
    missing_data,
    option,
    rows,
)
from qinco_lit.cli.sweeps import Earlier, earlier_attempt
from qinco_lit.cli.tracking import is_multirun
from qinco_lit.commands import (
    compare,
    download,
    export,
    fit_preselector,
    import_checkpoint,
    info,
    truncate,
    verify,
)
from qinco_lit.mistakes import remove_if_unused


@dataclass(frozen=True)
class Tool:
    """A command with plain arguments."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


class _Training(Spec):
    """The job that is resumed, overwrites on request, and gives sweeps a value to minimize."""

    def run(self, config: dict[str, Any], run_dir: Path) -> float | None:
        from hydra.core.hydra_config import HydraConfig

        settings, earlier = HydraConfig.get(), Earlier()
        typed, overwrite = _overrides(config, run_dir), False
        if is_multirun(settings):  # the same sweep again goes on with its jobs
            earlier = earlier_attempt(run_dir, typed)
        else:
            overwrite = bool(config.get("overwrite"))
        if earlier.result is not None:
            return earlier.result
        error: float = self.call(
            {name: value for name, value in config.items() if name not in UNTYPED},
            run_dir,
            resume=config["resume"] is not None or earlier.has_checkpoint,
            overwrite=overwrite,
            overrides=[] if earlier.has_checkpoint else typed,
        )
        if config["trainer"].get("fast_dev_run") and not is_multirun(settings):
            remove_if_unused(run_dir, {".hydra", f"{settings.job.name}.log"})
        return error


def _overrides(config: dict[str, Any], run_dir: Path) -> list[str]:  # noqa: ARG001 (a Supply)
    from hydra.core.hydra_config import HydraConfig

    return typed_overrides([str(override) for override in HydraConfig.get().overrides.task])


def _scale_name(config: dict[str, Any], run_dir: Path) -> str:  # noqa: ARG001 (a Supply)
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices["scale"])


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


def _check_encode(config: groups.Options) -> None:
    from qinco_lit.encoding.shards import check_output
    from qinco_lit.vectors.layout import output_place

    check_output(output_place(config["output"]))
    groups.check_codec(config)


def _check_centroids(config: groups.Options) -> None:
    from qinco_lit.coarse.centroids import check_output

    check_output(Path(config["output"]))


def _check_reproduce(config: groups.Options) -> None:
    from qinco_lit.commands.reproduce import check_launcher
    from qinco_lit.reproducing.scale import read_scale
    from qinco_lit.reproducing.tasks import choose, expand

    check_launcher(config["launcher"])
    choose(expand(read_scale(config["scale"])), config["only"])


_DATA_DIR = {"data_dir": str}  # read by configs of data sets
_EITHER_INPUT = "give either input=FILE, any file of vectors, or data=CHOICE, the {} of a data set"
_EITHER_CODEC = "give either codec=DIR, the codec/ folder of a training run, or model=CHOICE, untrained"
_DATA, _LOGGER = {"data": groups.check_data}, {"logger": groups.check_logger()}
_RUN_DIR: Supply = lambda _, run_dir: run_dir  # noqa: E731
_CONFIG: Supply = lambda config, _: config  # noqa: E731
_MEASURES = {"output_dir": _RUN_DIR, "config": _CONFIG}
_CENTROIDS = "is required: qinco centroids data=CHOICE num_lists=N output=FILE.npy"
_ENCODE = "is required: qinco encode codec=DIR input=FILE output=FILE.h5"
_DECODE = "is required: qinco decode codec=DIR codes=FILE.h5 output=FILE.fvecs"
_INDEX = "is required: qinco index codec=DIR codes=FILE.h5 data=CHOICE output=DIR"

_SPECS: dict[str, Spec] = {
    "train": _Training(
        "train a quantizer on vectors (python train.py is the same)",
        "qinco_lit.training.job:train_in_folder",
        supplied={
            "data": partial(data_module, batch_size="recipe.batch_size", seed="seed"),
            "centroids_path": option("coarse.centroids", Path),
            "num_lists": option("coarse.num_lists"),
            "config": _CONFIG,
            "run_dir": _RUN_DIR,
            "advice": lambda _, run_dir: f"go on with: qinco train resume={run_dir}",
            **dict.fromkeys(("resume", "overwrite", "overrides")),  # `_Training.run` gives them
        },
        typed={**_DATA_DIR, "resume": str | None, "overwrite": bool},
        groups={
            **_DATA, "model": groups.check_model, "coarse": groups.check_coarse, "recipe": groups.check_recipe,
            "trainer": lambda _: None, "logger": groups.check_logger(has_codec=True),
        },
        also=groups.check_training,
    ),
    "evaluate": Spec(
        "measure a trained codec next to PQ, OPQ, RQ and LSQ",
        "qinco_lit.commands.evaluate:evaluate",
        supplied={"data": partial(data_module, batch_size="batch_size"), **_MEASURES},
        named={"codec": "codec_dir"},
        typed=_DATA_DIR,
        groups={**_DATA, **_LOGGER},
        required={"codec": "codec=DIR is required: the codec/ folder of a training run"},
    ),
    "centroids": Spec(
        "find the centroids of an index's lists by k-means, resumable",
        "qinco_lit.coarse.centroids:train_centroids",
        supplied={"x": rows("fit", "train_vectors"), "progress": None, "makes_output": None},
        typed={**_DATA_DIR, "input": str | list[str] | None, "output": str},
        groups=_DATA,
        required={"num_lists": f"num_lists=N {_CENTROIDS}", "output": f"output=FILE.npy {_CENTROIDS}"},
        either=(("input", "data", _EITHER_INPUT.format("training rows")),),
        also=_check_centroids,
    ),
    "encode": Spec(
        "turn vectors into a store of codes, resumable, on many devices",
        "qinco_lit.encoding.encode_file:encode",
        supplied={"vectors": rows("predict", "database"), "progress": None},
        typed={**_DATA_DIR, "input": str | list[str] | None, "codec": str},
        groups={**_DATA, "trainer": groups.check_trainer},
        required={"codec": f"codec=DIR {_ENCODE}", "output": f"output=FILE.h5 {_ENCODE}"},
        either=(("input", "data", _EITHER_INPUT.format("database")),),
        also=_check_encode,
    ),
    "decode": Spec(
        "turn a store of codes back into vectors",
        "qinco_lit.encoding.decode_file:decode_file",
        supplied={"progress": None},
        typed=dict.fromkeys(("codec", "codes", "output"), str),
        required={
            "codec": f"codec=DIR {_DECODE}", "codes": f"codes=FILE.h5 {_DECODE}", "output": f"output=FILE {_DECODE}",
        },
    ),
    "index": Spec(
        "build an index to search from a store of codes, resumable",
        "qinco_lit.commands.index:index",
        supplied={"data": data_module},
        named={"codec": "codec_dir"},
        typed=_DATA_DIR,
        groups=_DATA,
        required={
            "codec": f"codec=DIR {_INDEX}", "codes": f"codes=FILE.h5 {_INDEX}", "output": f"output=DIR {_INDEX}",
            "data": "data=CHOICE is required: the data set whose training vectors fit the decoders",
        },
    ),
    "search": Spec(
        "recall against speed of an index, next to those of faiss",
        "qinco_lit.commands.search:search",
        supplied={"data": data_module, **_MEASURES},
        named={"index": "index_dir"},
        typed=_DATA_DIR,
        groups={**_DATA, **_LOGGER},
        required={"index": "index=DIR is required: what `qinco index` wrote"},
    ),
    "plan": Spec(
        "time, disk and memory of a whole data set, from a few seconds",
        "qinco_lit.commands.plan:plan",
        supplied={"data": data_facts, "output_dir": _RUN_DIR, "max_epochs": option("trainer.max_epochs")},
        named={"codec": "codec_dir"},
        typed={**_DATA_DIR, "input": str | list[str] | None},
        groups={
            **_DATA, "model": groups.check_model, "recipe": groups.check_recipe,
            "trainer": groups.check_planned_trainer,
        },
        either=(
            ("codec", "model", _EITHER_CODEC),
            ("input", "data", _EITHER_INPUT.format("database")),
        ),
        also=groups.check_codec,
    ),
    "reproduce": Spec(
        "run the papers' experiments and report ours next to theirs",
        "qinco_lit.commands.reproduce:reproduce",
        supplied={
            "scale_name": _scale_name,
            "find_missing": lambda config, _: partial(missing_data, str(config["data_dir"])),
            "environment": lambda config, _: {"QINCO_DATA": str(config["data_dir"])},
            "overrides": _overrides,
            "program": None,
        },
        typed=_DATA_DIR,
        groups={"slurm": groups.check_slurm},
        also=_check_reproduce,
    ),
}  # fmt: skip
JOBS = {name: spec.job() for name, spec in _SPECS.items()}
# what `qinco` alone says first: commands by what somebody wants to do
TASKS = {
    "Train a codec, and see how good it is": ("train", "evaluate", "compare"),
    "Compress vectors to a few bytes each": ("plan", "encode", "verify", "decode", "truncate"),
    "Search compressed vectors": ("centroids", "index", "search"),
    "Use what was published": ("download", "import", "export", "reproduce", "fit-preselector"),
    "Find out what a file or folder is": ("info",),
}
BEGIN = (
    "qinco train data=files data.train=mine.npy model=qinco2_tiny",
    "qinco encode codec=RUN_DIR/codec input=mine.npy output=codes.h5",
    "qinco info PATH",
)
TOOLS = {
    "info": Tool("say what a file or folder is, and what to do with it", info.add_arguments, info.run),
    "import": Tool(
        "turn a published checkpoint into a codec folder", import_checkpoint.add_arguments, import_checkpoint.run
    ),
    "export": Tool("turn a codec into a file of ONNX or a published checkpoint", export.add_arguments, export.run),
    "fit-preselector": Tool(
        "let a codec without pre-selectors (QINCo1) try few codewords",
        fit_preselector.add_arguments,
        fit_preselector.run,
    ),
    "compare": Tool("runs, sweeps, evaluations and searches side by side", compare.add_arguments, compare.run),
    "download": Tool("bring a data set or checkpoint of the papers, checked", download.add_arguments, _download),
    "truncate": Tool(
        "keep the first codes of a store or the first steps of a codec", truncate.add_arguments, truncate.run
    ),
    "verify": Tool("check that a store of codes is complete and undamaged", verify.add_arguments, verify.run),
}
