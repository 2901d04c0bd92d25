"""The shards of an encoding as tasks of a Ray cluster: one shard a task, in the files that any other run writes."""

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qinco_lit import ray_cluster
from qinco_lit.arrays import AssignLists
from qinco_lit.coarse.assignment import list_assigner
from qinco_lit.codec import Codec
from qinco_lit.encoding.module import Encoding, ShardLoader
from qinco_lit.encoding.shards import ShardFolder
from qinco_lit.encoding.writer import RowsDone
from qinco_lit.vectors import VectorFile

_POLL_S = 0.5  # between looks at what tasks have finished


class ShardWork(NamedTuple):
    """What every task is told.

    Attributes:
        codec_dir, precision: of the codec, which each worker loads once.
        vectors: opened again by each worker.
        folder: of the shards; the workers see it under the same name.
        search: keyword arguments of `Codec.encode`.
        batch_size: rows read and moved to the device at once.
        num_threads: of torch.
        on_gpu: encode on the GPU that Ray gives the task.
        cwd: where relative paths begin.
    """

    codec_dir: str
    precision: str
    vectors: VectorFile
    folder: ShardFolder
    search: Mapping[str, Any]
    batch_size: int
    num_threads: int
    on_gpu: bool
    cwd: str


def runner(
    codec: Codec,
    precision: str,
    vectors: VectorFile,
    folder: ShardFolder,
    search: Mapping[str, Any],
    batch_size: int,
    num_threads: int | None,
    trainer: Mapping[str, Any] | None,
) -> Callable[[RowsDone], dict[str, Any]]:
    """What encodes the unfinished shards of a folder, shows its progress, and says where it did.

    A worker that dies costs the shard it was at, which Ray gives to another one (three times, then its error is
    raised). What a task raises stops the others; shards that are finished stay.

    Args:
        codec: loaded from a folder, from which each worker loads it.
        precision: of it on the workers.
        vectors: that workers open again.
        folder: of the shards; workers see it under the same name.
        search: keyword arguments of `Codec.encode`.
        batch_size: rows read and moved to the device at once.
        num_threads: of torch, and CPUs, of a task; None: 1.
        trainer: `accelerator` says whether each task takes a GPU (auto: where the cluster has some), `devices` how many
            work at a time (auto: as many as the cluster has room for).

    Raises:
        ValueError: other values of `trainer`; Ray is not installed.
    """
    asked = trainer or {}
    ray = ray_cluster.ray()
    resources = ray.cluster_resources()
    on_gpu, devices = asked.get("accelerator", "auto"), asked.get("devices", "auto")
    if on_gpu not in ("auto", "cpu", "gpu", "cuda"):
        raise ValueError(f"trainer.accelerator={on_gpu}: engine=ray takes auto, cpu or gpu")
    if devices != "auto" and (not isinstance(devices, int) or devices < 1):
        raise ValueError(f"trainer.devices={devices}: engine=ray takes auto, or how many tasks work at a time")
    work = ShardWork(
        codec_dir=str(codec.folder),
        precision=precision,
        vectors=vectors,
        folder=folder,
        search=search,
        batch_size=batch_size,
        num_threads=num_threads or 1,
        on_gpu="GPU" in resources if on_gpu == "auto" else on_gpu != "cpu",
        cwd=str(Path.cwd()),
    )
    room = _room(work, resources)
    most = room if devices == "auto" else min(devices, room)

    def run(progress: RowsDone) -> dict[str, Any]:
        _run_tasks(ray, work, most, progress)
        return {"device": "cuda" if work.on_gpu else "cpu", "num_ranks": most}

    return run


def _run_tasks(ray: Any, work: ShardWork, most: int, progress: RowsDone) -> None:
    task = ray.remote(_encode_shard).options(num_cpus=work.num_threads, num_gpus=int(work.on_gpu), max_retries=3)
    shared, left = ray.put(work), work.folder.unfinished(0, 1)
    progress.start([])
    running: list[Any] = []
    try:
        while left or running:
            while left and len(running) < most:
                running.append(task.remote(shared, left.pop(0)))
            done, running = ray.wait(running, timeout=_POLL_S)
            for reference in done:
                ray_cluster.result(reference)
            progress.advance()
    finally:
        for reference in running:  # of a mistake, or Ctrl-C
            ray.cancel(reference, force=True)


def _room(work: ShardWork, resources: Mapping[str, float]) -> int:
    """Tasks that the cluster can run at a time."""
    room = resources.get("CPU", 0) / work.num_threads
    return max(1, int(min(room, resources.get("GPU", 0)) if work.on_gpu else room))


def _encode_shard(work: ShardWork, shard: int) -> None:
    """In a worker of Ray: read, encode and write a shard."""
    with suppress(OSError):  # where all paths are absolute, it need not be there
        os.chdir(work.cwd)
    torch.set_num_threads(work.num_threads)
    codec = _codec(work.codec_dir, work.precision, "cuda" if work.on_gpu else "cpu", work.folder.info.codec_sha256)
    module = Encoding(
        codec,
        work.vectors,
        work.folder,
        search=work.search,
        batch_size=work.batch_size,
        num_threads=None,
        assign_lists=_assigner(codec, work.vectors),
    )
    info, waiting = work.folder.info, None
    loader = ShardLoader(work.vectors, info, [shard], work.batch_size, pin_memory=work.on_gpu)
    with work.folder.writing(shard) as writer:
        for batch in loader:
            encoded = module.predict_step(batch)
            if waiting is not None:  # a GPU works on the next batch while this one is written
                writer.append(waiting.stored(info))
            waiting = encoded
        if waiting is not None:
            writer.append(waiting.stored(info))


@functools.lru_cache(maxsize=1)
def _codec(folder: str, precision: str, device: str, identity: str) -> Codec:
    """Loaded once in a worker. Raises ValueError for one that is another than where the job was started."""
    codec = Codec.load(Path(folder), device=device, precision=precision)
    if codec.identity != identity:
        raise ValueError(f"{folder} holds another codec on a worker than where the job was started")
    return codec


_assigners: dict[tuple[str, str], AssignLists | None] = {}


def _assigner(codec: Codec, vectors: VectorFile) -> AssignLists | None:
    """Of the lists of a codec; made once in a worker for the same vectors, as it may build a graph."""
    centroids = codec.coarse_centroids
    if centroids is None:
        return None
    key = (codec.identity, vectors.path)
    if key not in _assigners:
        _assigners.clear()
        _assigners[key] = list_assigner(centroids, vectors, codec.device)
    return _assigners[key]
