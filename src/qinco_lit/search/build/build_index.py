"""From vectors, or codes of them, to an index that answers queries, in one call."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from qinco_lit.codec import Codec
from qinco_lit.devices import chosen_device, default_torch
from qinco_lit.options import Count, checked
from qinco_lit.search.build.coded_rows import SampledRows, spaced
from qinco_lit.search.build.inputs import IndexData, open_inputs
from qinco_lit.search.build.job import MAX_VALIDATION_ROWS, BuildOptions, build
from qinco_lit.search.searcher import Searcher
from qinco_lit.vectors import CodeStore, VectorFile, as_vectors_file
from qinco_lit.vectors.neighbours import METRICS


@checked
@default_torch()
def build_index(
    codec: Codec | str | Path,
    x: Any,
    *,
    ids: Any = None,
    codes: CodeStore | str | Path | None = None,
    training: Any = None,
    pairwise: bool | None = None,
    metric: str = "l2",
    output: str | Path | None = None,
    num_lists: int | None = None,
    centroids: Any = None,
    num_steps: int | None = None,
    num_training: Count | None = 200_000,
    num_tables: int | None = None,
    num_list_codes: int = 5,
    pairwise_dtype: str = "float16",
    parts: int = 1,
    on_disk: bool = False,
    num_threads: int | None = None,
    progress: bool | None = None,
) -> Searcher:
    """Build an index of vectors, which finds the nearest of them by their codes: what `qinco index` does.

    Args:
        codec: or its folder. One with lists indexes by them. The codes of a plain one say all of a vector; its lists
            are those of `num_lists` centroids, by k-means, or of `centroids`.
        x: database (n, dim): array, file (`open_vectors`), VectorFile. Not changed, and read in blocks.
        ids: of the vectors, integers (n,) or their file; None: their positions.
        codes: of x, a store or its path (`qinco encode`, `encode_file`); None: they are found, as the codec finds them.
        training: vectors (n, dim) that the decoders are fitted to; the last tenth, 10,000 at most, is held out and
            decides what stays. None: evenly spaced rows of x itself, with the codes that they have there. That is as
            good where they are many (some 20 for each codeword of the codec) or x is what the codec was trained on.
        pairwise: fit a pairwise decoder; None: where its tables, codebook_size^2 rows each, are not too large, neither
            for the memory nor for the training vectors.
        metric: l2 (squared L2), ip (largest inner product) or cosine, which takes unit vectors of all that is given.
        output: directory to write; one that is there is taken when it is of the same work. Until it is complete the
            work lies in `OUTPUT.work`; a call that was stopped goes on. None: nothing stays on the disk.
        num_lists: of a plain codec; None: a power of two near four times the square root of the rows of x.
        centroids: of a plain codec's lists, (num_lists, dim), instead.
        num_steps: codes of each vector; None: all of the codec, or of `codes`.
        num_training: training vectors, evenly spaced; None: all.
        num_tables: of the pairwise decoder; None: twice the number of steps.
        num_list_codes: codes of a list id in it.
        pairwise_dtype: of its tables: float32 or float16.
        parts: row ranges whose lists are built one after the other, each kept when it is complete.
        on_disk: leave the lists in a file of the output that is mapped into memory; such an index is not changed.
        num_threads: of torch and faiss, for the searcher too; None: as many as each takes by itself.
        progress: False: nothing is shown.

    Raises:
        FileNotFoundError: no codec, or a file is missing.
        ValueError: what does not belong together, impossible options, bad vectors or ids, an output of other work.
        OSError: the disk is full; what is finished is kept.
    """
    known = next((each for each in METRICS if each == metric), None)
    if known is None:
        raise ValueError(f"metric={metric!r}: give one of {', '.join(METRICS)}")
    if on_disk and output is None:
        raise ValueError("on_disk=True leaves the lists in a file: give output=DIR")
    options = BuildOptions(
        pairwise=pairwise, num_tables=num_tables, num_list_codes=num_list_codes, pairwise_dtype=pairwise_dtype,
        parts=parts, on_disk=on_disk, num_threads=num_threads, progress=progress,
    )  # fmt: skip
    database, given = as_vectors_file(x, "x"), None if training is None else as_vectors_file(training, "training")
    if given is not None and given.shape[1] != database.shape[1]:
        raise ValueError(f"training has dimension {given.shape[1]}, x has {database.shape[1]}")
    if metric == "cosine":
        database, given = database.unit(), None if given is None else given.unit()
    with ExitStack() as stack:
        if output is None:
            output = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qinco-index-"))) / "index"
        target = Path(output)
        options.check(target)
        train_vectors, val_vectors = _split(database, num_training) if given is None else _tail(given)
        inputs = open_inputs(
            codec,
            Path(codes) if isinstance(codes, str) else codes,
            IndexData("x", known, train_vectors, val_vectors, database),
            num_steps=num_steps,
            num_training=num_training,
            training_codes=None,
            ids=ids,
            num_lists=num_lists,
            centroids=centroids,
            device=str(chosen_device("auto")),
        )
        build(inputs, target, options)
        return Searcher.load(target, num_threads=num_threads, device=str(inputs.codec.device))


def _split(database: VectorFile, num_training: int | None) -> tuple[SampledRows, SampledRows]:
    """Evenly spaced rows to fit to, and others between them to hold out."""
    if len(database) < 2:
        raise ValueError("x has 1 vector: give 2 at least, or training=VECTORS")
    num_held_out = min(MAX_VALIDATION_ROWS, -(-len(database) // 10))
    number = min(len(database), num_held_out + (num_training or len(database)))
    rows = spaced(len(database), number)
    held_out = spaced(number, num_held_out)
    return SampledRows(database, np.delete(rows, held_out)), SampledRows(database, rows[held_out])


def _tail(training: VectorFile) -> tuple[VectorFile, VectorFile]:
    """Training vectors, and the last ones of them to hold out."""
    if len(training) < 2:
        raise ValueError("training has 1 vector: give 2 at least, one is held out")
    first = len(training) - min(MAX_VALIDATION_ROWS, -(-len(training) // 10))
    return training.view(0, first), training.view(first, len(training))
