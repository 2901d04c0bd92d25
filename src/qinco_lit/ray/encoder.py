"""Batches of Ray Data in, the same batches with codes out."""

from pathlib import Path
from typing import Any

import numpy as np

from qinco_lit.codec import Codec
from qinco_lit.codec_folder import check_is_codec
from qinco_lit.devices import chosen_device
from qinco_lit.options import Count, checked
from qinco_lit.vectors.columns import is_list, matrix


class Encoder:
    """Adds the codes of a column of vectors to batches: for `ray.data.Dataset.map_batches`.

        ds.map_batches(Encoder, fn_constructor_args=["DIR"], num_gpus=1, concurrency=8, batch_size=16_384)

    Ray makes one in each of its workers, where it loads the codec once. Codes are those of `codec.encode`.

    Args:
        codec_dir: folder of a codec, that every worker sees.
        column: of the vectors, (n, dim): an array, or Arrow's lists of one length each, of float32, float16 or uint8.
        codes_column: that is added: (n, num_steps), uint8, or uint16 of codebooks of more than 256 codewords; in Arrow
            lists of fixed size.
        list_column: that is added by a codec with lists: (n,), int32.
        beam_size, num_candidates, candidate_budget, num_steps: of `Codec.encode`.
        precision: of `Codec`.
        device: auto is the GPU that Ray has given the worker (`num_gpus=1`), or the CPU.

    Raises:
        FileNotFoundError: no codec there.
        ValueError: a codec that is damaged, an unknown precision, a device that the worker has not.
    """

    @checked
    def __init__(
        self,
        codec_dir: str | Path,
        column: str = "embedding",
        *,
        codes_column: str = "codes",
        list_column: str = "list_id",
        beam_size: int | None = None,
        num_candidates: int | None = None,
        candidate_budget: int | None = None,
        num_steps: Count | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        check_is_codec(Path(codec_dir))
        self._codec_dir, self._precision, self._device = codec_dir, precision, device
        self._column, self._codes_column, self._list_column = column, codes_column, list_column
        self._search: dict[str, Any] = {
            "beam_size": beam_size,
            "num_candidates": num_candidates,
            "candidate_budget": candidate_budget,
            "num_steps": num_steps,
        }
        self._codec: Codec | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_codec": None}  # a worker that is sent one loads the codec for its own device

    def __call__(self, batch: Any) -> Any:
        """The batch with codes (and list ids) as further columns; of the kind that came.

        Args:
            batch: columns by name as arrays (Ray's default), a pyarrow.Table or a pandas.DataFrame.

        Raises:
            ValueError: no such column, one of the new name is there already, vectors of another dimension or dtype, of
                several lengths, missing ones, NaN or infinity in one, named by its place in the batch.
        """
        is_table, is_frame = hasattr(batch, "append_column"), hasattr(batch, "iloc")
        names = list(batch.column_names if is_table else batch)
        if self._column not in names:
            raise ValueError(f"column={self._column}: the batch has {', '.join(map(str, names)) or 'no column'}")
        values = batch.column(self._column) if is_table else batch[self._column]
        found = self._encoded((_arrow_rows if is_table else _rows)(values, f"column={self._column}"))
        for name in found:
            if name in names:
                raise ValueError(f"the batch has a column {name} already: give codes_column= or list_column=")
        if is_table:
            for name, values in found.items():
                batch = batch.append_column(name, _as_arrow(values))
            return batch
        if is_frame:
            return batch.assign(**{name: list(values) for name, values in found.items()})
        return {**batch, **found}

    def _encoded(self, x: np.ndarray) -> dict[str, np.ndarray]:
        if self._codec is None:
            self._codec = Codec.load(self._codec_dir, device=chosen_device(self._device), precision=self._precision)
        if not len(x):  # Ray asks so for the columns that will come
            x = np.empty((0, self._codec.dim), np.float32)
        found = self._codec.encode(x, **self._search)
        if self._codec.num_lists is None:
            return {self._codes_column: found}
        list_ids, codes = found
        return {self._codes_column: codes, self._list_column: list_ids}


def _rows(values: Any, where: str) -> np.ndarray:
    """A column of vectors as an array (n, dim): an array already, or one of arrays or lists."""
    array = np.asarray(values)
    if array.dtype != object:
        return array
    import pyarrow as pa

    try:
        lists = pa.array(list(array))
    except pa.ArrowException as error:
        raise ValueError(f"{where}: no vectors ({' '.join(str(error).split())})") from None
    if len(lists) and not is_list(lists.type):
        raise ValueError(f"{where}: no vectors, it holds {lists.type}")
    return matrix(lists, None, where)


def _arrow_rows(column: Any, where: str) -> np.ndarray:
    """A column of Arrow's as an array (n, dim), of lists or of Ray's own type for arrays."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    if not chunks:
        return np.empty((0, 0), np.float32)
    if not is_list(column.type):
        return _rows(column.to_numpy(), where)
    dim, row, parts = len(chunks[0][0]) if chunks[0][0].is_valid else None, 0, []
    for chunk in chunks:
        parts.append(matrix(chunk, dim, where, row))
        row += len(chunk)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _as_arrow(values: np.ndarray) -> Any:
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
