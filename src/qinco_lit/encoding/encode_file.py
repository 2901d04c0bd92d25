"""Vectors to a store of codes, on any number of ranks, resumable."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer

from qinco_lit.coarse.assignment import list_assigner
from qinco_lit.codec import Codec
from qinco_lit.devices import chosen_device, default_torch
from qinco_lit.encoding import Encoding, ShardFolder, default_shard_rows, on_ray
from qinco_lit.encoding.decode_file import as_codec
from qinco_lit.encoding.record import claim, has_record, write_record
from qinco_lit.encoding.shards import (
    OtherRankFailedError,
    check_output,
    check_same,
    finished_store,
    folder_of,
    local_name,
)
from qinco_lit.encoding.tables import Tables, tables_for
from qinco_lit.encoding.work import work_of
from qinco_lit.encoding.writer import RowsDone, WriteShards
from qinco_lit.locks import only_writer
from qinco_lit.options import Count, checked, in_range
from qinco_lit.progress import Progress, duration, shown
from qinco_lit.training.trainer import quiet_lightning, settings_kept, signals_given_back
from qinco_lit.vectors import CodeStore, VectorFile, as_vectors_file, open_codes
from qinco_lit.vectors.code_info import CodeInfo
from qinco_lit.vectors.layout import output_place

log = logging.getLogger(__name__)

# encodes what is left, and says where
Run = Callable[[RowsDone], dict[str, Any]]

_POLL_S = 0.2  # between looks at whether the other ranks have finished


@checked
@default_torch()
def encode_file(
    codec: Codec | str | Path,
    input: Any,
    output: str | Path,
    *,
    shard_rows: Count | None = None,
    merge: bool = False,
    packed: bool = False,
    id_column: str | None = None,
    beam_size: int | None = None,
    num_candidates: int | None = None,
    candidate_budget: int | None = None,
    num_steps: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    batch_size: Count = 16_384,
    num_threads: Count | None = None,
    progress: bool | None = None,
) -> CodeStore:
    """Encode vectors into a store of codes in this process; killed and called again, it goes on and ends the same.

    `qinco encode` does the same on any number of processes and devices (`encode`); the bytes of the store are equal.

    Args:
        codec: or its folder.
        input: (n, dim) vectors: an array, or what `open_vectors` opens or has opened.
        output: HDF5 file, or Parquet: a file, or a folder, in which each file of the vectors has its own. Shards are
            made in `OUTPUT.shards` next to it, and `OUTPUT.json` says what encoded it. Parquet may go to a url: its
            shards are made in the working directory.
        shard_rows, merge, packed, id_column, beam_size, num_candidates, candidate_budget, num_steps, batch_size,
            num_threads, progress: of `encode`.
        precision, device: of a codec that is loaded, see `Codec`.

    Returns:
        The store, open.

    Raises:
        FileNotFoundError, ValueError, OSError: as `encode`.
    """
    check_output(output_place(output))
    codec, vectors = as_codec(codec, device=device, precision=precision), as_vectors_file(input, "input")
    encode(
        codec=codec,
        vectors=vectors,
        output=output,
        trainer=None,
        shard_rows=shard_rows,
        merge=merge,
        packed=packed,
        id_column=id_column,
        beam_size=beam_size,
        num_candidates=num_candidates,
        candidate_budget=candidate_budget,
        num_steps=num_steps,
        batch_size=batch_size,
        num_threads=num_threads,
        progress=progress,
    )
    return open_codes(output)


@in_range
def encode(
    *,
    codec: Codec | Path,
    vectors: VectorFile,
    output: str | Path,
    trainer: Mapping[str, Any] | None,
    engine: Literal["lightning", "ray"] = "lightning",
    shard_rows: Count | None = None,
    merge: bool = False,
    packed: bool = False,
    id_column: str | None = None,
    beam_size: int | None = None,
    num_candidates: int | None = None,
    candidate_budget: int | None = None,
    num_steps: int | None = None,
    precision: str = "auto",
    batch_size: Count = 16_384,
    num_threads: Count | None = None,
    progress: bool | None = None,
) -> None:
    """Encode vectors into a store of codes; what an earlier call with the same arguments has finished is kept.

    The store's bytes depend on the codec, the vectors, the search, `shard_rows`, `packed` and `merge`, and on nothing
    else: not on ranks, `batch_size` or interruptions. Every process of the job calls this function.

    Args:
        codec: its folder, from which every process loads it for its device; or itself, for this process alone.
        vectors: (num_rows, dim).
        output: HDF5 file, or Parquet: a file, or a folder, in which each file of the vectors has its own. Shards are
            made in `OUTPUT.shards` next to it, and `OUTPUT.json` says what encoded it. Parquet may go to a url: its
            shards are made in the working directory.
        trainer: arguments of `pl.Trainer` that say where to run: accelerator, devices, num_nodes, strategy; None: this
            process alone, on the device of a codec in memory, which takes none, or the first GPU.
        engine: whose processes encode: Lightning's, or tasks of a Ray cluster, a shard each (`on_ray.runner`).
        shard_rows: rows per shard, the unit of work that a kill can cost; None: `default_shard_rows`.
        merge: end in one file instead of one that refers to its shards; does so later for a finished store, too.
        packed: the codes of a vector in ceil(num_steps x log2(codebook_size)) bits, rounded up to bytes.
        id_column: of the vectors' files, which goes into Parquet files of codes; None: `id`, where they all have one.
        beam_size, num_candidates, candidate_budget: of `Codec.encode`; None takes the model's.
        num_steps: codes per vector; the search is for exactly so many, and finds others than the first ones of more.
            None: all of the model's.
        precision: of `Codec`, where it is loaded.
        batch_size: rows read and moved to the device at a time, in whole blocks of 16,384.
        num_threads: of torch in each process; None shares the cores among them.
        progress: False shows none.

    Raises:
        FileNotFoundError: no codec, or no folder for the output.
        ValueError: impossible options, an output that belongs to other work or that another process writes, vectors
            that do not fit or hold NaN.
        OSError: the disk is full, or a url cannot be written; finished shards are kept.
    """
    began = time.time()
    search = {"beam_size": beam_size, "num_candidates": num_candidates, "candidate_budget": candidate_budget}
    place = output_place(output)
    check_output(place)
    tables = tables_for(place, vectors, id_column, merge=merge)
    with _process_left_as_it_was():
        quiet_lightning()
        if isinstance(codec, Codec):
            if trainer is not None:
                raise ValueError("trainer says where processes load the codec: save it, and give its folder")
            fitter, codec = _trainer(None, codec.device), as_codec(codec, precision=precision)
        elif engine == "ray":  # which codes it gives, workers will know
            fitter, codec = _trainer(None, torch.device("cpu")), Codec.load(codec, precision=precision)
        else:
            fitter = _trainer(trainer, chosen_device("auto"))
            codec = Codec.load(codec, device=fitter.strategy.root_device, precision=precision)
        info = work_of(codec, vectors, search, num_steps, packed, shard_rows or default_shard_rows(len(vectors)))
        # the first rank holds it for all
        with only_writer(local_name(place)) if fitter.is_global_zero else nullcontext():
            folder = _shards(place, info, fitter, codec, merge=merge, keep_rows=shard_rows is None)
            if folder is None:
                return
            if fitter.is_global_zero:
                folder.forget_failure(before=began)
            searched, show = {**search, "num_steps": info.num_steps}, progress is not False
            with _heard(folder, fitter):
                if engine == "ray":
                    run = on_ray.runner(codec, precision, vectors, folder, searched, batch_size, num_threads, trainer)
                else:
                    assign_lists, centroids = None, codec.coarse_centroids
                    if centroids is not None:
                        with shown("graph over the centroids", show=show and fitter.is_global_zero):
                            assign_lists = list_assigner(centroids, vectors, codec.device)
                    module = Encoding(
                        codec, vectors, folder, search=searched, batch_size=batch_size, num_threads=num_threads,
                        assign_lists=assign_lists,
                    )  # fmt: skip
                    run = partial(_predict, fitter, module, folder)
                _run(run, folder, codec, tables, is_first=fitter.is_global_zero, merge=merge, show=show)


def _shards(
    output: Path | str, info: CodeInfo, fitter: Trainer, codec: Codec, *, merge: bool, keep_rows: bool
) -> ShardFolder | None:
    """The folder to go on with, or a new one; None where the store is complete. `keep_rows`: shards are as they were.

    Raises:
        ValueError: what is there is other work.
    """
    folder, store = ShardFolder.open(output), finished_store(output)
    found = {path: work.info for path, work in {output: store, folder_of(output): folder}.items() if work is not None}
    if found and keep_rows:
        info = replace(info, shard_rows=next(iter(found.values())).shard_rows)
    for path, known in found.items():
        check_same(path, known, info)
    if store is not None and not (store.is_virtual and merge):
        if fitter.is_global_zero:
            if folder is not None and not store.is_virtual:
                folder.remove()  # a merge was killed at its very end
            log.info("%s is complete already: %s rows", output, f"{len(store):,}")
        return None
    folder = folder or ShardFolder(output, info)
    if fitter.is_global_zero:
        claim(folder, codec)
    folder.create()  # by every rank: another one may be the first
    return folder


@contextmanager
def _process_left_as_it_was() -> Iterator[None]:
    """Give back what Lightning and `Encoding` change; its exit is the interruption again that it was made of."""
    num_threads = torch.get_num_threads()
    try:
        with settings_kept(), signals_given_back():
            yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise
    finally:
        torch.set_num_threads(num_threads)


@contextmanager
def _heard(folder: ShardFolder, fitter: Trainer) -> Iterator[None]:
    """Tell the other ranks of whatever ends this one: the first waits for their shards, however long they take."""
    try:
        yield
    except OtherRankFailedError as failure:
        if fitter.is_global_zero:
            raise ValueError(str(failure)) from None
    except (ValueError, OSError) as error:
        folder.report_failure(fitter.global_rank, error)
        if fitter.is_global_zero:  # it says the mistakes of all
            raise
    except BaseException as error:
        folder.report_failure(fitter.global_rank, error)
        raise


def _run(
    run: Run, folder: ShardFolder, codec: Codec, tables: Tables | None, *, is_first: bool, merge: bool, show: bool
) -> None:
    began, rows_before = time.monotonic(), folder.num_rows(folder.finished())
    with Progress(show=show) as told:
        where = run(RowsDone(folder, told))
    if is_first:
        rows = folder.info.num_rows
        if rows > rows_before or not has_record(folder):  # else it is only joined
            # before the codes are complete, which nothing is done to again
            write_record(folder, codec, where, num_rows=rows - rows_before, seconds=time.monotonic() - began)
        with shown("joining the shards", show=show):
            if tables is not None:
                folder.write_tables(*tables)
            else:
                folder.merge() if merge else folder.join()
        size = rows * folder.info.bytes_per_vector / 1e6
        taken = duration(time.monotonic() - began)
        log.info("%s: %s rows, %.1f MB of codes, in %s", folder.output, f"{rows:,}", size, taken)


def _predict(fitter: Trainer, module: Encoding, folder: ShardFolder, progress: RowsDone) -> dict[str, Any]:
    fitter.callbacks.append(WriteShards(folder, progress))  # type: ignore[attr-defined]
    fitter.predict(module, return_predictions=False)
    if fitter.is_global_zero:
        _wait(folder, progress)
    return {"device": str(fitter.strategy.root_device), "num_ranks": fitter.world_size}


def _wait(folder: ShardFolder, progress: RowsDone) -> None:
    """Wait for the other ranks. By their files: a collective would give up after minutes, and they may need hours."""
    while len(folder.finished()) < folder.info.num_shards:
        folder.check_failure()
        progress.advance()
        time.sleep(_POLL_S)


def _trainer(options: Mapping[str, Any] | None, device: torch.device) -> Trainer:
    if options is None:  # whatever cluster this process runs on
        on_cpu = device.type == "cpu"
        options = {"accelerator": "cpu" if on_cpu else "gpu", "devices": 1 if on_cpu else [device.index or 0]}
        options["plugins"] = [LightningEnvironment()]
    if str(options.get("precision", "32-true")) not in ("32-true", "32"):
        raise ValueError(f"trainer.precision={options['precision']}: it would round the vectors; give precision=NAME")
    return Trainer(
        **options,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
