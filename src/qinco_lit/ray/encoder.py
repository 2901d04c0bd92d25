"""Batches of Ray Data in, the same batches with codes out."""

from pathlib import Path
from typing import Any

import numpy as np

from qinco_lit.codec import Codec
from qinco_lit.codec_folder import check_is_codec
from qinco_lit.devices import chosen_device
from qinco_lit.options import Count, checked


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
        found = self._encoded(
            _arrow_rows(batch, self._column) if is_table else _rows(batch[self._column], self._column)
        )
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


def _rows(values: Any, column: str) -> np.ndarray:
    """A column of vectors as an array (n, dim): an array already, or one of arrays or lists."""
    array = np.asarray(values)
    if array.dtype != object:
        return array
    if not len(array):
        return np.empty((0, 0), np.float32)
    lengths = {0 if row is None else np.size(row) for row in array}
    if len(lengths) != 1 or any(row is None for row in array):
        raise ValueError(
            f"column={column}: its vectors are missing in places, or of several lengths {sorted(lengths)[:5]}"
        )
    return np.stack([np.asarray(row) for row in array])


def _arrow_rows(table: Any, column: str) -> np.ndarray:
    """A column of Arrow's as an array (n, dim), of lists or of Ray's own type for arrays."""
    import pyarrow as pa

    values = table.column(column).combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # of an extension type, or of nothing
        values = values.chunk(0) if values.num_chunks else pa.array([], values.type)
    if not isinstance(values, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        return _rows(values.to_numpy(zero_copy_only=False), column)
    inner = values.flatten()
    if values.null_count or inner.null_count:
        raise ValueError(f"column={column}: vectors, or numbers in them, are missing (null)")
    if len(values) and len(inner) % len(values):
        raise ValueError(f"column={column}: its vectors are of several lengths")
    if not isinstance(values, pa.FixedSizeListArray):
        lengths = np.diff(values.offsets.to_numpy())
        if len(lengths) and (lengths != lengths[0]).any():
            raise ValueError(f"column={column}: its vectors are of several lengths")
    rows: np.ndarray = inner.to_numpy(zero_copy_only=False)
    return rows.reshape(len(values), len(rows) // max(1, len(values)))


def _as_arrow(values: np.ndarray) -> Any:
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
