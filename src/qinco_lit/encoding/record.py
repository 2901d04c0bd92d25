"""What is said beside a store of codes: what encoded it; the store itself is the same from wherever it comes."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinco_lit.atomic import write_atomically
from qinco_lit.codec import Codec
from qinco_lit.encoding.shards import ShardFolder, check_same
from qinco_lit.environment import environment
from qinco_lit.vectors.code_info import CodeInfo
from qinco_lit.vectors.remote import read_text, write_text


def _place_of(folder: ShardFolder) -> Path | str:
    """Its file, beside the codes."""
    output = folder.output
    return f"{output}.json" if isinstance(output, str) else output.with_name(f"{output.name}.json")


def has_record(folder: ShardFolder) -> bool:
    """Whether it is there; at a url it is from the beginning on (`claim`)."""
    place = _place_of(folder)
    return isinstance(place, str) or place.exists()


def claim(folder: ShardFolder, codec: Codec) -> None:
    """At a url no lock can be held: there the record is written first, and who finds that of other work gives way.

    So a url that cannot be written is known before any work, too. Two that begin in the same moment may both go on.

    Raises:
        ValueError: the record of other work is there.
        OSError: the url cannot be read or written.
    """
    place = _place_of(folder)
    if not isinstance(place, str):
        return
    found = read_text(place)
    if found is None:
        write_record(folder, codec, {}, num_rows=0, seconds=0)
        return
    try:
        known = CodeInfo.from_values(json.loads(found)["store"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{place} is there and says nothing of codes: name another output=") from None
    check_same(place, known, folder.info)


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
    place, text = _place_of(folder), json.dumps(record, indent=2) + "\n"
    write_text(place, text) if isinstance(place, str) else write_atomically(place, text)
