"""`truncate`: a store of codes, or a codec, cut to the first codes of each vector."""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from qinco_lit.locks import only_writer

if TYPE_CHECKING:
    from qinco_lit.vectors import CodeStore

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco truncate`."""
    parser.add_argument(
        "path", metavar="PATH", type=Path, help="store of codes (codes.h5 of `qinco encode`), or codec folder"
    )
    parser.add_argument(
        "--num-steps", metavar="M", type=int, required=True, help="codes of each vector that are kept, the first ones"
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        required=True,
        help="store (.h5) or codec folder to write, a new one; a store that was interrupted is continued",
    )


def run(options: argparse.Namespace) -> None:
    """Write the smaller store or codec.

    Raises:
        FileNotFoundError: no such store or codec, no folder for the output.
        ValueError: an output that exists and is not this work or that another process writes, steps that there are
            not, a damaged store.
        OSError: the disk is full; finished shards are kept.
    """
    source, num_steps, output = options.path, options.num_steps, options.output
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such store of codes or codec folder")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: the folder {output.parent} does not exist; make it first")
    with only_writer(output):
        if output.is_dir() or (output.exists() and (source.is_dir() or output.samefile(source))):
            raise ValueError(f"--output {output} exists: name another one")
        (truncate_codec if source.is_dir() else truncate_codes)(source, num_steps, output)


def truncate_codec(source: Path, num_steps: int, output: Path) -> None:
    """Write a codec of the first steps of another; it decodes stores of either, and encodes as num_steps= of both."""
    from qinco_lit.codec import Codec

    if (source / "codec" / "config.json").is_file():
        raise ValueError(f"{source} is no codec, but holds one: give {source / 'codec'}")
    codec = Codec.load(source)
    _check(source, num_steps, codec.num_steps)
    codec.truncated(num_steps).save(output)
    _log.info("%s: the first %d of %d steps", output, num_steps, codec.num_steps)


def truncate_codes(source: Path, num_steps: int, output: Path) -> None:
    """Write a store of the first codes of each vector, with its lists, packed and joined as the other one is.

    Rows go from shard to shard in flat memory. Each shard of the source is compared with its checksum as it is read;
    what an earlier call has finished is kept, and a store that is complete stays as it is.
    """
    from qinco_lit.encoding.encode_file import check_output, check_same
    from qinco_lit.encoding.progress import Progress, duration
    from qinco_lit.encoding.shards import ShardFolder, folder_of
    from qinco_lit.vectors import open_codes
    from qinco_lit.vectors.code_info import StoredRows

    check_output(output, option="--output ")
    store = open_codes(source)
    _check(source, num_steps, store.shape[1])
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
        _log.info("%s is complete already: %s rows", output, f"{len(complete):,}")
        return
    folder = folder or ShardFolder(output, info)
    folder.create()
    shards, progress = folder.unfinished(0, 1), Progress(folder, "truncating")
    progress.start(shards)
    try:
        for shard in shards:
            with folder.writing(shard) as writer:
                for rows in store.checked_batches(shard):
                    codes = info.stored(store.info.unstored(rows.codes)[:, :num_steps])
                    writer.append(StoredRows(codes, rows.list_ids))
                    progress.advance(len(codes))
        folder.join() if store.is_virtual else folder.merge()
    finally:
        progress.stop()
    seconds = time.monotonic() - began
    _write_record(output, source, info.to_values(), seconds)
    size = len(store) * info.bytes_per_vector / 1e6
    what = f"{len(store):,} rows, {num_steps} of {store.shape[1]} codes each"
    _log.info("%s: %s, %.1f MB, in %s", output, what, size, duration(seconds))


def _check(source: Path, num_steps: int, found: int) -> None:
    if not 1 <= num_steps <= found:
        raise ValueError(f"--num-steps {num_steps}: {source} has {found} steps; give 1 to {found}")


def _complete_store(output: Path) -> "CodeStore | None":
    """Open an output that is complete; None where there is none, or where a shard must be cut again.

    Raises:
        ValueError: a file of that name that is no store, or one whose shards are gone.
    """
    import h5py

    from qinco_lit.encoding.shards import finished_store
    from qinco_lit.vectors.code_info import CodeInfo

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


def _write_record(output: Path, source: Path, store: dict[str, object], seconds: float | None) -> None:
    """Say beside the store what it was cut from, as `qinco encode` says what encoded.

    `seconds` is None when the call that wrote the store was killed before it could say.
    """
    from qinco_lit.atomic import write_atomically
    from qinco_lit.environment import environment

    record = {
        "format": "qinco_lit truncate",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "source": str(source),
        "seconds": None if seconds is None else round(seconds, 3),
        "store": store,
        **environment(),
    }
    write_atomically(_record_file(output), json.dumps(record, indent=2) + "\n")
