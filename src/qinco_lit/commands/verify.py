"""`verify`: is a store of codes complete, and are its bytes those that were written."""

import argparse
import logging
from pathlib import Path

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco verify`."""
    parser.add_argument("store", metavar="PATH", help="store of codes that `qinco encode` wrote, or is writing")


def run(options: argparse.Namespace) -> None:
    """Read the whole store once. Raises FileNotFoundError or ValueError for a missing or damaged shard."""
    from qinco_lit.encoding.shards import ShardFolder
    from qinco_lit.progress import Progress
    from qinco_lit.vectors import open_codes
    from qinco_lit.vectors.layout import output_place

    place = output_place(options.store)
    folder = None if isinstance(place, Path) and place.exists() else ShardFolder.open(place)
    if folder is not None:
        with Progress("shards") as progress:
            finished = sorted(folder.finished())
            progress.start("verifying", len(finished))
            for shard in finished:
                folder.verify(shard)
                progress.advance()
        folder.records()
        raise ValueError(
            f"{options.store} is not complete: its shards are not joined; run the same `{folder.command}` again"
        )
    store = open_codes(options.store)
    with Progress("shards") as progress:
        progress.start("verifying", store.num_shards)
        for shard in range(store.num_shards):
            store.verify_shard(shard)
            progress.advance()
    _log.info(
        "%s: complete and undamaged, %s rows in %d shards, %d bytes each",
        store.path, f"{len(store):,}", store.num_shards, store.info.bytes_per_vector,
    )  # fmt: skip
