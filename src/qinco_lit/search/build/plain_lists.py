"""The lists of a plain codec's vectors: the nearest centroid of each, kept in the work folder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from qinco_lit.atomic import replacing
from qinco_lit.coarse.list_assigner import ListAssigner
from qinco_lit.progress import Progress
from qinco_lit.search.build.coded_rows import spaced
from qinco_lit.vectors import VectorFile

_PIECE_ROWS = 1 << 22  # of lists that are kept together: what a kill can cost
_BLOCK_BYTES = 32 << 20  # of float32 vectors
_FIRST_ROWS = 2_048  # evenly spaced, by which the breadth of the search for lists is set


class NearestLists:
    """The list of every vector of a file, its nearest centroid by squared L2; found once and kept, piece by piece.

    Args:
        vectors: (n, dim).
        centroids: of the lists, raw space.
        folder: of the pieces, made when needed; they are of these vectors and centroids.
        progress: is told the rows.

    Raises:
        ValueError: NaN or infinity in a row.
    """

    def __init__(
        self, vectors: VectorFile, centroids: Float32[np.ndarray, "lists dim"], folder: Path, progress: Progress
    ) -> None:
        self._files = [folder / f"rows-{start:012d}.npy" for start in range(0, len(vectors), _PIECE_ROWS)]
        folder.mkdir(exist_ok=True)
        missing = [number for number, file in enumerate(self._files) if not file.exists()]
        if missing:
            progress.start("graph over the centroids", None)
            assigner = ListAssigner(centroids)
            # the same rows first in every call: they decide how hard is searched, so pieces do not depend on kills
            assigner(np.nan_to_num(vectors[spaced(len(vectors), min(_FIRST_ROWS, len(vectors)))].astype(np.float32)))
            progress.start("lists of the vectors", len(vectors), done=(len(self._files) - len(missing)) * _PIECE_ROWS)
        for number in missing:
            first = number * _PIECE_ROWS
            lists = list(_assigned(vectors, first, min(first + _PIECE_ROWS, len(vectors)), assigner, progress))
            with replacing(self._files[number]) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.concatenate(lists))
        progress.stop()
        self._pieces = [np.load(file, mmap_mode="r") for file in self._files]

    def __call__(self, start: int, stop: int) -> Int32[np.ndarray, " n"]:
        """Lists of rows start..stop."""
        parts = [np.empty(0, np.int32)]
        while start < stop:
            number, offset = divmod(start, _PIECE_ROWS)
            parts.append(np.asarray(self._pieces[number][offset : offset + stop - start]))
            start += len(parts[-1])
        return np.concatenate(parts)


def _assigned(
    vectors: VectorFile, start: int, stop: int, assigner: ListAssigner, progress: Progress
) -> Iterator[Int32[np.ndarray, " n"]]:
    rows = max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    for first in range(start, stop, rows):
        block = np.asarray(vectors[first : min(first + rows, stop)], np.float32)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = vectors.row_name(first + int(finite.argmin()))
            raise ValueError(f"{row} holds NaN or infinity: repair or remove it")
        yield assigner(block)
        progress.advance(len(block))
