"""The arithmetic of a plan: what is proportional to what, and sizes against those of real files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.encoding import ShardFolder, default_shard_rows
from qinco_lit.planning.figures import doublings, memory_of_a_process, shards, sizes_on_disk, times
from qinco_lit.planning.measurements import Measurements, Searched
from qinco_lit.planning.throughput import Throughput
from qinco_lit.quantizers.beam import Search
from qinco_lit.vectors.code_info import CodeInfo, StoredRows
from tests.models import random_quantizer

SEARCH = Search(8, 4, None, 256)


def _throughput(row_s: float, rows: int = 100) -> Throughput:
    calls = tuple(row_s * rows * factor for factor in (1.0, 0.9, 1.3))
    return Throughput(rows, calls, tuple(call / rows for call in calls))


def _measured(**changes: Any) -> Measurements:
    encode = Searched(
        SEARCH, _throughput(1e-3), {"beam_size": _throughput(1.9e-3), "num_candidates": _throughput(1.5e-3)}
    )
    training = Searched(replace(SEARCH, beam_size=4), _throughput(4e-3), {"beam_size": _throughput(6e-3)})
    measured = Measurements(encode, _throughput(1e-5), training, batch_size=512, fixed_s=0.0, read=None, peak_bytes=1)
    return replace(measured, **changes)


SET = {"num_rows": 10**6, "epoch_size": 10**5, "max_epochs": 3, "num_devices": 1}


def _seconds(figures: dict[str, Any]) -> dict[str, float]:
    return {f"{work} {name}": time[name] for work, time in figures.items() for name in time if name.endswith("s")}


def test_times_are_rows_over_throughput():
    figures = times(_measured(), **SET)
    assert [figures[work]["seconds"] for work in ("encode", "decode", "epoch", "training")] == pytest.approx(
        [1000, 10, 400, 1200]
    )
    assert figures["encode"]["at_least_s"] == pytest.approx(900)
    assert figures["encode"]["at_most_s"] == pytest.approx(1300)
    assert figures["encode"]["extrapolated_by"] == pytest.approx(10**6 / 300)


@pytest.mark.parametrize(
    ("change", "scaled", "factor"),
    [
        ({"num_rows": 7 * 10**6}, {"encode", "decode"}, 7),
        ({"epoch_size": 5 * 10**5}, {"epoch", "training"}, 5),
        ({"max_epochs": 6}, {"training"}, 2),
    ],
)
def test_times_are_proportional(change, scaled, factor):
    before, after = times(_measured(), **SET), times(_measured(), **{**SET, **change})
    for work, time in after.items():
        for name, value in time.items():
            assert value == pytest.approx(before[work][name] * (factor if work in scaled else 1)), (work, name)


def test_half_the_devices_take_twice_the_time():
    eight, four = (_seconds(times(_measured(), **{**SET, "num_devices": number})) for number in (8, 4))
    assert four == pytest.approx({name: 2 * value for name, value in eight.items() if not name.endswith("rows")} | {
        name: value for name, value in eight.items() if name.endswith("rows")
    })  # fmt: skip


def test_doublings_are_those_measured_and_the_assumed_ones_say_so():
    planned = times(_measured(), **SET)
    lines = {line["option"]: line for line in doublings(_measured(), planned, 2)}
    assert list(lines) == ["beam_size", "num_candidates", "num_devices", "num_rows"]
    assert {name: line["basis"] for name, line in lines.items()} == {
        "beam_size": "measured", "num_candidates": "measured", "num_devices": "assumed", "num_rows": "assumed",
    }  # fmt: skip
    beam = lines["beam_size"]
    assert (beam["encode"]["from"], beam["encode"]["to"]) == (8, 16)
    assert beam["encode"]["time_ratio"] == pytest.approx(1.9)
    assert beam["encode"]["seconds"] == pytest.approx(1900)
    assert (beam["training"]["from"], beam["training"]["to"]) == (4, 8)  # the model's own search
    assert beam["training"]["seconds"] == pytest.approx(1800)
    assert lines["num_candidates"]["training"] is None
    assert lines["num_devices"]["encode"]["seconds"] == pytest.approx(500)


@pytest.mark.parametrize(
    ("num_rows", "sizes"),
    [
        (65_536, {"num_steps": 8, "codebook_size": 256}),
        (200_001, {"num_steps": 8, "codebook_size": 256}),
        (200_001, {"num_steps": 4, "codebook_size": 300}),
        (100_000, {"num_steps": 4, "codebook_size": 16, "num_lists": 9}),
    ],
)
def test_the_store_has_the_size_planned(tmp_path: Path, num_rows: int, sizes: dict[str, Any]):
    codec = Codec(random_quantizer(2, hidden_dim=2, num_blocks=1, num_candidates=2, beam_size=2, **sizes))
    info = CodeInfo(
        num_rows, codec.num_steps, codec.codebook_size, False, codec.num_lists, default_shard_rows(num_rows), "0" * 64,
        2, "float32", 1, "base.npy", "0" * 64, 2, 2, None, "float32",
    )  # fmt: skip
    folder = ShardFolder(tmp_path / "codes.h5", info)
    folder.create()
    for shard in range(info.num_shards):
        start, stop = info.shard_range(shard)
        codes = np.ones((stop - start, codec.num_steps), codec.code_dtype)
        ids = None if codec.num_lists is None else np.ones(stop - start, np.int32)
        with folder.writing(shard) as writer:
            writer.append(StoredRows(info.stored(codes), ids))
    folder.join()
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    planned = sizes_on_disk(codec, num_rows=num_rows, row_bytes=8, file_bytes=None)
    assert planned["store_bytes"] == pytest.approx(written, rel=0.02)
    assert planned["codes_bytes"] + planned["list_ids_bytes"] == num_rows * info.bytes_per_vector
    assert planned["bytes_per_vector"] == info.bytes_per_vector
    assert planned["vectors_bytes"] == 8 * num_rows
    assert shards(num_rows, 10.0)["number"] == info.num_shards
    assert shards(num_rows, 10.0)["lost_by_a_kill_s"] == min(info.shard_rows, num_rows) / 10


def test_memory_is_that_of_the_weights_and_tables(tmp_path: Path):
    sizes = {"num_steps": 4, "codebook_size": 32, "hidden_dim": 24, "num_candidates": 4, "beam_size": 3}
    codec = Codec(random_quantizer(8, embed_dim=16, **sizes), precision="float32", workspace_bytes=1 << 20)
    codec.save(tmp_path / "codec")
    memory = memory_of_a_process(codec, codec.quantizer.default_search, 8, 5)
    assert memory["weights_bytes"] == pytest.approx(
        (tmp_path / "codec" / "weights.safetensors").stat().st_size, abs=4096
    )
    assert memory["tables_bytes"] == 3 * 32 * (16 + 24 + 1) * 4  # stream, hidden and a norm per codeword
    assert (1 << 19) < memory["workspace_bytes"] <= 1 << 20
    assert memory["blocks_bytes"] == 16_384 * (3 * 8 + 2 * 4 * 8)
    assert memory["measured_peak_bytes"] == 5
