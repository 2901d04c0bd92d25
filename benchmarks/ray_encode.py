"""What does a Ray cluster of this machine cost `qinco encode`?

    python benchmarks/ray_encode.py [CODEC] [--rows 400000] [--shard-rows 16384] [--repeats 3]

Rates of `qinco encode` with as many threads as there are cores, and with `engine=ray`, a task for each core, on the
same SIFT-like rows, by turns in this process: reading, scheduling and writing included. The Ray is started, and each of
its workers has loaded the codec, before time is taken; what both cost is printed apart. CODEC has 128 dimensions;
default: random weights of the sizes of qinco2_tiny.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

import ray
import torch
from encode_job import DIM, sift_like
from measuring import machine

from qinco_lit import Codec
from qinco_lit.encoding.encode_file import encode
from qinco_lit.quantizers import build_quantizer
from qinco_lit.vectors import VectorFile, open_vectors


def rate(
    codec: Path, vectors: VectorFile, folder: Path, shard_rows: int, engine: Literal["lightning", "ray"]
) -> tuple[float, dict[str, bytes]]:
    """Vectors per second, and what is in the files."""
    trainer = {"accelerator": "cpu", "devices": "auto" if engine == "ray" else 1}
    with tempfile.TemporaryDirectory(dir=folder) as output:
        began = time.perf_counter()
        encode(
            codec=codec, vectors=vectors, output=Path(output) / "codes.h5", trainer=trainer, engine=engine,
            shard_rows=shard_rows, progress=False,
        )  # fmt: skip
        taken = time.perf_counter() - began
        shards = sorted(Path(output).glob("codes.h5.shards/*"))
        return len(vectors) / taken, {path.name: path.read_bytes() for path in shards}


def random_codec(folder: Path) -> Path:
    """Of the sizes of qinco2_tiny: as fast as a trained one."""
    sizes = {"num_steps": 8, "codebook_size": 256, "embed_dim": 128, "hidden_dim": 256, "num_blocks": 2}
    Codec(build_quantizer(DIM, beam_size=8, candidate_budget=16, num_candidates=16, **sizes)).save(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("codec", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--shard-rows", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    print(machine(torch.device("cpu")))
    began = time.perf_counter()
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    print(f"Ray of {cores} workers: {time.perf_counter() - began:.1f} s to start")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codec = random_codec(folder / "codec") if options.codec is None else options.codec.absolute()
        vectors = open_vectors(sift_like(folder / "base.u8bin", options.rows))
        began = time.perf_counter()
        rate(codec, vectors.view(0, 2 * cores * 1024), folder, 1024, "ray")
        print(f"workers' first shards: {time.perf_counter() - began:.1f} s")
        rates: dict[Literal["lightning", "ray"], list[float]] = {"lightning": [], "ray": []}
        contents = {}
        for _ in range(options.repeats):
            for engine, found in rates.items():
                value, contents[engine] = rate(codec, vectors, folder, options.shard_rows, engine)
                found.append(value)
        assert contents["lightning"] == contents["ray"]
    for engine, found in rates.items():
        print(f"{engine}: {statistics.median(found):,.0f} vectors/s, {min(found):,.0f} to {max(found):,.0f}")
    ratios = [one / other for one, other in zip(rates["ray"], rates["lightning"], strict=True)]
    print(f"ray / lightning: {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}; the same bytes")
    ray.shutdown()


if __name__ == "__main__":
    main()
