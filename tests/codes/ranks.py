"""Work of test_ranks.py in a process of its own: encoding jobs of several ranks, killed and continued.

The packages are imported once; every rank is a fork with the environment that torchrun gives. `results.json` in the
folder for the results says what was seen.
"""

import json
import os
import random
import shutil
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from qinco_lit.codec import Codec
from qinco_lit.encoding.encode_file import encode
from qinco_lit.vectors import open_vectors

SHARD_ROWS, NUM_KILLS = 500, 8
TORCHRUN = {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def start(num_ranks: int, options: dict[str, str], folder: Path) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    return [_fork(rank, num_ranks, port, options, folder) for rank in range(num_ranks)]


def _fork(rank: int, num_ranks: int, port: int, options: dict[str, str], folder: Path) -> int:
    if (process := os.fork()) != 0:
        return process
    code = 1
    with (folder / f"rank{rank}.log").open("a") as errors:
        try:
            signal.alarm(120)  # a rank that waits for another one for ever fails the test
            os.environ |= TORCHRUN | {"MASTER_PORT": str(port), "WORLD_SIZE": str(num_ranks)}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(num_ranks)}
            torch.set_num_threads(1)
            os.chdir(folder)
            if rank == 1 and "fault" in options:
                _fail_by(options["fault"])
            encode(
                codec=Path(options["codec"]),
                vectors=open_vectors(options["vectors"]),
                output=Path("codes.h5"),
                shard_rows=SHARD_ROWS,
                merge=options.get("merge") == "true",
                trainer={"accelerator": "cpu", "devices": num_ranks, "strategy": "ddp" if num_ranks > 1 else "auto"},
            )
            code = 0
        except (ValueError, OSError) as error:
            errors.write(f"{error}\n")
            code = 2
        except BaseException as error:
            errors.write(f"{error!r}\n")
        finally:
            errors.flush()
            os._exit(code)


def _fail_by(fault: str) -> None:
    """What ends this rank as it encodes."""

    def encode_block(self: Codec, x: object, **search: object) -> object:
        if fault == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more of this")

    Codec.encode = encode_block  # type: ignore[assignment, method-assign]


def wait(processes: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def kill(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait(processes)


def finished(folder: Path) -> dict[str, int]:
    """Shards that are finished, and the times of their files."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("codes.h5.shards/shard-*.json")}


def kill_at_random(options: dict[str, str], folder: Path, generator: random.Random) -> list[dict[str, int]]:
    """Kill ranks at any moment, and every second time after one more shard, however slow the machine is."""
    seen: list[dict[str, int]] = []
    for number in range(NUM_KILLS):
        processes = start(generator.choice((1, 2, 3)), options, folder)
        if number % 2 == 0:
            time.sleep(generator.uniform(0.1, 0.7))
        else:
            until = time.monotonic() + 60
            while len(finished(folder)) == len(seen[-1]) and time.monotonic() < until:
                if (folder / "codes.h5").exists():
                    break
                time.sleep(0.01)
            time.sleep(generator.uniform(0, 0.1))
        kill(processes)
        seen.append(finished(folder))
        if (folder / "codes.h5").exists():
            break
    return seen


def finish_one_shard(shard: int, options: dict[str, str], folder: Path) -> list[int]:
    """Take one shard from a finished job and continue it with two ranks, one of which has nothing to do."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folder.with_name("one"), folder)
    (folder / "codes.h5").unlink()
    (folder / "codes.h5.shards" / f"shard-{shard:05d}.json").unlink()
    return wait(start(2, options, folder))


def stop_when_the_starter_dies(options: dict[str, str], folder: Path) -> bool:
    """Kill a process that started two ranks, and the first of them; tell whether the second stops by itself."""
    read, write = os.pipe()
    if (starter := os.fork()) == 0:
        processes = start(2, options, folder)
        os.write(write, json.dumps(processes).encode())
        time.sleep(60)
    processes = json.loads(os.read(read, 1000))
    while not finished(folder):
        time.sleep(0.02)
    for process in (starter, processes[0]):
        os.kill(process, signal.SIGKILL)
    os.waitpid(starter, 0)
    for _ in range(100):
        if not _is_alive(processes[1]):
            return not (folder / "codes.h5").exists()
        time.sleep(0.05)
    os.kill(processes[1], signal.SIGKILL)
    return False


def _is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    with suppress(OSError):
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def main(codec: str, vectors: str, folder_name: str) -> None:
    folder, generator = Path(folder_name), random.Random(0)
    options = {"codec": codec, "vectors": vectors}
    encode_block = Codec.encode

    def slow(self: Codec, x: object, **search: object) -> object:
        time.sleep(0.1)  # long enough to be killed in
        return encode_block(self, x, **search)  # type: ignore[arg-type]

    Codec.encode = slow  # type: ignore[assignment, method-assign]
    results: dict[str, object] = {}
    for name, num_ranks in {"one": 1, "two": 2, "three": 3}.items():
        results[name] = wait(start(num_ranks, options, folder / name))
    results["kills"] = kill_at_random(options, folder / "killed", generator)
    results["resumed"] = wait(start(2, options, folder / "killed"))
    results["merged"] = wait(start(2, {**options, "merge": "true"}, folder / "merged"))
    results["idle"] = [finish_one_shard(shard, options, folder / "idle") for shard in (18, 19)]
    results["stopped"] = stop_when_the_starter_dies(options, folder / "orphan")

    rows = np.array(open_vectors(vectors)[:])
    rows[SHARD_ROWS + 7] = np.nan  # in a shard of the second rank
    np.save(folder / "nan.npy", rows)
    results["nan"] = wait(start(2, {**options, "vectors": str(folder / "nan.npy")}, folder / "nan"))
    for fault in ("memory", "SIGTERM"):
        results[fault] = wait(start(2, {**options, "fault": fault}, folder / fault))
    (folder / "results.json").write_text(json.dumps(results))
