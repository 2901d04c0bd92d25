"""`data=photo_sift`: real SIFT descriptors built on this machine, the default data set.

The files of a build are complete under the final name of its folder, or not there at all.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
from jaxtyping import UInt8

from datamodules.built_set import NUM_NEIGHBOURS, check_sizes, write_true_neighbours
from datamodules.photo_rows import default_num_workers, iter_rows, write_shuffled
from datamodules.photo_views import (
    DATABASE_PHOTOGRAPHS,
    DESCRIPTOR_DIM,
    TRAINING_PHOTOGRAPHS,
    require_packages,
)
from qinco_lit.locks import locked
from qinco_lit.progress import Progress
from qinco_lit.vectors import open_vectors
from qinco_lit.vectors.data_facts import DataSource
from qinco_lit.vectors.neighbours import Metric

FORMAT_VERSION = 1  # part of the folder name: raise it when the rows change for the same seed and sizes
TEMPORARY_PREFIX = ".building-"

_log = logging.getLogger(__name__)


def photo_sift(
    *,
    root: str,
    num_train: int = 100_000,
    num_val: int = 10_000,
    num_database: int = 20_000,
    num_queries: int = 1_000,
    build_seed: int = 0,
    build_workers: int | None = None,
    metric: Metric = "l2",
) -> DataSource:
    """SIFT descriptors (128-d uint8) of the photographs inside scikit-image; `prepare()` builds the files once.

    Args:
        root: folder of all builds; each combination of sizes and `build_seed` is a folder of its own in it.
        num_train: rows to train on; the training file has `num_val` more at its end.
        num_val: validation rows.
        num_database: database rows, from photographs that training has never seen.
        num_queries: queries, from other views of the database photographs.
        build_seed: of the random views.
        build_workers: threads of the build, None: all cores; the files do not depend on it.
        metric: the built neighbours are by squared L2; by another one they are computed.

    Raises:
        ValueError: a size below 1; of `prepare()`, OpenCV or scikit-image is not installed.
    """
    sizes = {"num_train": num_train, "num_val": num_val, "num_database": num_database, "num_queries": num_queries}
    folder = photo_sift_folder(Path(root), **sizes, seed=build_seed)
    return DataSource(
        name="photo_sift",
        train=str(folder / "train.bvecs"),
        database=str(folder / "database.bvecs"),
        queries=str(folder / "queries.bvecs"),
        ground_truth=str(folder / "groundtruth.ivecs") if metric == "l2" else None,
        prepare=partial(build_photo_sift, Path(root), **sizes, seed=build_seed, num_workers=build_workers),
    )


PhotoSiftDataModule = photo_sift  # saved configs of earlier runs name it so


def photo_sift_folder(
    root: Path, *, num_train: int, num_val: int, num_database: int, num_queries: int, seed: int
) -> Path:
    """Return the folder that holds the files of these sizes and this seed, built or not.

    Raises ValueError when a size is below 1 or the seed is negative.
    """
    sizes = {"num_train": num_train, "num_val": num_val, "num_database": num_database, "num_queries": num_queries}
    check_sizes("photo_sift", sizes, seed, seed_option="seed")
    return Path(root) / f"{num_train}-{num_val}-{num_database}-{num_queries}-s{seed}-v{FORMAT_VERSION}"


def build_photo_sift(
    root: Path,
    *,
    num_train: int = 100_000,
    num_val: int = 10_000,
    num_database: int = 20_000,
    num_queries: int = 1_000,
    seed: int = 0,
    num_workers: int | None = None,
) -> Path:
    """Build the photo_sift files under `root` unless they are there, and return their folder.

    The folder holds `train.bvecs` (num_train rows to train on, then num_val rows for validation), `database.bvecs`,
    `queries.bvecs` (other views of the database photographs), `groundtruth.ivecs` (the 100 nearest database rows of
    each query, squared L2, exact) and `facts.json`. All vectors are uint8 with 128 dimensions. Training photographs
    are disjoint from database photographs; rows are in random order. The files are a pure function of sizes and seed
    (for one version of OpenCV and scikit-image), whatever `num_workers` (default: the cores this process may use).

    The folder appears complete or not at all; a second build of the same folder waits for the first and uses its files.
    Raises ValueError, one line, for a size or worker count below 1 and when the `demo` extra is not installed.
    """
    folder = photo_sift_folder(
        root, num_train=num_train, num_val=num_val, num_database=num_database, num_queries=num_queries, seed=seed
    )
    num_workers = default_num_workers() if num_workers is None else num_workers
    if num_workers < 1:
        raise ValueError(f"photo_sift: num_workers={num_workers}: give at least 1")
    sizes = {"train": num_train + num_val, "database": num_database, "queries": num_queries}
    if _is_complete(folder, sizes):
        return folder
    require_packages()
    folder.parent.mkdir(parents=True, exist_ok=True)
    busy = f"photo_sift: another process builds under {folder.parent}; waiting for it"
    with locked(folder.parent / ".lock", busy=busy, wait=True) as is_only_build:
        if _is_complete(folder, sizes):
            return folder
        if is_only_build:
            _remove_leftovers(folder.parent)
        temporary = folder.parent / f"{TEMPORARY_PREFIX}{folder.name}-{uuid4().hex[:12]}"
        temporary.mkdir()  # mkdtemp would keep others out, whatever the user's umask says
        try:
            with Progress("rows") as progress:
                _write_files(temporary, sizes, seed, num_workers, progress)
            _publish(temporary, folder, sizes)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_complete(folder: Path, sizes: dict[str, int]) -> bool:
    """Whether the folder holds every file at its full length."""
    record_bytes = 4 + DESCRIPTOR_DIM
    expected = {f"{split}.bvecs": num_rows * record_bytes for split, num_rows in sizes.items()}
    expected["groundtruth.ivecs"] = sizes["queries"] * 4 * (1 + min(NUM_NEIGHBOURS, sizes["database"]))
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in expected.items())


def _write_files(folder: Path, sizes: dict[str, int], seed: int, num_workers: int, progress: Progress) -> None:
    total = sum(sizes.values())
    _log.info("photo_sift: building %d SIFT descriptors with %d threads", total, num_workers)
    start_s = time.perf_counter()
    splits = (("train", TRAINING_PHOTOGRAPHS), ("database", DATABASE_PHOTOGRAPHS), ("queries", DATABASE_PHOTOGRAPHS))
    for split_index, (split, photographs) in enumerate(splits):
        entropy = (seed, split_index)
        # Entropy is padded with zeros: (seed, split) would repeat view 0's numbers. Shuffles count on after the splits.
        shuffle_rng = np.random.default_rng(np.random.SeedSequence((seed, len(splits) + split_index)))
        with contextlib.closing(iter_rows(photographs, sizes[split], entropy, num_workers)) as rows:
            progress.start(f"photo_sift: {split}", sizes[split])
            write_shuffled(folder / f"{split}.bvecs", _counted(rows, progress), sizes[split], shuffle_rng)
    rate = total / (time.perf_counter() - start_s)
    database, queries = open_vectors(folder / "database.bvecs"), open_vectors(folder / "queries.bvecs")[:]
    write_true_neighbours("photo_sift", folder, queries, database, progress)
    (folder / "facts.json").write_text(json.dumps(_facts(sizes, seed), indent=2) + "\n")
    elapsed_s = time.perf_counter() - start_s
    _log.info("photo_sift: built in %.1f s (%.0f vectors/s, then exact neighbours)", elapsed_s, rate)


def _facts(sizes: dict[str, int], seed: int) -> dict[str, object]:
    """What the rows depend on, for readers of the folder."""
    import cv2

    return {
        "rows": sizes,
        "dim": DESCRIPTOR_DIM,
        "seed": seed,
        "format_version": FORMAT_VERSION,
        "training_photographs": TRAINING_PHOTOGRAPHS,
        "database_photographs": DATABASE_PHOTOGRAPHS,
        "versions": {
            "opencv": cv2.getVersionString(),
            "scikit-image": importlib.metadata.version("scikit-image"),
            "numpy": np.__version__,
        },
    }


def _counted(
    batches: Iterator[UInt8[np.ndarray, "rows 128"]], progress: Progress
) -> Iterator[UInt8[np.ndarray, "rows 128"]]:
    """Pass the batches on and count their rows."""
    for rows in batches:
        yield rows
        progress.advance(len(rows))


def _remove_leftovers(root: Path) -> None:
    """Remove what killed builds left; only for the holder of the lock, for whom no other build is running."""
    for leftover in root.glob(f"{TEMPORARY_PREFIX}*"):
        _log.info("photo_sift: removing %s, left by a build that was killed", leftover)
        shutil.rmtree(leftover, ignore_errors=True)


def _publish(temporary: Path, folder: Path, sizes: dict[str, int]) -> None:
    """Flush, then rename the directory; when another build was first, its folder stays and this one is dropped."""
    for path in (temporary / "facts.json", temporary):  # the vector files were flushed by their writers
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if folder.is_dir() and not _is_complete(folder, sizes):
        _log.warning("photo_sift: files are missing or cut in %s; replacing the folder", folder)
        shutil.rmtree(folder)
    try:
        temporary.rename(folder)
    except OSError:
        if not _is_complete(folder, sizes):
            raise
