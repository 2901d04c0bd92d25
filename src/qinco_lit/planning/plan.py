"""`plan()`: what a whole data set costs in time, disk and memory, extrapolated from short measurements here."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Shaped

from qinco_lit.codec import Codec
from qinco_lit.devices import chosen_device, threads
from qinco_lit.encoding.decode_file import as_codec
from qinco_lit.environment import environment
from qinco_lit.options import Count, Range, in_range
from qinco_lit.planning.figures import doublings, memory_of_a_process, shards, sizes_on_disk, times
from qinco_lit.planning.load import OtherLoad
from qinco_lit.planning.measurements import measure
from qinco_lit.progress import Progress
from qinco_lit.quantizers import build_quantizer
from qinco_lit.quantizers.chunks import BLOCK_ROWS
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.start import init_networks, set_codebooks
from qinco_lit.training.trainer import quiet_lightning, settings_kept
from qinco_lit.vectors import VectorFile
from qinco_lit.vectors.data_facts import DataFacts
from qinco_lit.vectors.layout import check_vector_dtype

SCHEMA_VERSION = 3
_EPOCH_SIZE = 10_000_000  # of a file without a training configuration: that of conf/data


@in_range
def plan(
    data: DataFacts,
    *,
    recipe: Recipe,
    codec: Codec | str | Path | None = None,
    model: Mapping[str, Any] | None = None,
    max_epochs: Count = 60,
    num_rows: Count | None = None,
    num_devices: Count = 1,
    beam_size: int | None = None,
    num_candidates: int | None = None,
    candidate_budget: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    num_threads: Count | None = None,
    seconds: Annotated[float, Range(above=0)] = 3.0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Measure throughput on a few rows, and say what all of them take.

    Args:
        data: what is known of the data set (`facts_of_file`); without files, rows of its type are drawn at random.
        recipe: how it would be trained.
        codec: a trained codec, or its folder; or
        model: arguments of `build_quantizer` but `dim`: weights are random then, which times do not depend on.
        max_epochs: of the training.
        num_rows: vectors to encode, instead of what is known of the data set.
        num_devices: devices like this one that work at the same time.
        beam_size, num_candidates, candidate_budget: of the encoding, as in `Codec.encode`; training searches as the
            model does.
        precision, device: of a codec that is loaded or made, see `Codec`.
        num_threads: of torch and faiss; None leaves theirs.
        seconds: time for each measurement; slow models take that of their smallest repeats.
        progress: False shows none.

    Returns:
        The content of `plan.json` (docs/scaling.md). Times are seconds, sizes bytes, throughput vectors per second.

    Raises:
        FileNotFoundError: no codec.
        ValueError: impossible options, a codec of another dimension than the data, a data set of unknown size.
    """
    if (codec is None) == (model is None):
        raise ValueError("give either codec=, a trained one, or model=, the sizes of one")
    num_database = num_rows or data.num_database
    if not num_database:
        raise ValueError(f"data set {data.name}: how many vectors it has is not known; give num_rows=N")
    load_average = os.getloadavg()[0]
    with settings_kept(), threads(num_threads), Progress("vectors", show=progress is not False) as shown:
        quiet_lightning()
        rows = _sample(data, max(BLOCK_ROWS, recipe.batch_size))
        if codec is not None:
            measured_codec = _opened(codec, data, precision, device)
        else:
            assert model is not None
            measured_codec = _untrained(model, data.dim, rows, precision, chosen_device(device))
        return _record(
            data,
            measured_codec,
            recipe,
            rows,
            num_database,
            load_average,
            shown,
            search={"beam_size": beam_size, "num_candidates": num_candidates, "candidate_budget": candidate_budget},
            settings={"seconds": seconds, "num_devices": num_devices, "max_epochs": max_epochs},
        )


def _record(
    data: DataFacts,
    codec: Codec,
    recipe: Recipe,
    rows: Shaped[np.ndarray, "n dim"],
    num_rows: int,
    load_average: float,
    progress: Progress,
    *,
    search: Mapping[str, int | None],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    chosen, num_devices = codec.quantizer.search_for(**search), settings["num_devices"]
    with OtherLoad() as load:
        measured = measure(codec, recipe, data, rows, chosen, settings["seconds"], progress)
    planned = times(
        measured,
        num_rows=num_rows,
        epoch_size=data.epoch_size,
        max_epochs=settings["max_epochs"],
        num_devices=num_devices,
    )
    row_bytes = data.dim * np.dtype(data.dtype).itemsize
    file_bytes = None
    if data.database_bytes is not None and data.num_database:  # of more rows it takes its share more
        file_bytes = round(data.database_bytes * num_rows / data.num_database)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data": {
            "name": data.name,
            "dim": data.dim,
            "dtype": data.dtype,
            "num_rows": num_rows,
            "num_train": data.num_train,
            "epoch_size": data.epoch_size,
            "measured_on": None if data.rows is None else data.rows.path,
        },
        "model": {
            "codec": None if codec.folder is None else str(codec.folder),
            "num_parameters": sum(parameter.numel() for parameter in codec.quantizer.parameters()),
            "config": codec.quantizer.config,
        },
        "settings": {
            "device": _device_name(codec.device),
            "num_threads": torch.get_num_threads(),
            "precision": codec.precision,
            "search": chosen.record(),
            "training_search": codec.quantizer.default_search.record(),
            **settings,
        },
        "load": {
            "average": load_average,
            "num_cores": load.num_cores,
            "other_cores": load.other_cores,
            "variation": measured.variation,
        },
        "measured": measured.record(),
        "times": planned,
        "doublings": doublings(measured, planned, num_devices),
        "disk": sizes_on_disk(codec, num_rows=num_rows, row_bytes=row_bytes, file_bytes=file_bytes),
        "memory": memory_of_a_process(codec, chosen, row_bytes, measured.peak_bytes),
        "shards": shards(num_rows, measured.encode.plain.vectors_per_s),
        **environment(),
    }


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
        database_bytes=vectors.file_bytes,
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


def _opened(given: Codec | str | Path, data: DataFacts, precision: str, device: str) -> Codec:
    codec = as_codec(given, device=device, precision=precision)
    if codec.dim != data.dim:
        raise ValueError(f"{codec.name} encodes vectors of dimension {codec.dim}, data set {data.name} has {data.dim}")
    return codec


def _untrained(
    model: Mapping[str, Any], dim: int, rows: Shaped[np.ndarray, "n dim"], precision: str, device: torch.device
) -> Codec:
    quantizer, generator = build_quantizer(dim, **model), torch.Generator().manual_seed(0)
    for part, dims in zip(quantizer.parts, quantizer.part_slices, strict=True):
        x = torch.from_numpy(rows[:, dims]).float()
        quantizer.data_mean[dims] = x.mean(0)
        quantizer.data_std[dims] = x.std().clamp(min=1e-6)
        init_networks(part, "linear", generator)
        codebooks = torch.randn((part.num_steps, part.codebook_size, part.dim), generator=generator)
        set_codebooks(part, codebooks, noise=0.0, exact=False, generator=generator)
    return Codec(quantizer.to(device), precision=precision)


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
