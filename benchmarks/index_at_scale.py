"""What does an index of very many vectors take: time and memory to build, to load and to search?

    .venv/bin/python benchmarks/index_at_scale.py --folder DIR [--vectors 100_000_000] [--lists 65_536] [--parts 8]

Codes are random, of 8 bytes, in lists at random, by QINCo2-S's networks of random weights; the vectors are a sparse
file of zeros, of which nothing is read but a sample. So the figures are of the index, and recall means nothing. Each
stage is a process of its own: CPU time, and the most memory that it had, all of it (with pages of mapped files, which
the system takes back where memory is short) and its own ("anonymous"). DIR needs 60 bytes a vector; remove it
afterwards.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import heading, line, machine
from subjects import MODELS

from qinco_lit import Codec, Searcher, build_index, open_vectors
from qinco_lit.quantizers import build_quantizer
from qinco_lit.training.start import init_networks
from qinco_lit.vectors.code_info import CodeInfo, RowsDigest, StoredRows, input_facts
from qinco_lit.vectors.code_writer import CodeWriter, ShardRecord

DIM, STEPS, CODEBOOK_SIZE = 128, 8, 256
TRAINING, BLOCK_ROWS, QUERIES, CALLS = 20_000, 1 << 18, 1_000, 3
SEARCHES = ({"nprobe": 16, "num_additive": 50}, {"nprobe": 64, "num_additive": 300})
EVERY_S = 0.1  # memory is looked at


def make(options: argparse.Namespace) -> None:
    """The codec, the file of vectors, and the store of codes."""
    generator = torch.Generator().manual_seed(0)
    narrow = {"num_candidates": 4, "beam_size": 4}  # of what is encoded to fit the decoder
    quantizer = build_quantizer(
        DIM, num_steps=STEPS, codebook_size=CODEBOOK_SIZE, num_lists=options.lists, **{**MODELS["S"], **narrow}
    )
    init_networks(quantizer.parts[0], "linear", generator)
    quantizer.set_centroids(4 * torch.randn(options.lists, DIM, generator=generator))
    Codec(quantizer).save(options.folder / "codec")
    vectors = options.folder / "vectors.u8bin"
    with vectors.open("wb") as file:
        file.write(np.array([options.vectors, DIM], "<u4").tobytes())
        file.truncate(8 + options.vectors * DIM)
    codec = Codec.load(options.folder / "codec")
    search = codec.quantizer.default_search.record()
    info = CodeInfo(
        num_steps=STEPS,
        codebook_size=CODEBOOK_SIZE,
        packed=False,
        num_lists=options.lists,
        shard_rows=options.vectors,
        codec_sha256=codec.identity,
        precision=codec.precision,
        **{name: search[name] for name in ("beam_size", "num_candidates", "candidate_budget")},
        **input_facts(open_vectors(vectors)),
    )
    digest = RowsDigest()
    for rows in random_rows(options):
        digest.add(rows)
    record = ShardRecord(0, digest.hexdigest())
    with CodeWriter(options.folder / "codes.h5", info, options.vectors, [record]) as writer:
        for rows in random_rows(options):
            writer.append(rows)


def random_rows(options: argparse.Namespace) -> Iterator[StoredRows]:
    rng = np.random.default_rng(0)
    for start in range(0, options.vectors, BLOCK_ROWS):
        number = min(BLOCK_ROWS, options.vectors - start)
        codes = rng.integers(0, CODEBOOK_SIZE, (number, STEPS), dtype=np.uint8)
        yield StoredRows(codes, rng.integers(0, options.lists, number, dtype=np.int32))


def build(options: argparse.Namespace) -> None:
    """The additive decoder, and the lists, merged in memory."""
    folder = options.folder
    training = np.random.default_rng(1).normal(0, 4, (TRAINING, DIM)).astype(np.float32)
    build_index(
        folder / "codec", folder / "vectors.u8bin", codes=folder / "codes.h5", training=training, pairwise=False,
        output=folder / "index", parts=options.parts, on_disk=options.on_disk, num_threads=options.threads,
    )  # fmt: skip


def search(options: argparse.Namespace) -> None:
    """Load the index, and ask it; in memory, or mapped where it was built so."""
    began = clocks()
    searcher = Searcher.load(options.folder / "index", num_threads=options.threads)
    print(line(f"load {len(searcher):,}", *(f"{taken:.1f} s" for taken in clocks() - began), ""), flush=True)
    queries = np.random.default_rng(2).normal(0, 4, (QUERIES, DIM)).astype(np.float32)
    for parameters in SEARCHES:
        for size, calls in ((1, QUERIES // 10), (QUERIES, CALLS)):
            searcher.search(queries[:size], 10, **parameters)
            began = clocks()
            for call in range(calls):
                searcher.search(queries[call : call + size], 10, **parameters)
            taken = 1e3 * (clocks() - began) / calls / min(size, QUERIES - calls)
            what = f"{size:,} at once, " + ", ".join(f"{name} {value}" for name, value in parameters.items())
            print(line(what, *(f"{one:.2f} ms a query" for one in taken), ""), flush=True)


def clocks() -> np.ndarray:
    """Wall and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def memory() -> np.ndarray:
    """Bytes of this process in memory: all, and its own."""
    status = Path("/proc/self/status").read_text()
    kilobytes = (status.split(f"{name}:")[1].split()[0] for name in ("VmRSS", "RssAnon"))
    return 1024 * np.array([int(number) for number in kilobytes])


STAGES = {"make": make, "build": build, "search": search}


def run(stage: str, options: argparse.Namespace) -> None:
    """One stage in this process, with a line of what it took."""
    most, began, ended = memory(), clocks(), threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            most[:] = np.maximum(most, memory())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        STAGES[stage](options)
    finally:
        ended.set()
        watching.join()
    wall, cpu = clocks() - began
    sizes = ", ".join(f"{size / 1e9:.2f}" for size in (*most, *memory()))
    print(line(stage, f"{wall:.1f} s", f"{cpu:.1f} s", sizes), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty one that is there")
    parser.add_argument("--vectors", type=int, default=100_000_000)
    parser.add_argument("--lists", type=int, default=65_536)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--on-disk", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stage", choices=STAGES, help="this one alone, in this process")
    options = parser.parse_args()
    if options.stage is not None:
        run(options.stage, options)
        return
    print(f"{machine(torch.device('cpu'))}\n")
    print(heading("what", "wall", "CPU", "GB: most, most anonymous; at the end"), flush=True)
    for stage in STAGES:
        subprocess.run([sys.executable, *sys.argv, "--stage", stage], check=True, env=os.environ)


if __name__ == "__main__":
    main()
