"""`plan`: what a whole data set costs in time, disk and memory, extrapolated from short measurements here."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from rich.console import Console

from qinco_lit.atomic import write_atomically
from qinco_lit.codec import Codec
from qinco_lit.devices import chosen_device
from qinco_lit.environment import environment
from qinco_lit.planning.figures import doublings, memory_of_a_process, shards, sizes_on_disk, times
from qinco_lit.planning.measurements import measure_rates
from qinco_lit.quantizers import build_quantizer
from qinco_lit.quantizers.chunks import BLOCK_ROWS
from qinco_lit.reports.plan import markdown_report, notes, rich_tables
from qinco_lit.threads import threads
from qinco_lit.training.initialization import init_networks, set_codebooks
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.trainer import quiet_lightning
from qinco_lit.vectors import VectorFile
from qinco_lit.vectors.data_facts import DataFacts
from qinco_lit.vectors.layout import split_path
from qinco_lit.vectors.vector_dtypes import check_vector_dtype

SCHEMA_VERSION = 2
_EPOCH_SIZE = 10_000_000  # of a file without a training configuration: that of conf/data


def plan(
    *,
    data: DataFacts,
    output_dir: Path,
    recipe: Mapping[str, Any],
    codec_dir: Path | None = None,
    model: Mapping[str, Any] | None = None,
    max_epochs: int = 60,
    num_rows: int | None = None,
    num_devices: int = 1,
    beam_size: int | None = None,
    num_candidates: int | None = None,
    candidate_budget: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    num_threads: int | None = None,
    seconds: float = 3.0,
) -> dict[str, Any]:
    """Measure rates on a few rows, write `plan.json` and `plan.md` for all of them, print the tables.

    Args:
        data: what is known of the data set; without files, rows of its type are drawn at random.
        output_dir: where the results go, made when needed.
        recipe: fields of `Recipe`: how it would be trained.
        codec_dir: a trained codec; or
        model: arguments of `build_quantizer` but `dim`: weights are random then, which rates do not depend on.
        max_epochs: of the training.
        num_rows: vectors to encode, instead of what is known of the data set.
        num_devices: devices like this one that work at the same time.
        beam_size, num_candidates, candidate_budget: of the encoding, as in `Codec.encode`; training searches as the
            model does.
        precision: of `Codec`.
        device: auto, cpu, cuda, cuda:1.
        num_threads: of torch; None leaves its own.
        seconds: time for each measurement; slow models take that of their smallest repeats.

    Returns:
        The content of `plan.json` (docs/scaling.md). Times are seconds, sizes bytes, rates vectors per second.

    Raises:
        FileNotFoundError: no codec.
        ValueError: impossible options, a codec of another dimension than the data, a data set of unknown size.
    """
    counts = {"max_epochs": max_epochs, "num_rows": num_rows, "num_devices": num_devices, "num_threads": num_threads}
    check_options(counts, seconds)
    num_database = num_rows or data.num_database
    if not num_database:
        raise ValueError(f"data set {data.name}: how many vectors it has is not known; give num_rows=N")
    quiet_lightning()
    console, typed_recipe, load_average = Console(), Recipe(**recipe), os.getloadavg()[0]
    with threads(num_threads), console.status("measuring") if console.is_terminal else nullcontext():
        rows = _sample(data, max(BLOCK_ROWS, typed_recipe.batch_size))
        codec = _codec(codec_dir, model, data, rows, precision, chosen_device(device))
        search = codec.quantizer.search_for(
            beam_size=beam_size, num_candidates=num_candidates, candidate_budget=candidate_budget
        )
        rates = measure_rates(codec, typed_recipe, data, rows, search, seconds)
        planned = times(
            rates, num_rows=num_database, epoch_size=data.epoch_size, max_epochs=max_epochs, num_devices=num_devices
        )
        row_bytes = data.dim * np.dtype(data.dtype).itemsize
        file_bytes = data.database_bytes if num_database == data.num_database else None
        record = {
            "schema_version": SCHEMA_VERSION,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "data": _data_record(data, num_database),
            "model": _model_record(codec, codec_dir),
            "settings": {
                "device": _device_name(codec.device),
                "num_threads": torch.get_num_threads(),
                "load_average": load_average,
                "precision": codec.precision,
                "search": search.record(),
                "training_search": codec.quantizer.default_search.record(),
                "seconds": seconds,
                "num_devices": num_devices,
                "max_epochs": max_epochs,
            },
            "measured": rates.record(),
            "times": planned,
            "doublings": doublings(rates, planned, num_devices),
            "disk": sizes_on_disk(codec, num_rows=num_database, row_bytes=row_bytes, file_bytes=file_bytes),
            "memory": memory_of_a_process(codec, search, row_bytes, rates.peak_bytes),
            "shards": shards(num_database, rates.encode.plain.rate),
            **environment(),
        }
    write_atomically(output_dir / "plan.md", markdown_report(record))
    # last: where plan.json is, the plan is complete
    write_atomically(output_dir / "plan.json", json.dumps(record, indent=2) + "\n")
    for table in rich_tables(record):
        console.print(table)
    console.print(notes(record), style="dim")
    console.print(f"results: {output_dir}", soft_wrap=True)
    return record


def check_options(counts: Mapping[str, int | None], seconds: float) -> None:
    """Raise ValueError for what can be refused without the data."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: give more than 0")


def facts_of_file(vectors: VectorFile) -> DataFacts:
    """What a file of vectors says of the data set that it is; training would take the same vectors.

    Raises:
        ValueError: a dtype that is none of vectors.
    """
    check_vector_dtype(vectors.dtype, vectors.path)
    return DataFacts(
        name=vectors.path,
        dim=vectors.shape[1],
        dtype=vectors.dtype.name,
        num_database=len(vectors),
        num_train=len(vectors),
        epoch_size=min(len(vectors), _EPOCH_SIZE),
        database_bytes=split_path(vectors.path).file.stat().st_size,
        rows=vectors,
    )


def facts_of_module(data: Any) -> DataFacts:
    """What a data module says after `prepare_data` and `setup` (docs/architecture.md)."""
    rows, num_train = data.database, int(data.train_vectors.shape[0])
    return replace(facts_of_file(rows), name=data.name, num_train=num_train, epoch_size=min(num_train, data.epoch_size))


def _sample(data: DataFacts, num_rows: int) -> Shaped[np.ndarray, "n dim"]:
    """Rows to measure with: the first of the data set, repeated if there are few; or random ones of its type."""
    if data.rows is not None and len(data.rows) > 0:
        rows = data.rows[:num_rows]
        if not np.isfinite(rows).all():
            raise ValueError(f"{data.rows.path}: the first {len(rows)} vectors hold NaN or infinity: repair the file")
        return np.ascontiguousarray(np.resize(rows, (num_rows, data.dim)))
    generator, shape = np.random.default_rng(0), (num_rows, data.dim)
    dtype = np.dtype(data.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
    return generator.standard_normal(shape, dtype=np.float32).astype(dtype)


def _codec(
    codec_dir: Path | None,
    model: Mapping[str, Any] | None,
    data: DataFacts,
    rows: Shaped[np.ndarray, "n dim"],
    precision: str,
    device: torch.device,
) -> Codec:
    if codec_dir is not None:
        codec = Codec.load(codec_dir, device=device, precision=precision)
        if codec.dim != data.dim:
            raise ValueError(
                f"{codec_dir} encodes vectors of dimension {codec.dim}, data set {data.name} has {data.dim}"
            )
        return codec
    assert model is not None
    quantizer, generator = build_quantizer(data.dim, **model), torch.Generator().manual_seed(0)
    for part, dims in zip(quantizer.parts, quantizer.part_slices, strict=True):
        x = torch.from_numpy(rows[:, dims]).float()
        quantizer.data_mean[dims] = x.mean(0)
        quantizer.data_std[dims] = x.std().clamp(min=1e-6)
        init_networks(part, "linear", generator)
        codebooks = torch.randn((part.num_steps, part.codebook_size, part.dim), generator=generator)
        set_codebooks(part, codebooks, noise=0.0, exact=False, generator=generator)
    return Codec(quantizer.to(device), precision=precision)


def _data_record(data: DataFacts, num_rows: int) -> dict[str, Any]:
    return {
        "name": data.name,
        "dim": data.dim,
        "dtype": data.dtype,
        "num_rows": num_rows,
        "num_train": data.num_train,
        "epoch_size": data.epoch_size,
        "measured_on": None if data.rows is None else data.rows.path,
    }


def _model_record(codec: Codec, codec_dir: Path | None) -> dict[str, Any]:
    return {
        "codec": None if codec_dir is None else str(codec_dir),
        "num_parameters": sum(parameter.numel() for parameter in codec.quantizer.parameters()),
        "config": codec.quantizer.config,
    }


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
