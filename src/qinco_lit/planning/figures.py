"""What measured throughput and known sizes mean for a whole data set: arithmetic, no measurement."""

from typing import Any

import torch
from torch import Tensor

from qinco_lit.codec import Codec
from qinco_lit.encoding import default_shard_rows
from qinco_lit.planning.measurements import Measurements, Searched
from qinco_lit.planning.throughput import Throughput
from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.chunks import BLOCK_ROWS
from qinco_lit.quantizers.precision import precision_for
from qinco_lit.vectors.code_packing import packed_bytes

# What a store takes besides its rows, measured: header, index and record of a shard; the file that joins them.
_SHARD_BYTES, _STORE_BYTES = 2_450, 8_700
_LIST_ID_BYTES = 4
_BATCHES_IN_FLIGHT = 3  # encoded, ready, being read


def times(
    measured: Measurements, *, num_rows: int, epoch_size: int, max_epochs: int, num_devices: int
) -> dict[str, Any]:
    """Seconds for all rows: `encode`, `decode`, `epoch`, `training`."""

    def on_devices(throughput: Throughput, rows: int) -> dict[str, float]:
        return _time(throughput, rows, num_devices)

    training = measured.training.plain
    return {
        "encode": on_devices(measured.encode.plain, num_rows),
        "decode": on_devices(measured.decode, num_rows),
        "epoch": on_devices(training, epoch_size),
        "training": on_devices(training, max_epochs * epoch_size),
    }


def _time(throughput: Throughput, num_rows: int, num_devices: int) -> dict[str, float]:
    """By the median call, by the fastest and the slowest one, and the rows per row that was measured."""
    slowest, fastest = throughput.spread
    return {
        "rows": num_rows,
        "seconds": num_rows / throughput.vectors_per_s / num_devices,
        "at_least_s": num_rows / fastest / num_devices,
        "at_most_s": num_rows / slowest / num_devices,
        "extrapolated_by": num_rows / (throughput.rows * len(throughput.call_s)),
    }


def doublings(measured: Measurements, planned: dict[str, Any], num_devices: int) -> list[dict[str, Any]]:
    """What twice as much of one thing changes: options of the search, as measured; devices and rows, as assumed.

    `planned` is what `times` has returned. Each line has `option`, `basis`, and for `encode` and `training` the values
    `from` and `to`, the `time_ratio` and the new `seconds`; None where the option plays no role.
    """
    works: dict[str, Searched] = {"encode": measured.encode, "training": measured.training}
    lines: dict[str, dict[str, Any]] = {}

    def change(option: str, work: str, value: int, ratio: float, basis: str) -> None:
        line = lines.setdefault(option, {"option": option, "basis": basis, "encode": None, "training": None})
        seconds = ratio * planned[work]["seconds"]
        line[work] = {"from": value, "to": 2 * value, "time_ratio": ratio, "seconds": seconds}

    for work, searched in works.items():
        for option, throughput in searched.doubled.items():
            change(option, work, getattr(searched.search, option), throughput.ratio(searched.plain), "measured")
    for work in works:
        change("num_devices", work, num_devices, 0.5, "assumed")
    change("num_rows", "encode", planned["encode"]["rows"], 2.0, "assumed")
    return list(lines.values())


def sizes_on_disk(codec: Codec, *, num_rows: int, row_bytes: int, file_bytes: int | None) -> dict[str, int | None]:
    """Bytes of the codes alone, of the store that `qinco encode` writes, of its list ids, and of the vectors.

    Args:
        codec: says what a vector takes.
        num_rows: vectors.
        row_bytes: of a vector as it is read (float32 where it is normalised).
        file_bytes: of a file of so many vectors, where it is known.
    """
    code_bytes = codec.num_steps * codec.code_dtype.itemsize
    id_bytes = 0 if codec.num_lists is None else _LIST_ID_BYTES
    num_shards = -(-num_rows // default_shard_rows(num_rows))
    return {
        "bytes_per_vector": code_bytes + id_bytes,
        "codes_bytes": num_rows * code_bytes,
        "list_ids_bytes": num_rows * id_bytes,
        "store_bytes": num_rows * (code_bytes + id_bytes) + num_shards * _SHARD_BYTES + _STORE_BYTES,
        "packed_codes_bytes": num_rows * packed_bytes(codec.num_steps, codec.codebook_size),
        "vectors_bytes": num_rows * row_bytes,
        "vectors_file_bytes": file_bytes,
    }


def shards(num_rows: int, vectors_per_s: float) -> dict[str, float]:
    """How `qinco encode` cuts the work, and what a kill costs each process at most.

    `vectors_per_s` is that of one process.
    """
    rows = default_shard_rows(num_rows)
    return {"number": -(-num_rows // rows), "rows": rows, "lost_by_a_kill_s": min(rows, num_rows) / vectors_per_s}


def memory_of_a_process(codec: Codec, search: Search, row_bytes: int, peak_bytes: int) -> dict[str, int]:
    """Bytes that encoding takes, whatever the number of vectors: by arithmetic, and the peak that was measured."""
    quantizer = codec.quantizer
    weights = _storages([*quantizer.parameters(), *quantizer.buffers()])
    made = _storages(_tensors(quantizer.tables(precision_for(codec.precision, codec.device))))
    tables = {where: size for where, size in made.items() if where not in weights}
    # the chunk that a huge workspace would hold says what a vector takes in it
    huge = 1 << 60
    per_vector = huge // quantizer.searched_rows(search, huge)
    chunk = min(quantizer.searched_rows(search, codec.workspace_bytes), BLOCK_ROWS)
    float32_copies = 2 * BLOCK_ROWS * codec.dim * 4  # as read and normalised
    return {
        "weights_bytes": sum(weights.values()),
        "tables_bytes": sum(tables.values()),
        "workspace_bytes": chunk * per_vector,
        "blocks_bytes": _BATCHES_IN_FLIGHT * BLOCK_ROWS * row_bytes + float32_copies,
        "measured_peak_bytes": peak_bytes,
    }


def _storages(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes by address: tensors may share their memory."""
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, tuple | list) else []
