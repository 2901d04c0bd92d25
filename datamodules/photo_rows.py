"""Rows of SIFT descriptors from random views: parallel, deterministic, in bounded memory."""

import collections
import contextlib
import itertools
import os
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from datamodules.photo_views import DESCRIPTOR_DIM, view_descriptors
from qinco_lit.vectors import VectorWriter

MAX_ROWS_PER_VIEW = 400  # more views of fewer keypoints each: fewer near duplicates, at about 5,000 vectors/s and core
MIN_VIEWS_PER_PHOTOGRAPH = 4  # small files see every photograph from several sides too
SHUFFLE_ROWS = 1_000_000  # rows shuffled at once, 128 MB


def default_num_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Keep OpenCV to one thread per call: the views are the unit of parallel work."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def iter_rows(
    photographs: tuple[str, ...], num_rows: int, entropy: tuple[int, ...], num_workers: int
) -> Generator[UInt8[np.ndarray, "rows 128"], None, None]:
    """Yield the descriptors of view 0, 1, 2 … until `num_rows` rows are out; the last view is cut.

    Views are computed by `num_workers` threads (OpenCV releases the GIL) and taken in order, so that the rows do not
    depend on the number of threads. At most 2 x `num_workers` views wait in memory. Close the
    iterator when leaving early: that stops the threads.
    """
    views_wanted = MIN_VIEWS_PER_PHOTOGRAPH * len(photographs)
    max_rows = min(MAX_ROWS_PER_VIEW, -(-num_rows // views_wanted))
    with _single_threaded_opencv(), ThreadPoolExecutor(num_workers, "photo_sift") as pool:
        waiting: collections.deque[Future[np.ndarray]] = collections.deque()
        try:
            for view_index in itertools.count():
                waiting.append(pool.submit(view_descriptors, photographs, entropy, view_index, max_rows))
                if len(waiting) < 2 * num_workers:
                    continue
                rows = waiting.popleft().result()[:num_rows]
                num_rows -= len(rows)
                yield rows
                if num_rows == 0:
                    return
        finally:
            for future in waiting:
                future.cancel()


def write_shuffled(
    path: Path, batches: Iterator[UInt8[np.ndarray, "rows 128"]], num_rows: int, rng: np.random.Generator
) -> None:
    """Write `num_rows` rows to `path` in uniformly random order, in bounded memory.

    Every row is dealt to a random bucket file beside `path`; buckets of about `SHUFFLE_ROWS` rows are then permuted in
    memory and appended one after the other. The order depends on `rng` and the rows alone.
    """
    num_buckets = -(-num_rows // SHUFFLE_ROWS)
    bucket_paths = [path.with_name(f"{path.stem}.bucket{i}") for i in range(num_buckets)]
    with contextlib.ExitStack() as stack:
        buckets = [stack.enter_context(p.open("wb")) for p in bucket_paths]
        for rows in batches:
            dealt = rng.integers(num_buckets, size=len(rows))
            for i, bucket in enumerate(buckets):
                bucket.write(rows[dealt == i].tobytes())
    with VectorWriter(path, dim=DESCRIPTOR_DIM, dtype=np.uint8) as writer:
        for bucket_path in bucket_paths:
            rows = np.fromfile(bucket_path, dtype=np.uint8).reshape(-1, DESCRIPTOR_DIM)
            writer.append(rng.permutation(rows))
            bucket_path.unlink()
