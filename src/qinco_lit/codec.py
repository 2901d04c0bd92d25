"""A trained quantizer as arrays in, arrays out; saved as `config.json` + `weights.safetensors`, no pickle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from qinco_lit import arrays, codec_folder
from qinco_lit.arrays import ArrayLike, Rows, as_float32, as_int64, as_list_ids, as_rows, as_vectors, check_range
from qinco_lit.devices import chosen_device, default_torch, inference
from qinco_lit.options import Count, checked
from qinco_lit.quantizers import Quantizer, truncated
from qinco_lit.quantizers.beam import checked_num_steps
from qinco_lit.quantizers.chunks import BLOCK_ROWS, assigned_rows, chunks
from qinco_lit.quantizers.precision import precision_for
from qinco_lit.quantizers.step import StepTables
from qinco_lit.quantizers.workers import for_each
from qinco_lit.vectors.code_packing import packed_bits


class Codec:
    """Vectors (n, dim) to codes (n, num_steps) and back, in bounded memory.

    numpy (or lists) in gives numpy out, torch in gives torch out (on the codec's device). Codes are uint8, uint16 when
    codebook_size > 256. A caller's autocast changes nothing. A pickle holds the weights; files of them are smaller.

    Args:
        quantizer: a trained model; the codec takes it over and freezes it.
        workspace_bytes: bound on intermediate results of a call; None chooses what runs fast on the device.
        precision: in which the network is evaluated (squared L2 is always float32). `auto` gives the codes of float32,
            in less time where bfloat16 is fast: all candidates are scored in bfloat16, the best again in float32
            (`screened`). `bfloat16` neither does that nor decodes in float32; `fast` is bfloat16 where that is fast,
            else float32.

    Attributes:
        folder: that it was loaded from; None of another codec.
        weights_sha256: of the weights in a folder that it was loaded from or saved to; None before, or until `identity`
            is asked.
        truncated_from: of a codec made by `truncated`: weights_sha256 and num_steps of the first longer one.
    """

    @checked
    def __init__(self, quantizer: Quantizer, *, workspace_bytes: Count | None = None, precision: str = "auto") -> None:
        if not isinstance(quantizer, Quantizer):
            raise ValueError(f"quantizer is of type {type(quantizer).__name__}: Codec.load(DIR) reads a folder")
        self.quantizer = quantizer.eval().requires_grad_(False)
        self.workspace_bytes = workspace_bytes
        self.folder: Path | None = None
        self.weights_sha256: str | None = None
        self.truncated_from: dict[str, Any] | None = None
        self._precision = precision
        self._prepare()

    def _prepare(self) -> None:
        """Compute what depends on weights and device only."""
        self._tables = self.quantizer.tables(precision_for(self._precision, self.device))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __repr__(self) -> str:
        bits = packed_bits(1, self.codebook_size)
        return f"Codec({self.num_steps} codes of {bits} bits, dim {self.dim}, lists {self.num_lists}, {self.device})"

    @property
    def tables(self) -> list[list[StepTables]]:
        """What is known of the networks before a vector is seen, in their precision (`Quantizer.tables`)."""
        return self._tables

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
        """In which candidates are scored on this device: float32, screened or bfloat16."""
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
        """SHA-256 (hexadecimal) by which codes know it: of the saved weights, of those that it was truncated from."""
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
        self.quantizer.to(chosen_device(device))
        self._prepare()
        return self

    @checked
    @default_torch()
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
        if list_ids is not None and self.num_lists is None:
            raise ValueError("list_ids are given, but this codec has no lists: only an IVF codec takes them")
        wanted, num_rows = checked_num_steps(num_steps, self.num_steps), x.shape[0]
        lists = None if self.num_lists is None else self._lists(x, list_ids)
        # on the device, where nothing waits for a chunk's codes before the next one begins
        codes = torch.empty((num_rows, wanted), dtype=getattr(torch, self.code_dtype.name), device=self.device)

        def encode(start: int, stop: int) -> None:
            own = None if lists is None else lists[start:stop].long()
            with inference():
                normal = self.quantizer.normalize(as_float32(x[start:stop], self.device, start))
                found = self.quantizer.encode_together(normal, search, self._tables, num_steps=wanted, list_ids=own)
            codes[start:stop] = found.to(codes.dtype)

        rows = self.quantizer.searched_rows(search, self.workspace_bytes, self._tables)
        for_each(encode, chunks(num_rows, rows), self.device, bounded=self.workspace_bytes is not None)
        results = [each if isinstance(x, Tensor) else each.cpu().numpy() for each in (lists, codes) if each is not None]
        return results[0] if lists is None else tuple(results)

    def _lists(self, x: ArrayLike, list_ids: Rows | None) -> Int[Tensor, " rows"]:
        """The given list ids, or those of the nearest centroids, int32 on the device."""
        num_rows = x.shape[0]
        lists = torch.empty(num_rows, dtype=torch.int32, device=self.device)
        if list_ids is not None:
            given = as_list_ids(list_ids, "vectors", tuple(x.shape))
            for start, stop in chunks(num_rows, BLOCK_ROWS):
                lists[start:stop] = self._checked_lists(given, start, stop)
            return lists

        def assign(start: int, stop: int) -> None:
            with inference():
                rows = self.quantizer.normalize(as_float32(x[start:stop], self.device, start))
                lists[start:stop] = self.quantizer.assign_lists(rows)

        rows = assigned_rows(self.workspace_bytes, self.dim)
        for_each(assign, chunks(num_rows, rows), self.device, bounded=self.workspace_bytes is not None)
        return lists

    @default_torch()
    def fit_preselector(self, x: Rows) -> None:
        """Fit pre-selectors (what `num_candidates` and `candidate_budget` need) to a codec that has none, like QINCo1.

        Args:
            x: (n, dim) training vectors; all are used, one or two thousand do.

        Raises:
            ValueError: as `encode`; no vectors.
        """
        x = as_vectors(x, self.dim, least=1)
        normalized = self.quantizer.normalize(as_float32(x[0 : x.shape[0]], self.device, 0))
        list_ids = None if self.num_lists is None else self.quantizer.assign_lists(normalized)
        self.quantizer.fit_preselectors(normalized, list_ids)
        self.folder = self.weights_sha256 = self.truncated_from = None  # it is another codec now
        self._prepare()

    @default_torch()
    def decode(self, codes: Rows, *, list_ids: Rows | None = None) -> Any:
        """Reconstructions (n, dim) float32 in raw space of codes (n, m), for any 1 <= m <= num_steps.

        Args:
            codes: integers.
            list_ids: (n,) the list of every vector; needed by, and only by, an IVF codec.

        Raises:
            ValueError: codes or list ids that are no integers, have the wrong shape, or are out of range.
        """
        codes, list_ids = self._checked_codes(codes, list_ids)
        num_rows, as_torch = codes.shape[0], isinstance(codes, Tensor)
        out = torch.empty((num_rows, self.dim), device=self.device if as_torch else "cpu")
        # all rows are checked first, so that nothing is decoded from bad codes
        if list_ids is not None or not arrays.always_below(codes, self.codebook_size):
            for start, stop in chunks(num_rows, BLOCK_ROWS):
                self._checked(codes, list_ids, start, stop)

        def decode(start: int, stop: int) -> None:
            *_, last = self._reconstructions(codes, list_ids, start, stop)
            out[start:stop] = self.quantizer.denormalize(last)

        rows = self.quantizer.decoded_rows(self.workspace_bytes)
        for_each(decode, chunks(num_rows, rows), self.device, bounded=self.workspace_bytes is not None)
        return out if as_torch else out.numpy()

    def decode_steps(self, codes: Rows, *, list_ids: Rows | None = None) -> Iterator[Any]:
        """Reconstructions (n, dim) in raw space after 1, 2, ..., m codes, in one pass over the steps."""
        codes, list_ids = self._checked_codes(codes, list_ids)
        (num_rows, num_steps), as_torch = codes.shape, isinstance(codes, Tensor)
        ranges = list(chunks(num_rows, self.quantizer.decoded_rows(self.workspace_bytes)))
        walks = [self._reconstructions(codes, list_ids, start, stop) for start, stop in ranges]
        for _ in range(num_steps):
            out = torch.empty((num_rows, self.dim), dtype=torch.float32, device=self.device if as_torch else "cpu")
            for walk, (start, stop) in zip(walks, ranges, strict=True):
                out[start:stop] = self.quantizer.denormalize(next(walk))
            yield out if as_torch else out.numpy()

    def _reconstructions(
        self, codes: ArrayLike, list_ids: ArrayLike | None, start: int, stop: int
    ) -> Iterator[Float[Tensor, "rows dim"]]:
        """Of one chunk, in normalised space after 1, 2, ... codes."""
        walk = self.quantizer.reconstructions(*self._checked(codes, list_ids, start, stop), self._tables)
        for _ in range(codes.shape[1]):
            with inference():
                x_hat = next(walk)
            yield x_hat

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

    def _checked(
        self, codes: ArrayLike, list_ids: ArrayLike | None, start: int, stop: int
    ) -> tuple[Int[Tensor, "rows codes"], Int[Tensor, " rows"] | None]:
        """Codes and list ids of a range of rows as int64 on the device."""
        own = as_int64(codes[start:stop], self.device, "codes", str(self.code_dtype))
        if not arrays.always_below(codes, self.codebook_size):
            check_range(own, self.codebook_size, word="code", option="codebook_size", first_row=start)
        return own, None if list_ids is None else self._checked_lists(list_ids, start, stop)

    @checked
    def truncated(self, num_steps: int) -> "Codec":
        """The codec of the first `num_steps` codes; it shares the weights, and `truncated_from` says of which it is.

        It decodes codes of this one that were cut to so many, and encodes as this one does with `num_steps`.

        Raises:
            ValueError: outside of 1 to this codec's steps, or a part of a product quantizer would have no codes.
        """
        model = truncated(self.quantizer, num_steps)
        shorter = Codec(model, workspace_bytes=self.workspace_bytes, precision=self._precision)
        shorter.truncated_from = self.truncated_from
        if shorter.truncated_from is None and num_steps < self.num_steps and self.weights_sha256 is not None:
            shorter.truncated_from = {"weights_sha256": self.weights_sha256, "num_steps": self.num_steps}
        return shorter

    @checked
    def save(self, directory: str | Path) -> None:
        """Write `config.json` and `weights.safetensors`; the directory appears complete or not at all.

        Raises:
            ValueError: the directory exists and is no codec (it is never overwritten).
        """
        self.weights_sha256 = codec_folder.write(Path(directory), self.quantizer, self.truncated_from)

    @classmethod
    @checked
    @default_torch()
    def load(
        cls,
        directory: str | Path,
        *,
        device: str | torch.device = "cpu",
        workspace_bytes: Count | None = None,
        precision: str = "auto",
    ) -> "Codec":
        """Read a codec directory; the other arguments are those of the class.

        Raises:
            FileNotFoundError: no codec there.
            ValueError: an unknown format, or weights that do not belong to the config or are damaged.
        """
        quantizer, config = codec_folder.read(Path(directory))
        codec = cls(quantizer.to(chosen_device(device)), workspace_bytes=workspace_bytes, precision=precision)
        codec.folder, codec.weights_sha256 = Path(directory), config["weights_sha256"]
        codec.truncated_from = config.get("truncated_from")
        return codec
