"""A trained quantizer as arrays in, arrays out; saved as `config.json` + `weights.safetensors`, no pickle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torch.nn import functional as F

from qinco_lit import codec_folder
from qinco_lit.arrays import ArrayLike, Rows, as_float32, as_int64, as_list_ids, as_rows, as_vectors, check_range
from qinco_lit.devices import chosen_device
from qinco_lit.quantizers import Quantizer, truncated
from qinco_lit.quantizers.beam import checked_num_steps
from qinco_lit.quantizers.precision import precision_for
from qinco_lit.quantizers.preselector import fit_preselectors
from qinco_lit.vectors.code_packing import packed_bits

_DEFAULT_BLOCK_BYTES = 64 << 20  # float32 copies of the input live for one block at a time
_PAIR_TABLE_BYTES = 64 << 20
_ROWS_PER_THREAD = 2048  # of such a block on a CPU; decoding is fastest from 1,024 to 4,096


class Codec:
    """Vectors (n, dim) to codes (n, num_steps) and back, in bounded memory.

    numpy (or lists) in gives numpy out, torch in gives torch out (on the codec's device). Codes are uint8, uint16 when
    codebook_size > 256. A caller's autocast changes nothing. A pickle holds the weights; files of them are smaller.

    Args:
        quantizer: a trained model; the codec takes it over and freezes it.
        workspace_bytes: bound on intermediate results of a call; None chooses what runs fast on the device.
        precision: in which the network is evaluated (squared L2 is always float32). `auto` gives the codes of float32,
            in less time where bfloat16 is fast: all candidates are scored in bfloat16, the best again in float32
            (`screened`). `bfloat16` and `float16` neither do that nor decode in float32; `fast` is bfloat16 where
            that is fast, else float32.
        compile: run the evaluation of candidates through torch.compile.

    Attributes:
        folder: that it was loaded from or saved to last; None before, and of what is another codec than there.
        weights_sha256: of the weights in that folder; None before `identity` was asked.
        truncated_from: of a codec made by `truncated`: weights_sha256 and num_steps of the first longer one.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        *,
        workspace_bytes: int | None = None,
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if workspace_bytes is not None and workspace_bytes < 1:
            raise ValueError(f"workspace_bytes={workspace_bytes} must be positive")
        self.quantizer = quantizer.eval().requires_grad_(False)
        self.workspace_bytes = workspace_bytes
        self.folder: Path | None = None
        self.weights_sha256: str | None = None
        self.truncated_from: dict[str, Any] | None = None
        self._precision, self._compile = precision, compile
        self._prepare()

    def _prepare(self) -> None:
        """Compute what depends on weights and device only."""
        precision = precision_for(self._precision, self.device)
        self._tables: Any = self.quantizer.tables(precision, compiled=self._compile)
        self._pairs: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_tables", "_pairs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.quantizer.dim

    @property
    def num_lists(self) -> int | None:
        """Lists of an IVF codec's coarse quantizer; None for a plain codec."""
        return self.quantizer.num_lists

    @property
    def coarse_centroids(self) -> Float32[np.ndarray, "lists dim"] | None:
        """Centroids of an IVF codec's lists, in raw space, a copy; None for a plain codec."""
        centroids = self.quantizer.raw_centroids()
        return None if centroids is None else centroids.cpu().numpy()

    @property
    def precision(self) -> str:
        """In which candidates are scored on this device: float32, screened, bfloat16 or float16."""
        return precision_for(self._precision, self.device).name

    @property
    def num_steps(self) -> int:
        """Codes per vector."""
        return self.quantizer.num_steps

    @property
    def codebook_size(self) -> int:
        """Values a code can take."""
        return self.quantizer.codebook_size

    @property
    def bits_per_vector(self) -> int:
        """Bits of a packed code: ceil(num_steps x log2 codebook_size); the list id of an IVF codec is not counted."""
        return packed_bits(self.num_steps, self.codebook_size)

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """uint8, or uint16 for codebooks of more than 256 codewords."""
        return np.dtype(np.uint8 if self.codebook_size <= 256 else np.uint16)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.quantizer.device

    @property
    def identity(self) -> str:
        """What codes know their codec by: SHA-256 of its weights as `save` writes them, hexadecimal.

        Of a truncated codec it is that of the codec that it was cut from: the two give the same codes.
        """
        if self.truncated_from is not None:
            return str(self.truncated_from["weights_sha256"])
        if self.weights_sha256 is None:
            self.weights_sha256 = codec_folder.weights_sha256(self.quantizer)
        return self.weights_sha256

    @property
    def name(self) -> str:
        """Its folder, or `this codec`: for messages."""
        return "this codec" if self.folder is None else str(self.folder)

    def to(self, device: str | torch.device) -> "Codec":
        """Move the weights; returns the codec itself."""
        self.quantizer.to(device)
        self._prepare()
        return self

    def encode(
        self,
        x: Rows,
        *,
        beam_size: int | None = None,
        num_candidates: int | None = None,
        candidate_budget: int | None = None,
        num_steps: int | None = None,
        list_ids: Rows | None = None,
    ) -> Any:
        """Codes (n, num_steps) of raw vectors; from an IVF codec a pair: list ids (n,) int32, and codes.

        Args:
            x: (n, dim), float32 or uint8 (float16, float64 and int8 are converted), array, mapped file or lists.
            beam_size: hypotheses kept between steps; None takes the model's.
            num_candidates: codewords pre-selected per hypothesis, 0 for all; None takes the model's.
            candidate_budget: instead, the pairs of hypothesis and codeword tried per step over the whole beam.
            num_steps: how many codes, 1 to the codec's: the search ends after as many steps. None: all. The first codes
                of a longer search are others: it keeps what leads to the smallest error later.
            list_ids: (n,) of an IVF codec: the vectors' lists, taken as they are; None finds the nearest centroids.

        Raises:
            ValueError: wrong dimension or dtype, NaN or infinity in a row, a search the model cannot do, list ids that
                are no integers, have the wrong shape, are out of range, or are given to a plain codec.
        """
        x = as_vectors(x, self.dim)
        search = self.quantizer.search_for(
            beam_size=beam_size, num_candidates=num_candidates, candidate_budget=candidate_budget
        )
        device = self.device if (as_torch := isinstance(x, Tensor)) else torch.device("cpu")
        code_dtype = torch.uint8 if self.codebook_size <= 256 else torch.uint16
        wanted = checked_num_steps(num_steps, self.num_steps)
        out = torch.empty((x.shape[0], wanted), dtype=code_dtype, device=device)
        lists = None if self.num_lists is None else torch.empty(x.shape[0], dtype=torch.int32, device=device)
        if list_ids is not None and self.num_lists is None:
            raise ValueError("list_ids are given, but this codec has no lists: only an IVF codec takes them")
        list_ids = None if list_ids is None else as_list_ids(list_ids, "vectors", tuple(x.shape))
        for start, stop in self._blocks(x.shape[0]):
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                codes = self.quantizer.encode(
                    self.quantizer.normalize(as_float32(x[start:stop], self.device, start)),
                    search,
                    num_steps=wanted,
                    list_ids=None if list_ids is None else self._checked_lists(list_ids, start, stop),
                    workspace_bytes=self.workspace_bytes,
                    tables=self._tables,
                )
            if lists is not None:
                lists[start:stop] = codes[:, 0]
                codes = codes[:, 1:]
            out[start:stop] = codes.to(out.dtype)
        result = out if as_torch else out.numpy()
        if lists is None:
            return result
        return (lists if as_torch else lists.numpy()), result

    @torch.inference_mode(False)
    def fit_preselector(self, x: Rows) -> None:
        """Fit pre-selectors (what `num_candidates` and `candidate_budget` need) to a codec that has none, like QINCo1.

        Args:
            x: (n, dim) training vectors; all are used, one or two thousand do.

        Raises:
            ValueError: as `encode`; no vectors.
        """
        x = as_vectors(x, self.dim, least=1)
        rows = as_float32(x[0 : x.shape[0]], self.device, 0)
        with torch.autocast(self.device.type, enabled=False):
            normalized = self.quantizer.normalize(rows)
            list_ids = None if self.num_lists is None else self.quantizer.assign_lists(normalized)  # of whole vectors
            for part, dims in zip(self.quantizer.parts, self.quantizer.part_slices, strict=True):
                fit_preselectors(part, normalized[:, dims].contiguous(), list_ids)
        self.folder = self.weights_sha256 = self.truncated_from = None  # it is another codec now
        self._prepare()

    def decode(self, codes: Rows, *, list_ids: Rows | None = None) -> Any:
        """Reconstructions (n, dim) float32 in raw space of codes (n, m), for any 1 <= m <= num_steps.

        Args:
            codes: integers.
            list_ids: (n,) the list of every vector; needed by, and only by, an IVF codec.

        Raises:
            ValueError: codes or list ids that are no integers, have the wrong shape, or are out of range.
        """
        codes, list_ids = self._checked_codes(codes, list_ids)
        shape, as_torch = tuple(codes.shape), isinstance(codes, Tensor)
        out = torch.empty((shape[0], self.dim), device=self.device if as_torch else None)
        # all rows are checked first, so that nothing is decoded from bad codes (any byte is in range of 256)
        if list_ids is not None or self.codebook_size < 256 or codes[0:0].dtype not in (np.uint8, torch.uint8):
            for start, stop in self._blocks(shape[0]):
                self._checked_columns(codes, list_ids, start, stop)
        pairs = self._pairs_for(shape)
        for start, stop in self._blocks(shape[0]):
            *_, last = self._advanced(self._checked_columns(codes, list_ids, start, stop), pairs)
            out[start:stop] = self.quantizer.denormalize(last)
        return out if as_torch else out.numpy()

    def decode_steps(self, codes: Rows, *, list_ids: Rows | None = None) -> Iterator[Any]:
        """Reconstructions (n, dim) in raw space after 1, 2, ..., m codes, in one pass over the steps."""
        codes, list_ids = self._checked_codes(codes, list_ids)
        shape, as_torch = tuple(codes.shape), isinstance(codes, Tensor)
        blocks = list(self._blocks(shape[0]))
        walks = [self._advanced(self._checked_columns(codes, list_ids, start, stop)) for start, stop in blocks]
        for _ in range(shape[1]):
            out = torch.empty((shape[0], self.dim), device=self.device if as_torch else None)
            for walk, (start, stop) in zip(walks, blocks, strict=True):
                out[start:stop] = self.quantizer.denormalize(next(walk))
            yield out if as_torch else out.numpy()

    def _advanced(
        self, columns: Int[Tensor, "rows columns"], pairs: Float[Tensor, "pairs dim"] | None = None
    ) -> Iterator[Float[Tensor, "rows dim"]]:
        """Normalised reconstructions after 1, 2, ... codes; the centroid alone of an IVF codec is not one of them.

        With `pairs` (from `_pairs_for`) the first of them is left out.
        """
        x_hat = None if pairs is None else F.embedding(columns[:, 0] * self.codebook_size + columns[:, 1], pairs)
        if x_hat is not None:
            yield x_hat
        for index in range(0 if pairs is None else 2, columns.shape[1]):
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                x_hat = self.quantizer.advance(index, columns[:, index], x_hat, self._tables)
            if index > 0 or self.num_lists is None:
                yield x_hat

    def _pairs_for(self, shape: tuple[int, ...]) -> Float[Tensor, "pairs dim"] | None:
        """Reconstructions of all pairs of first and second code, where there are many times more rows than pairs."""
        num_pairs = self.codebook_size**2
        table_bytes = 4 * num_pairs * self.dim
        limit = min(self.workspace_bytes or _PAIR_TABLE_BYTES, _PAIR_TABLE_BYTES)
        worthwhile = shape[0] >= 2 * num_pairs or self._pairs is not None
        if self.num_lists is not None or shape[1] < 2 or not worthwhile or table_bytes > limit:
            return None
        if self._pairs is None:
            index = torch.arange(num_pairs, device=self.device)
            columns = torch.stack([index // self.codebook_size, index % self.codebook_size], dim=1)
            parts = [list(self._advanced(columns[start:stop]))[-1] for start, stop in self._blocks(num_pairs)]
            self._pairs = torch.cat(parts)
        return self._pairs

    def _checked_codes(self, codes: Rows, list_ids: Rows | None) -> tuple[ArrayLike, ArrayLike | None]:
        rows = as_rows(codes, "codes")
        shape = tuple(rows.shape)
        if len(shape) != 2 or not 1 <= shape[1] <= self.num_steps:
            raise ValueError(f"codes of shape {shape} do not fit this codec: expected (n, 1 to {self.num_steps})")
        if (list_ids is None) != (self.num_lists is None):
            raise ValueError("an IVF codec decodes codes with their list_ids, and only an IVF codec does")
        return rows, None if list_ids is None else as_list_ids(list_ids, "codes", shape)

    def _checked_lists(self, list_ids: ArrayLike, start: int, stop: int) -> Int[Tensor, " rows"]:
        assert self.num_lists is not None
        lists = as_int64(list_ids[start:stop], self.device, "list_ids", "int32")
        check_range(lists[:, None], self.num_lists, word="list id", option="num_lists", first_row=start)
        return lists

    def _blocks(self, num_rows: int) -> Iterator[tuple[int, int]]:
        """Row ranges whose intermediate results fit the workspace and, on a CPU, mostly its caches."""
        widths = 4 * self.dim + 3 * self.quantizer.embed_dim + 2 * self.quantizer.hidden_dim
        rows = min(self.workspace_bytes or _DEFAULT_BLOCK_BYTES, _DEFAULT_BLOCK_BYTES) // (4 * widths)
        if self.device.type == "cpu":
            rows = min(rows, _ROWS_PER_THREAD * torch.get_num_threads())
        rows = max(1, rows)
        return ((start, min(start + rows, num_rows)) for start in range(0, num_rows, rows))

    def _checked_columns(
        self, codes: ArrayLike, list_ids: ArrayLike | None, start: int, stop: int
    ) -> Int[Tensor, "rows columns"]:
        """Codes of a block of rows as int64, after their list ids where there are any."""
        columns = as_int64(codes[start:stop], self.device, "codes", str(self.code_dtype))
        check_range(columns, self.codebook_size, word="code", option="codebook_size", first_row=start)
        if list_ids is None:
            return columns
        return torch.cat([self._checked_lists(list_ids, start, stop)[:, None], columns], dim=1)

    def truncated(self, num_steps: int) -> "Codec":
        """The codec of the first `num_steps` codes; it shares the weights, and `truncated_from` says of which it is.

        It decodes codes of this one that were cut to so many, and encodes as this one does with `num_steps`.

        Raises:
            ValueError: outside of 1 to this codec's steps, or a part of a product quantizer would have no codes.
        """
        shorter = Codec(
            truncated(self.quantizer, num_steps),
            workspace_bytes=self.workspace_bytes,
            precision=self._precision,
            compile=self._compile,
        )
        shorter.truncated_from = self.truncated_from
        if shorter.truncated_from is None and num_steps < self.num_steps and self.weights_sha256 is not None:
            shorter.truncated_from = {"weights_sha256": self.weights_sha256, "num_steps": self.num_steps}
        return shorter

    def save(self, directory: str | Path) -> None:
        """Write `config.json` and `weights.safetensors`; the directory appears complete or not at all.

        Raises:
            ValueError: the directory exists and is no codec (it is never overwritten).
        """
        self.weights_sha256 = codec_folder.write(Path(directory), self.quantizer, self.truncated_from)
        self.folder = Path(directory)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        device: str | torch.device = "cpu",
        workspace_bytes: int | None = None,
        precision: str = "auto",
        compile: bool = False,
    ) -> "Codec":
        """Read a codec directory; the other arguments are those of the class.

        Raises:
            FileNotFoundError: no codec there.
            ValueError: an unknown format, or weights that do not belong to the config or are damaged.
        """
        quantizer, config = codec_folder.read(Path(directory))
        codec = cls(quantizer.to(device), workspace_bytes=workspace_bytes, precision=precision, compile=compile)
        codec.folder, codec.weights_sha256 = Path(directory), config["weights_sha256"]
        codec.truncated_from = config.get("truncated_from")
        return codec


def as_codec(codec: Codec | str | Path, *, device: str | torch.device = "auto", precision: str = "auto") -> Codec:
    """The codec that a user gives: itself, or what is loaded from its folder for a device in a precision.

    Raises:
        FileNotFoundError: no codec there.
        ValueError: as `Codec.load`; another device or precision than that of a codec in memory.
    """
    if not isinstance(codec, Codec):
        chosen = chosen_device(device) if isinstance(device, str) else device
        return Codec.load(codec, device=chosen, precision=precision)
    if device != "auto" and torch.device(device) != codec.device:
        raise ValueError(f"device={device}: this codec is on {codec.device}; codec.to({str(device)!r}) moves it")
    if precision != "auto" and precision_for(precision, codec.device).name != codec.precision:
        raise ValueError(f"precision={precision}: this codec has {codec.precision}: give its folder, or precision=auto")
    return codec
