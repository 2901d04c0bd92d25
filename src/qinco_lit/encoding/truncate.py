"""A store of codes cut to the first codes of each vector."""

import json
import logging
import time
from pathlib import Path

import h5py

from qinco_lit.atomic import write_atomically
from qinco_lit.encoding.shards import ShardFolder, check_output, check_same, finished_store, folder_of
from qinco_lit.encoding.writer import RowsDone
from qinco_lit.environment import environment
from qinco_lit.progress import Progress, duration
from qinco_lit.vectors import CodeStore, open_codes
from qinco_lit.vectors.code_info import CodeInfo, StoredRows

log = logging.getLogger(__name__)


def truncate_codes(source: Path | str, num_steps: int, output: Path) -> None:
    """Write a store of the first codes of each vector, with its lists, packed and joined as the other one is.

    Rows go from shard to shard in flat memory. Each shard of the source is compared with its checksum as it is read;
    what an earlier call has finished is kept, and a store that is complete stays as it is.
    """
    check_output(output, option="--output ", only_hdf5=True)
    store = open_codes(source)
    check_steps(source, num_steps, store.shape[1])
    info, began = store.info.prefix(num_steps), time.monotonic()
    complete, folder = _complete_store(output), ShardFolder.open(output)
    for path, work in ((output, complete), (folder_of(output), folder)):
        if work is not None:
            check_same(path, work.info, info, option="--output")
    if complete is not None:
        if folder is not None and not complete.is_virtual:
            folder.remove()  # a merge was killed at its very end
        if not _record_file(output).exists():
            _write_record(output, source, info.to_values(), None)
        log.info("%s is complete already: %s rows", output, f"{len(complete):,}")
        return
    folder = folder or ShardFolder(output, info)
    folder.create()
    shards, every = folder.unfinished(0, 1), range(info.num_shards)
    by_shard = [store.shard_range(shard) for shard in range(store.num_shards)] == list(map(info.shard_range, every))
    if not by_shard:  # Parquet: its checksums are of files
        for shard in range(store.num_shards):
            store.verify_shard(shard)
    with Progress() as shown:
        done = RowsDone(folder, shown, "truncating")
        done.start(shards)
        for shard in shards:
            with folder.writing(shard) as writer:
                rows_of_shard = store.stored_batches(*info.shard_range(shard))
                for rows in store.checked_batches(shard) if by_shard else rows_of_shard:
                    codes = info.stored(store.info.unstored(rows.codes)[:, :num_steps])
                    writer.append(StoredRows(codes, rows.list_ids))
                    done.advance(len(codes))
        folder.join() if store.is_virtual else folder.merge()
    seconds = time.monotonic() - began
    _write_record(output, source, info.to_values(), seconds)
    size = len(store) * info.bytes_per_vector / 1e6
    what = f"{len(store):,} rows, {num_steps} of {store.shape[1]} codes each"
    log.info("%s: %s, %.1f MB, in %s", output, what, size, duration(seconds))


def check_steps(source: Path | str, num_steps: int, found: int) -> None:
    """Raise ValueError for a number of codes that the store or codec at `source` has not."""
    if not 1 <= num_steps <= found:
        raise ValueError(f"--num-steps {num_steps}: {source} has {found} steps; give 1 to {found}")


def _complete_store(output: Path) -> CodeStore | None:
    """Open an output that is complete; None where there is none, or where a shard must be cut again.

    Raises:
        ValueError: a file of that name that is no store, or one whose shards are gone.
    """
    try:
        store = finished_store(output)
        if store is None and output.exists():  # it will be replaced: never a file that is something else
            with h5py.File(output, "r") as file:
                CodeInfo.from_values(dict(file.attrs))
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--output {output} exists: name another one ({reason})") from None
    return store


def _record_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.json")


def _write_record(output: Path, source: Path | str, store: dict[str, object], seconds: float | None) -> None:
    """Say beside the store what it was cut from, as `qinco encode` says what encoded.

    `seconds` is None when the call that wrote the store was killed before it could say.
    """
    record = {
        "format": "qinco_lit truncate",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "source": str(source),
        "seconds": None if seconds is None else round(seconds, 3),
        "store": store,
        **environment(),
    }
    write_atomically(_record_file(output), json.dumps(record, indent=2) + "\n")
