"""`qinco_lit.train`: vectors to a codec in one call, the same as `qinco train` makes of them."""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from qinco_lit.codec import Codec
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.devices import default_torch
from qinco_lit.options import Count, Range, checked, plain
from qinco_lit.run_folder import check_can_be_made
from qinco_lit.training.job import train_in_folder
from qinco_lit.training.presets import chosen_options, preset
from qinco_lit.training.run_folder import is_first
from qinco_lit.training.run_log import read_summary
from qinco_lit.training.trainer import check_trainer, settings_kept
from qinco_lit.vectors import VectorFile, as_vectors_file
from qinco_lit.vectors.code_info import input_facts
from qinco_lit.vectors.data_facts import DataSource

_MOST_VAL = 10_000  # as of data=files
_BLOCK_ROWS = 65_536
# Of a run folder's config: may be another one when the training goes on.
_INDIFFERENT = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
    "data.path",
    "data.name",
    "data.val.path",
)
_ASK_EVERY_S = 0.5  # whether the first rank has written the codec


@checked
@default_torch()
def train(
    x: Any,
    *,
    model: str = "qinco2_tiny",
    num_steps: int = 8,
    num_lists: Count | None = None,
    recipe: str = "tuned",
    max_epochs: Count | None = None,
    val: Any = None,
    seed: Annotated[int, Range(0, (1 << 32) - 1)] = 0,
    run_dir: str | Path | None = None,
    devices: Any = "auto",
    precision: str | None = None,
    progress: bool | None = None,
    **model_or_recipe_options: Any,
) -> Codec:
    """Train a quantizer on vectors: what `qinco train` does with the same options, to the same bits.

    Without `run_dir` nothing is left on disk. With it, a run folder is: its config, metrics.jsonl, summary.json,
    checkpoints and codec/. The same call with the same folder then goes on where a killed or interrupted one was, to
    the same bytes, and returns the codec of a finished one.

    Args:
        x: (n, dim) vectors to train on, raw: an array (numpy, torch, lists), or what `open_vectors` opens.
            Files are streamed; an array is not copied.
        model: of conf/model: qinco1, qinco2 (S), qinco2_m, qinco2_l, qinco2_tiny, qinco2_xs, qinco_lr, pq_qinco,
            pq_qinco2.
        num_steps: codes per vector.
        num_lists: lists of an IVF model, whose centroids k-means of x finds first; the codes then say what they leave.
            None: a plain model.
        recipe: tuned or paper: of conf/recipe.
        max_epochs: of at most 10 million vectors each; None: 60.
        val: vectors for validation, as x; None: the last tenth of x, at most 10,000.
        seed: of weights, order and k-means, 0 to 2^32 - 1.
        run_dir: folder of the run, made when needed. None: a temporary one, removed at the end.
        devices: auto: a GPU if there is one, else the CPU in one process; cpu; or devices of `pl.Trainer`, as 8 or [2].
            Several need a `run_dir` and a script, not a notebook: each device gets a process that runs the script anew.
        precision: of the loss and its gradients: 32-true, bf16-mixed or 16-mixed. None: bf16-mixed on a GPU from Ampere
            on, else 32-true. Weights, optimizer and validation are float32 in each.
        progress: False: nothing is shown of it; else a bar on a terminal, and lines of the logger `qinco_lit`.
        model_or_recipe_options: any other option of the model or of the recipe: codebook_size, beam_size, batch_size,
            lr, ...; num_parts, opq, ... of a model of parts.

    Returns:
        The codec of the best epoch, on the device that it was trained on.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one line: an unknown option, a value that cannot be, a vector with NaN or infinity, fewer vectors
            than a batch, a codebook or the lists need, or a folder that holds another training.
        KeyboardInterrupt: of SIGINT, after the batch in progress.
    """
    of_model, of_recipe = chosen_options(model, recipe, {"num_steps": num_steps, **model_or_recipe_options})
    trainer = (
        preset("trainer", "default")
        | _devices(devices := plain(devices))
        | {"enable_progress_bar": progress is not False, "precision": precision}
    )
    if max_epochs is not None:
        trainer["max_epochs"] = max_epochs
    check_trainer(trainer, schedule=of_recipe["schedule"])
    rows = as_vectors_file(x, "x")
    held_out = None if val is None else as_vectors_file(val, "val")
    num_val = min(_MOST_VAL, max(1, len(rows) // 10)) if held_out is None else 0
    _check_rows(rows, len(rows) - num_val, of_model["codebook_size"], of_recipe["batch_size"], num_lists)
    for name, vectors in {"x": rows, "val": held_out}.items():
        _check_finite(vectors, name)
    source = DataSource(name="array" if rows.is_array else rows.name, train=rows, val=held_out)
    data = VectorDataModule(source, batch_size=of_recipe["batch_size"], num_val=max(1, num_val), seed=seed)
    config = {
        "data": {"name": source.name, **_facts(rows), "num_val": num_val, "val": held_out and _facts(held_out)},
        "model": of_model,
        "coarse": {"centroids": None, "num_lists": num_lists},
        "recipe": of_recipe,
        "trainer": trainer,
        "seed": seed,
        "choices": {"model": model, "recipe": recipe, "coarse": "none" if num_lists is None else "ivf"},
    }
    arguments: dict[str, Any] = {
        "data": data, "model": of_model, "num_lists": num_lists, "recipe": of_recipe, "trainer": trainer,
        "logger": None, "seed": seed, "config": config, "overrides": [],
    }  # fmt: skip
    with settings_kept():
        if run_dir is not None:
            return _in_folder(Path(run_dir).absolute(), arguments)
        if devices not in ("auto", "cpu", 1) and not (isinstance(devices, list) and len(devices) == 1):
            raise ValueError(f"devices={devices}: give run_dir=FOLDER, where the processes of several devices meet")
        with tempfile.TemporaryDirectory(prefix="qinco-train-") as folder:
            train_in_folder(**arguments, run_dir=Path(folder), resume=False)
            codec = _codec(Path(folder), trainer)
            codec.folder = None  # that one goes
            return codec


def _in_folder(run_dir: Path, arguments: dict[str, Any]) -> Codec:
    """Train in a folder that stays, go on with the training that it holds, or take the codec of that."""
    config_file, resume = run_dir / "config.json", False
    check_can_be_made(run_dir)
    if config_file.is_file():
        _check_same(run_dir, _config(config_file), json.loads(json.dumps(arguments["config"])))
        if read_summary(run_dir).get("state") == "finished" and (run_dir / "codec").is_dir():
            return _codec(run_dir, arguments["trainer"])
        resume = True
    elif any((run_dir / name).exists() for name in ("checkpoints", "codec")):
        raise ValueError(f"{run_dir} holds a training, and not with what options (config.json): name another run_dir")
    train_in_folder(**arguments, run_dir=run_dir, resume=resume)
    while not is_first() and (state := read_summary(run_dir)["state"]) != "finished":
        if state != "running":
            raise RuntimeError(f"{run_dir}: the first process {state}")
        time.sleep(_ASK_EVERY_S)
    return _codec(run_dir, arguments["trainer"])


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): name another run_dir") from None
    if not isinstance(config, dict) or "recipe" not in config:
        raise ValueError(f"{file.parent} holds something else than a training: name another run_dir")
    return config


def _codec(run_dir: Path, trainer: Mapping[str, Any]) -> Codec:
    on_gpu = trainer["accelerator"] != "cpu" and torch.cuda.is_available()
    return Codec.load(run_dir / "codec", device=f"cuda:{torch.cuda.current_device()}" if on_gpu else "cpu")


def _devices(devices: Any) -> dict[str, Any]:
    """The options of pl.Trainer that say it. Raises ValueError for what says nothing."""
    if devices in ("auto", "cpu"):
        return {"accelerator": devices, "devices": 1}
    numbers = devices if isinstance(devices, list) and devices else [devices]
    least = 0 if numbers is devices else 1
    if not all(type(each) is int and (each >= least or (each == -1 and least)) for each in numbers):
        raise ValueError(f"devices={devices!r}: give auto, cpu, how many (-1: all), or a list of their numbers")
    return {"devices": devices}


def _check_rows(rows: VectorFile, num_train: int, codebook_size: int, batch_size: int, num_lists: int | None) -> None:
    """Refuse fewer training vectors than a training needs."""
    needed = {"num_lists": num_lists or 0, "codebook_size": codebook_size, "batch_size": batch_size}
    for name, number in needed.items():
        if num_train < number:
            of_all = "" if num_train == len(rows) else f", {len(rows)} less those for validation"
            raise ValueError(
                f"x: {num_train} vectors to train on{of_all}, {name}={number} needs {number}: "
                f"give more vectors, or {name}={max(1, num_train)} or less"
            )


def _check_finite(vectors: VectorFile | None, name: str) -> None:
    """Name the first row with NaN or infinity of an array; files are read once, when they are trained on."""
    if vectors is None or not vectors.is_array or vectors.dtype.kind != "f":
        return
    for number, block in enumerate(vectors.iter_batches(_BLOCK_ROWS)):
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(block.astype(np.float32, copy=False)).all(axis=1)
        if bad.any():
            row = number * _BLOCK_ROWS + int(bad.argmax())
            raise ValueError(f"{name}: vector {row} holds NaN or infinity (as float32): leave it out")


def _facts(vectors: VectorFile) -> dict[str, Any]:
    """What tells these vectors from others, as a run folder records it."""
    facts = input_facts(vectors)
    names = {"input_path": "path", "num_rows": "num_rows", "dim": "dim", "input_dtype": "dtype"}
    known: dict[str, Any] = {ours: facts[theirs] for theirs, ours in names.items()}
    return known | {"sample_sha256": facts["input_sample_sha256"]}


def _check_same(run_dir: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to go on with a training of other options than these."""
    if "sample_sha256" not in there.get("data", {}):
        raise ValueError(
            f"{run_dir} holds a training of `qinco train`: go on with it by resume=, or name another run_dir"
        )
    then, now = _flat(there), _flat(here)
    for name, value in now.items():
        indifferent = name in _INDIFFERENT or name.startswith("choices.")  # these say the same
        if not indifferent and name in then and then[name] != value:
            raise ValueError(
                f"{run_dir} holds a training with {name}={then[name]}, not {value}: give the same options and vectors, "
                "or another run_dir"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
