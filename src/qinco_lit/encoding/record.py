"""What is said beside a store of codes: what encoded it; the store itself is the same from wherever it comes."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinco_lit.atomic import write_atomically
from qinco_lit.codec import Codec
from qinco_lit.encoding.shards import ShardFolder
from qinco_lit.environment import environment


def record_of(folder: ShardFolder) -> Path:
    """Its file, beside the codes."""
    return folder.output.with_name(f"{folder.output.name}.json")


def write_record(folder: ShardFolder, codec: Codec, where: Mapping[str, Any], *, num_rows: int, seconds: float) -> None:
    """Write it.

    Args:
        folder: of the shards.
        codec: that encoded.
        where: its device, and the number of ranks or tasks at a time.
        num_rows: that were encoded in these seconds; others were finished before.
    """
    record = {
        "format": "qinco_lit encode",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "codec": None if codec.folder is None else str(codec.folder),
        **where,
        "num_rows_encoded": num_rows,
        "seconds": round(seconds, 3),
        "store": folder.info.to_values(),
        **environment(),
    }
    write_atomically(record_of(folder), json.dumps(record, indent=2) + "\n")
