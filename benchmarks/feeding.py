"""Speed and memory of the data module that feeds training.

    python benchmarks/feeding.py

Vectors/s at batch 1024 from a 128-d uint8 file in the page cache, nothing being done with them; then time to the first
batch, vectors/s and resident set while streaming from a sparse file of 10^9 rows, every page new to the page cache.
Vectors/s, also per second of this process on a CPU, and resident set from 200 files of 384-d float16, npy and Parquet.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.vectors import VectorWriter
from qinco_lit.vectors.data_facts import DataSource

DIM, BATCH_SIZE, NUM_VAL = 128, 1024, 10_000
MANY_DIM = 384


def data_module(path: Path, epoch_size: int) -> VectorDataModule:
    data = VectorDataModule(
        DataSource(name="feeding", train=path), batch_size=BATCH_SIZE, num_val=NUM_VAL, epoch_size=epoch_size
    )
    data.setup()
    return data


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure_speed(folder: Path, num_rows: int, repeats: int) -> None:
    path = folder / "warm.bvecs"
    generator = np.random.default_rng(0)
    with VectorWriter(path, dim=DIM, dtype=np.uint8) as writer:
        for start in range(0, num_rows + NUM_VAL, 100_000):
            rows = min(100_000, num_rows + NUM_VAL - start)
            writer.append(generator.integers(0, 256, (rows, DIM), dtype=np.uint8))
    loader = data_module(path, num_rows).train_dataloader()
    rows = len(loader) * BATCH_SIZE
    for _ in loader:  # warm-up: page cache, allocator
        pass
    speeds = []
    for _ in range(repeats):
        start = time.perf_counter()
        delivered = sum(len(batch) for batch in loader)
        speeds.append(delivered / (time.perf_counter() - start) / 1e6)
    print(
        f"page cache warm: {np.median(speeds):.2f}M vectors/s, best {max(speeds):.2f} ({repeats} epochs of {rows} rows)"
    )


def measure_billion(folder: Path, num_batches: int) -> None:
    path = folder / "billion.u8bin"
    with path.open("wb") as stream:
        stream.write(np.array([10**9, DIM], dtype="<u4").tobytes())
        stream.truncate(8 + 10**9 * DIM)
    before = resident_mib()
    begin = time.perf_counter()
    batches = iter(data_module(path, 10_000_000).train_dataloader())
    next(batches)
    first_s = time.perf_counter() - begin
    peaks = [max(resident_mib() for _ in islice(batches, num_batches // 4)) - before for _ in range(4)]
    speed = num_batches * BATCH_SIZE / (time.perf_counter() - begin - first_s) / 1e6
    print(f"10^9 rows: first batch after {first_s:.2f} s, then {speed:.2f}M vectors/s through cold pages")
    print(
        f"10^9 rows: resident set above start, peaks of four quarters: {', '.join(f'{peak:.0f}' for peak in peaks)} MiB"
    )


def measure_many(folder: Path, num_files: int, rows_per_file: int, repeats: int) -> None:
    rows = np.random.default_rng(0).standard_normal((rows_per_file, MANY_DIM)).astype(np.float16)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), MANY_DIM)
    table = pyarrow.table({"id": np.arange(len(rows)), "embedding": column})
    for kind in ("npy", "parquet"):
        (folder / kind).mkdir()
    for number in range(num_files):
        np.save(folder / "npy" / f"part-{number}.npy", rows)
        path = folder / "parquet" / f"part-{number}.parquet"
        pyarrow.parquet.write_table(table, path, use_dictionary=False, compression="none")
    for kind in ("npy", "parquet"):
        loader = data_module(folder / kind, num_files * rows_per_file // 2).train_dataloader()
        speeds, cpu_speeds, peaks = [], [], []
        for _ in range(repeats + 1):  # the first one warms up
            start, cpu_start, delivered, peak = time.perf_counter(), time.process_time(), 0, 0.0
            for batch in loader:
                delivered, peak = delivered + len(batch), max(peak, resident_mib())
            speeds.append(delivered / (time.perf_counter() - start) / 1e3)
            cpu_speeds.append(delivered / (time.process_time() - cpu_start) / 1e3)
            peaks.append(f"{peak:.0f}")
        print(
            f"{num_files} {kind} files of {rows_per_file} x {MANY_DIM} float16: {np.median(speeds[1:]):.0f}k vectors/s,"
            f" {np.median(cpu_speeds[1:]):.0f}k per CPU second, best {max(speeds[1:]):.0f}k;"
            f" resident set, peak of each pass: {', '.join(peaks)} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rows", type=int, default=2_000_000, help="rows of the warm file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num-batches", type=int, default=4000, help="batches from the file of 10^9 rows")
    parser.add_argument("--num-files", type=int, default=200)
    parser.add_argument("--rows-per-file", type=int, default=5000)
    parser.add_argument("--only-many", action="store_true", help="the files of npy and Parquet only")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        if not options.only_many:
            measure_speed(Path(folder), options.num_rows, options.repeats)
            measure_billion(Path(folder), options.num_batches)
        measure_many(Path(folder), options.num_files, options.rows_per_file, options.repeats)


if __name__ == "__main__":
    main()
