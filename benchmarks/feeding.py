"""Speed and memory of the data module that feeds training.

    python benchmarks/feeding.py

Vectors/s at batch 1024 from a 128-d uint8 file in the page cache, nothing being done with them; then time to the first
batch, vectors/s and resident set while streaming from a sparse file of 10^9 rows, every page new to the page cache.
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
import torch

from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.vectors import VectorWriter
from qinco_lit.vectors.data_facts import DataSource

DIM, BATCH_SIZE, NUM_VAL = 128, 1024, 10_000


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rows", type=int, default=2_000_000, help="rows of the warm file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num-batches", type=int, default=4000, help="batches from the file of 10^9 rows")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        measure_speed(Path(folder), options.num_rows, options.repeats)
        measure_billion(Path(folder), options.num_batches)


if __name__ == "__main__":
    main()
