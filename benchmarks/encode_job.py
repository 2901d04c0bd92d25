"""What does `qinco encode` cost beyond the encoder, and what do its promises cost?

    .venv/bin/python benchmarks/encode_job.py [CODEC] [--part overhead memory kills ranks]

overhead: rate of the job (reading, bookkeeping and writing included) against the bare encoder on the same rows, by
turns in one process. memory: peak resident set of the command on sparse files of few and of many rows, with a narrow
search. kills: SIGKILL at random moments, the same command again; rows lost or doubled, shards begun anew per kill.
ranks: two processes against one on the same cores. CODEC is one of 128 dimensions, default the newest demo's
(qinco2_tiny).
"""

import argparse
import filecmp
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from qinco_lit import Codec
from qinco_lit.encoding.encode_file import encode
from qinco_lit.quantizers.chunks import BLOCK_ROWS
from qinco_lit.vectors import open_codes, open_vectors, write_vectors

DIM = 128
PARTS = ("overhead", "memory", "kills", "ranks")
CPU = {"accelerator": "cpu", "devices": 1}


def sift_like(path: Path, num_rows: int) -> Path:
    generator = np.random.default_rng(0)
    blocks = (min(100_000, num_rows - start) for start in range(0, num_rows, 100_000))
    write_vectors(path, (generator.integers(0, 200, (rows, DIM), dtype=np.uint8) for rows in blocks))
    return path


def sparse(path: Path, num_rows: int) -> Path:
    with path.open("wb") as stream:
        stream.write(np.array([num_rows, DIM], dtype="<u4").tobytes())
        stream.truncate(8 + num_rows * DIM)
    return path


def command(codec: Path, vectors: Path, output: Path, *options: str) -> list[str]:
    arguments = [f"codec={codec}", f"input={vectors}", f"output={output}", "trainer.accelerator=cpu", *options]
    return [sys.executable, "-m", "qinco_lit.cli", "encode", *arguments]


def overhead(codec_dir: Path, folder: Path, num_rows: int, repeats: int) -> None:
    vectors = open_vectors(sift_like(folder / "base.u8bin", num_rows))
    codec, rows = Codec.load(codec_dir), torch.from_numpy(vectors[:])
    codec.encode(rows[:256])
    bare_s, job_s = [], []
    for repeat in range(repeats):
        began = time.perf_counter()
        for start in range(0, num_rows, BLOCK_ROWS):
            codec.encode(rows[start : start + BLOCK_ROWS])
        bare_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        encode(codec=codec_dir, vectors=vectors, output=folder / f"{repeat}.h5", trainer=CPU)
        job_s.append(time.perf_counter() - began)
    bare, job = float(np.median(bare_s)), float(np.median(job_s))
    store = open_codes(folder / "0.h5")
    files = [folder / "0.h5", *(folder / "0.h5.shards").iterdir()]
    bytes_on_disk = sum(file.stat().st_size for file in files) / num_rows
    print(
        f"overhead: {num_rows} rows, encoder alone {num_rows / bare:,.0f} rows/s, job {num_rows / job:,.0f} rows/s: "
        f"{100 * (job / bare - 1):+.1f} % time (medians of {repeats}); {bytes_on_disk:.3f} bytes a vector on disk "
        f"for codes of {store.info.bytes_per_vector}",
        flush=True,
    )


def memory(codec: Path, folder: Path, sizes: list[int]) -> None:
    peaks = []
    for num_rows in sizes:
        vectors = sparse(folder / f"{num_rows}.u8bin", num_rows)
        narrow = ("beam_size=1", "num_candidates=1")
        began = time.perf_counter()
        process = subprocess.Popen(command(codec, vectors, folder / f"{num_rows}.h5", *narrow))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss / 1024)
        rate = num_rows / (time.perf_counter() - began)
        print(f"memory: {num_rows} rows, peak {peaks[-1]:,.0f} MiB, {rate:,.0f} rows/s with the start", flush=True)
    print(f"memory: largest / smallest {max(peaks) / min(peaks):.3f}")


def kills(codec: Path, folder: Path, num_rows: int, shard_rows: int, num_kills: int, num_ranks: int) -> None:
    vectors, generator = sift_like(folder / "base.u8bin", num_rows), random.Random(0)
    options = (f"shard_rows={shard_rows}", f"trainer.devices={num_ranks}")
    (folder / "whole").mkdir()
    subprocess.run(command(codec, vectors, folder / "whole" / "codes.h5", *options), check=True)
    shard_s = _seconds_per_shard(folder / "whole" / "codes.h5.shards") * num_ranks
    done, jobs, begun_anew, changed = 0, 0, [], 0
    while done < num_kills:
        jobs += 1
        output = folder / f"killed{jobs}" / "codes.h5"
        output.parent.mkdir()
        while not output.exists():
            if done == num_kills:
                subprocess.run(command(codec, vectors, output, *options), check=True)
                break
            before = _finished(output)
            process = subprocess.Popen(command(codec, vectors, output, *options), start_new_session=True)
            _wait_for_work(process, output)
            time.sleep(generator.uniform(0, 4 * shard_s))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                begun_anew.append(len(list(output.with_name("codes.h5.shards").glob(".shard-*.tmp"))))
                changed += sum(_finished(output).get(name) != written for name, written in before.items())
        names = [path.relative_to(output.parent) for path in output.parent.rglob("*") if path.is_file()]
        _, different, missing = filecmp.cmpfiles(folder / "whole", output.parent, names, shallow=False)
        assert not different, different
        assert not missing, missing
    print(
        f"kills: {num_kills} SIGKILLs of {num_ranks} ranks in {jobs} jobs of {num_rows} rows, shards of {shard_rows}: "
        f"0 rows lost or doubled (same bytes as uninterrupted); shards begun anew per kill: at most {max(begun_anew)}, "
        f"{np.mean(begun_anew):.1f} on average; finished shards written again: {changed}",
        flush=True,
    )


def _finished(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(f"{output}.shards").glob("shard-*.json")}


def _wait_for_work(process: "subprocess.Popen[bytes]", output: Path) -> None:
    """Wait for the first rank to write: a kill during the imports would show nothing."""
    folder = Path(f"{output}.shards")
    stale = {path.name for path in folder.glob(".shard-*.tmp")} if folder.exists() else set()
    while process.poll() is None:
        if folder.exists() and {path.name for path in folder.glob(".shard-*.tmp")} - stale:
            return
        time.sleep(0.02)


def _seconds_per_shard(shards: Path) -> float:
    """Time between shards after the first, whichever rank wrote them: without the start of the processes."""
    times = sorted(path.stat().st_mtime for path in shards.glob("shard-*.json"))
    return (times[-1] - times[0]) / (len(times) - 1)


def ranks(codec: Path, folder: Path, num_rows: int, shard_rows: int) -> None:
    vectors = sift_like(folder / "base.u8bin", num_rows)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    rates, names = {}, []
    for num_ranks in (1, 2):
        (folder / str(num_ranks)).mkdir()
        output = folder / str(num_ranks) / "codes.h5"
        options = (f"trainer.devices={num_ranks}", f"shard_rows={shard_rows}")
        began = time.perf_counter()
        subprocess.run(command(codec, vectors, output, *options), check=True, env=environment)
        wall_s = time.perf_counter() - began
        rates[num_ranks] = shard_rows / _seconds_per_shard(Path(f"{output}.shards"))
        names = [path.relative_to(output.parent) for path in output.parent.rglob("*") if path.is_file()]
        print(f"ranks: {num_ranks}, {rates[num_ranks]:,.0f} rows/s, {wall_s:.1f} s with the start", flush=True)
    same, different, missing = filecmp.cmpfiles(folder / "1", folder / "2", names, shallow=False)
    print(f"ranks: two against one {rates[2] / rates[1]:.2f}; {len(same)} files equal, {different + missing} not")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec", nargs="?", type=Path)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, default=200_000, help="of overhead, kills and ranks")
    parser.add_argument("--repeats", type=int, default=3, help="of overhead")
    parser.add_argument("--memory-rows", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-ranks", type=int, default=2)
    parser.add_argument("--shard-rows", type=int, default=4096, help="of kills and ranks")
    options = parser.parse_args()
    demos = sorted(Path("outputs/demo").glob("*/train/codec"))
    if options.codec is None and not demos:
        parser.error("no codec: run `make demo` first or name one")
    codec = (options.codec or demos[-1]).absolute()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, precision {Codec.load(codec).precision}",
        flush=True,
    )
    measures = {
        "overhead": lambda folder: overhead(codec, folder, options.rows, options.repeats),
        "memory": lambda folder: memory(codec, folder, options.memory_rows),
        "kills": lambda folder: kills(
            codec, folder, options.rows, options.shard_rows, options.kills, options.kill_ranks
        ),
        "ranks": lambda folder: ranks(codec, folder, options.rows, options.shard_rows),
    }
    for part in options.part:
        with tempfile.TemporaryDirectory() as folder:
            measures[part](Path(folder))


if __name__ == "__main__":
    main()
