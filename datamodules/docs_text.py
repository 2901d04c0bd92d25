"""`data=docs_text`: real sentence embeddings built on this machine, of the documentation of installed packages.

The files of a build are complete under the final name of its folder, or not there at all; a build that was interrupted
goes on.
"""

import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np

from datamodules.built_set import NUM_NEIGHBOURS, check_sizes, write_true_neighbours
from datamodules.docs_passages import (
    DATABASE_PACKAGES,
    QUERY_PACKAGES,
    TRAINING_PACKAGES,
    collect,
    passages_of,
    queries_of,
    versions,
)
from qinco_lit.atomic import replace_directory, write_atomically
from qinco_lit.locks import locked
from qinco_lit.progress import Progress
from qinco_lit.vectors import VectorWriter, open_vectors, write_vectors
from qinco_lit.vectors.data_facts import DataSource
from qinco_lit.vectors.neighbours import Metric

FORMAT_VERSION = 1  # part of the folder name: raise it when the rows change for the same versions, seed and sizes
BLOCK_ROWS = 512  # embedded by one thread, and kept when the build is interrupted: some 5 s of a core

_log = logging.getLogger(__name__)


def docs_text(
    *,
    root: str,
    num_train: int = 75_000,
    num_val: int = 3_000,
    num_database: int = 20_000,
    num_queries: int = 1_000,
    build_seed: int = 0,
    build_workers: int | None = None,
    metric: Metric = "cosine",
) -> DataSource:
    """Sentence embeddings (384-d float16) of installed packages' documentation; `prepare()` builds the files once.

    Args:
        root: folder of all builds; each combination of sizes, `build_seed` and versions of the packages is a folder of
            its own in it.
        num_train: rows to train on; the training file has `num_val` more at its end.
        num_val: validation rows.
        num_database: database rows, of packages that training has never seen.
        num_queries: queries, first sentences and names of functions of a third part of the packages.
        build_seed: of which passages are taken, and in which order.
        build_workers: threads of the build, None: as many as torch has; the files do not depend on it.
        metric: the built neighbours are by cosine; by another one they are computed.

    Raises:
        ValueError: a size below 1, or a package is not installed; of `prepare()`, there are not so many passages.
    """
    sizes = {"num_train": num_train, "num_val": num_val, "num_database": num_database, "num_queries": num_queries}
    folder = docs_text_folder(Path(root), **sizes, seed=build_seed)
    return DataSource(
        name="docs_text",
        train=str(folder / "train.npy"),
        database=str(folder / "database.npy"),
        queries=str(folder / "queries.npy"),
        ground_truth=str(folder / "groundtruth.ivecs") if metric == "cosine" else None,
        prepare=partial(build_docs_text, Path(root), **sizes, seed=build_seed, num_workers=build_workers),
    )


def docs_text_folder(
    root: Path, *, num_train: int, num_val: int, num_database: int, num_queries: int, seed: int
) -> Path:
    """Return the folder that holds the files of these sizes, this seed and the installed versions, built or not.

    Raises ValueError when a size is below 1, the seed is negative, or a package is not installed.
    """
    sizes = {"num_train": num_train, "num_val": num_val, "num_database": num_database, "num_queries": num_queries}
    check_sizes("docs_text", sizes, seed, seed_option="build_seed")
    key = hashlib.sha256(json.dumps(versions()).encode()).hexdigest()[:8]
    return Path(root) / f"{num_train}-{num_val}-{num_database}-{num_queries}-s{seed}-v{FORMAT_VERSION}-{key}"


def build_docs_text(
    root: Path,
    *,
    num_train: int = 75_000,
    num_val: int = 3_000,
    num_database: int = 20_000,
    num_queries: int = 1_000,
    seed: int = 0,
    num_workers: int | None = None,
) -> Path:
    """Build the docs_text files under `root` unless they are there, and return their folder.

    The folder holds `train.npy` (num_train rows to train on, then num_val rows for validation), `database.npy`,
    `queries.npy`: unit vectors (n, 384), float16; the texts they are of, one a line, in `train.txt`, `database.txt`,
    `queries.txt`; `groundtruth.ivecs` (the 100 nearest database rows of each query by cosine, exact) and `facts.json`.
    Rows are in random order. The texts are a pure function of sizes, seed and the versions of the packages, and the
    vectors of these and of how torch rounds on this kind of CPU, whatever `num_workers` (default: torch's threads).

    The folder appears complete or not at all; a build that was interrupted, or killed, goes on with what it has; a
    second build of the same folder waits for the first and uses its files.
    Raises ValueError, one line, for a size or worker count below 1, when a package is not installed, and when the
    packages have not so many passages.
    """
    folder = docs_text_folder(
        root, num_train=num_train, num_val=num_val, num_database=num_database, num_queries=num_queries, seed=seed
    )
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"docs_text: build_workers={num_workers}: give at least 1")
    sizes = {"train": num_train + num_val, "database": num_database, "queries": num_queries}
    if _is_complete(folder, sizes):
        return folder
    busy = f"docs_text: another process builds {folder}; waiting for it"
    with locked(folder.with_name(f".{folder.name}.lock"), busy=busy, wait=True) as is_only_build:
        if _is_complete(folder, sizes):
            return folder
        # where there are no locks, another build may be at work: nothing of it is taken, nor left to it
        work = folder.with_name(f".building-{folder.name}{'' if is_only_build else f'-{uuid4().hex[:12]}'}")
        work.mkdir(parents=True, exist_ok=True)
        try:
            with Progress("texts") as progress:
                _write_files(work, sizes, seed, num_workers, progress)
            replace_directory(work, folder)
        finally:
            if not is_only_build:
                shutil.rmtree(work, ignore_errors=True)
    return folder


def _is_complete(folder: Path, sizes: dict[str, int]) -> bool:
    """Whether the folder holds every file of vectors at its full length."""
    neighbours = sizes["queries"], min(NUM_NEIGHBOURS, sizes["database"])
    try:
        shapes = [open_vectors(folder / f"{split}.npy").shape for split in sizes]
        return (
            shapes == [(num_rows, 384) for num_rows in sizes.values()]
            and open_vectors(folder / "groundtruth.ivecs").shape == neighbours
        )
    except (FileNotFoundError, ValueError):
        return False


def _write_files(folder: Path, sizes: dict[str, int], seed: int, num_workers: int | None, progress: Progress) -> None:
    """Write what is not there; every file appears whole."""
    start_s = time.perf_counter()
    texts = _texts(folder, sizes, seed, progress)
    for split in sizes:
        if not (folder / f"{split}.npy").is_file():
            _embed(folder, split, texts[split], num_workers, progress)
    queries, database = (open_vectors(folder / f"{split}.npy").unit() for split in ("queries", "database"))
    write_true_neighbours("docs_text", folder, queries[:], database, progress, metric="ip")
    write_atomically(folder / "facts.json", json.dumps(_facts(sizes, seed), indent=2) + "\n")
    _log.info("docs_text: built in %.0f s", time.perf_counter() - start_s)


def _texts(folder: Path, sizes: dict[str, int], seed: int, progress: Progress) -> dict[str, list[str]]:
    """The texts of every split, none of which is in two of them; those of an interrupted build are read."""
    sources: dict[str, tuple[tuple[str, ...], Callable[[str, str], Iterable[str]]]]
    texts: dict[str, list[str]] = {}
    sources = {
        "train": (TRAINING_PACKAGES, passages_of),
        "database": (DATABASE_PACKAGES, passages_of),
        "queries": (QUERY_PACKAGES, queries_of),
    }
    for index, (split, (packages, texts_of)) in enumerate(sources.items()):
        path = folder / f"{split}.txt"
        if path.is_file():
            texts[split] = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            continue
        progress.start(f"docs_text: texts to {split}", sizes[split], unit="texts")
        rng = np.random.default_rng(np.random.SeedSequence((seed, index)))
        seen = frozenset(text for others in texts.values() for text in others)
        texts[split] = collect(packages, sizes[split], texts_of, rng, without=seen, progress=progress)
        write_atomically(path, "\n".join([*texts[split], ""]))
    return texts


def _embed(folder: Path, split: str, texts: list[str], num_workers: int | None, progress: Progress) -> None:
    """Write the vectors of a split, by blocks of which each is embedded by one thread."""
    import torch

    from datamodules.minilm import DIM, MiniLM, model_folder

    starts = range(0, len(texts), BLOCK_ROWS)
    blocks = {start: folder / f"{split}.block{start:08d}.npy" for start in starts}
    left = [start for start in starts if not blocks[start].is_file()]
    done = sum(len(texts[start : start + BLOCK_ROWS]) for start in starts if start not in left)
    progress.start(f"docs_text: vectors of {split}", len(texts), done=done, unit="texts")
    model = MiniLM(model_folder())
    stopped = threading.Event()

    def advance(num_texts: int) -> None:
        if stopped.is_set():  # Ctrl-C, or another block has failed: nobody waits for the rest of this one
            raise CancelledError
        progress.advance(num_texts)

    def work(start: int) -> None:
        block = model.embed(texts[start : start + BLOCK_ROWS], advance)
        write_vectors(blocks[start], block.astype(np.float16))

    num_threads = torch.get_num_threads()
    with ThreadPoolExecutor(num_workers or num_threads, "docs_text", torch.set_num_threads, (1,)) as pool:
        running = [pool.submit(work, start) for start in left]
        try:
            for each in running:
                each.result()
        finally:
            stopped.set()
            for each in running:
                each.cancel()
            torch.set_num_threads(num_threads)  # also of threads that begin later
    with VectorWriter(folder / f"{split}.npy", dim=DIM, dtype=np.float16, num_rows=len(texts)) as writer:
        for path in blocks.values():
            writer.append(open_vectors(path)[:])
    for path in blocks.values():
        path.unlink()


def _facts(sizes: dict[str, int], seed: int) -> dict[str, object]:
    """What the rows depend on, for readers of the folder."""
    return {
        "rows": sizes,
        "dim": 384,
        "seed": seed,
        "format_version": FORMAT_VERSION,
        "training_packages": TRAINING_PACKAGES,
        "database_packages": DATABASE_PACKAGES,
        "query_packages": QUERY_PACKAGES,
        "versions": versions(),
    }
