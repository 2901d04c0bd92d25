"""PQ-QINCo: independent quantizers of sub-vectors, behind an optional rotation."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from qinco_lit.quantizers.beam import Search, checked_num_steps
from qinco_lit.quantizers.kept import Kept
from qinco_lit.quantizers.kmeans import half_squared_norms, nearest_codeword
from qinco_lit.quantizers.losses import StepLosses
from qinco_lit.quantizers.precision import FLOAT32, Precision
from qinco_lit.quantizers.qinco import QINCo
from qinco_lit.quantizers.step import StepTables

ORDERS = ("steps", "parts")


class ProductQINCo(nn.Module):
    """A QINCo per sub-vector (PQ-QINCo, "Residual Quantization with Implicit Neural Codebooks", ICML 2024).

    Its vectors are y = R x with a rotation R, or x itself, and part p sees the dimensions `part_slices[p]` of y. In
    normalised space every part has its own mean and scale. An IVF model finds the list of the whole vector; the
    centroids of a part are its dimensions of the rotated centroids.

    Args:
        dim: dimension of the vectors (D).
        num_parts: sub-vectors.
        part_dims: dimensions of each; None: equal.
        num_steps: codes per vector, of all parts together: the papers' 2x4x8 is num_parts=2, num_steps=8.
        part_steps: codes of each part; None: equal.
        opq: whether there is a rotation (OPQ); it is trained with faiss and then fixed.
        order: of the columns of codes. `steps`: the first codes of all parts, then the second ones, so that every
            prefix says something of all of the vector. `parts`: all codes of the first part first (QINCo1 release).
        num_lists: of a coarse codebook that comes first (IVF); None for a plain model.
        part: the other arguments of `QINCo`, the same for every part.

    Raises:
        ValueError: sizes that do not add up, or that `QINCo` refuses.
    """

    rotation: Tensor | None
    parts: "Sequence[QINCo]"  # a ModuleList

    def __init__(
        self,
        dim: int,
        *,
        num_parts: int = 2,
        part_dims: Sequence[int] | None = None,
        num_steps: int = 8,
        part_steps: Sequence[int] | None = None,
        opq: bool = False,
        order: str = "steps",
        num_lists: int | None = None,
        **part: Any,
    ) -> None:
        super().__init__()
        if num_parts < 1:
            raise ValueError(f"num_parts={num_parts} must be at least 1")
        if order not in ORDERS:
            raise ValueError(f"order={order} is unknown: choose from {', '.join(ORDERS)}")
        dims = _shares("part_dims", part_dims, num_parts, "dim", dim)
        steps = _shares("part_steps", part_steps, num_parts, "num_steps", num_steps)
        self.dim, self.num_steps, self.num_lists, self._opq, self._order = dim, num_steps, num_lists, opq, order
        self.parts = nn.ModuleList(  # type: ignore[assignment]
            QINCo(width, num_steps=number, num_lists=num_lists, **part)
            for width, number in zip(dims, steps, strict=True)
        )
        self.codebook_size, self.hidden_dim = self.parts[0].codebook_size, self.parts[0].hidden_dim
        self.embed_dim = max(one.embed_dim for one in self.parts)
        self._scaled_centroids = Kept(_scaled)
        self.register_buffer("rotation", torch.eye(dim) if opq else None)
        self.part_slices = [slice(end - width, end) for width, end in zip(dims, accumulate(dims), strict=True)]
        places = [(step, one) for one, number in enumerate(steps) for step in range(number)]
        # (step, part) of every column
        self._places = sorted(places) if order == "steps" else places
        columns = {place: column for column, place in enumerate(self._places)}
        self.part_columns = [[columns[step, one] for step in range(number)] for one, number in enumerate(steps)]

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of the constructor but `dim`."""
        part = {name: value for name, value in self.parts[0].config.items() if name not in ("num_steps", "num_lists")}
        return {
            "num_parts": len(self.parts),
            "part_dims": [one.dim for one in self.parts],
            "num_steps": self.num_steps,
            "part_steps": [one.num_steps for one in self.parts],
            "opq": self._opq,
            "order": self._order,
            **part,
            "num_lists": self.num_lists,
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.parts[0].device

    @property
    def num_columns(self) -> int:
        """Columns of codes: one per step of each part, after the list id of an IVF model."""
        return self.num_steps + (self.num_lists is not None)

    @property
    def default_search(self) -> Search:
        """The search of every part."""
        return self.parts[0].default_search

    @default_search.setter
    def default_search(self, search: Search) -> None:
        for part in self.parts:
            part.default_search = search

    def search_for(
        self,
        *,
        beam_size: int | None = None,
        num_candidates: int | None = None,
        candidate_budget: int | None = None,
    ) -> Search:
        """As of `QINCo`, for every part."""
        options = {"beam_size": beam_size, "num_candidates": num_candidates, "candidate_budget": candidate_budget}
        searches = [part.search_for(**options) for part in self.parts]  # each says whether it can
        return searches[0]

    def tables(self, precision: Precision = FLOAT32, *, compiled: bool = False) -> list[list[StepTables]]:
        """Those of every part (`QINCo.tables`)."""
        return [part.tables(precision, compiled=compiled) for part in self.parts]

    def vectors_per_chunk(
        self, search: Search, workspace_bytes: int | None, device: torch.device, *, half_precision: bool = False
    ) -> int:
        """How many vectors every part can search together within the workspace."""
        return min(
            part.vectors_per_chunk(search, workspace_bytes, device, half_precision=half_precision)
            for part in self.parts
        )

    # -- spaces -------------------------------------------------------------------------------------------------------

    def rotated(self, x: Shaped[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """R x of every row, float32; x itself without a rotation."""
        if self.rotation is None:
            return x.float()
        with torch.autocast(x.device.type, enabled=False):
            return x.float() @ self.rotation.T

    def normalize(self, x: Shaped[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Rotated, and then normalised by each part, in float32, from any real dtype."""
        y = self.rotated(x)
        return torch.cat([part.normalize(y[:, dims]) for part, dims in self._sliced()], dim=1)

    def denormalize(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Back to raw space."""
        y = torch.cat([part.denormalize(x[:, dims]) for part, dims in self._sliced()], dim=1)
        if self.rotation is None:
            return y
        with torch.autocast(x.device.type, enabled=False):
            return y @ self.rotation

    def raw_squared_error(self, x_hat: Float[Tensor, "batch dim"], x: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
        """Sum over rows and dimensions, in raw space, float64, of the error between normalised vectors."""
        errors = [part.raw_squared_error(x_hat[:, dims], x[:, dims]) for part, dims in self._sliced()]
        return torch.stack(errors).sum()

    def set_centroids(self, centroids: Float[Tensor, "lists dim"]) -> None:
        """Take the coarse centroids, in raw space; rotation and normalisation must be known."""
        y = self.rotated(centroids)
        for part, dims in self._sliced():
            part.set_centroids(y[:, dims])

    def raw_centroids(self) -> Float[Tensor, "lists dim"] | None:
        """The coarse centroids in raw space, a copy; None for a plain model."""
        if self.num_lists is None:
            return None
        return self.denormalize(torch.cat([part.first_table for part in self.parts], dim=1))

    @torch.no_grad()
    def assign_lists(self, x: Float[Tensor, "batch dim"]) -> Int[Tensor, " batch"]:
        """List of each normalised vector (int64): that of the nearest centroid in raw space, by brute force."""
        # parts have their own scales: distances in normalised space would weigh them otherwise
        with torch.autocast(x.device.type, enabled=False):
            scaled = [x[:, dims] * part.data_std for part, dims in self._sliced()]
            tables, stds = [part.first_table for part in self.parts], [part.data_std for part in self.parts]
            return nearest_codeword(torch.cat(scaled, dim=1), *self._scaled_centroids(*tables, *stds))

    def _sliced(self) -> Iterator[tuple[QINCo, slice]]:
        return zip(self.parts, self.part_slices, strict=True)

    # -- codes --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        x: Float[Tensor, "batch dim"],
        search: Search | None = None,
        *,
        num_steps: int | None = None,
        list_ids: Int[Tensor, " batch"] | None = None,
        workspace_bytes: int | None = None,
        tables: list[list[StepTables]] | None = None,
    ) -> Int[Tensor, "batch columns"]:
        """Codes of normalised vectors (int64), found for each part by itself; IVF models put the list id first.

        The arguments are those of `QINCo.encode`; `num_steps` counts codes of all parts, in the order of the columns.
        """
        wanted = checked_num_steps(num_steps, self.num_steps)
        tables = self.tables() if tables is None else tables
        first = int(self.num_lists is not None)
        if first and list_ids is None:
            list_ids = self.assign_lists(x)
        codes = {} if list_ids is None else {0: list_ids}
        for (part, dims), columns, own in zip(self._sliced(), self.part_columns, tables, strict=True):
            own_columns = [first + column for column in columns if column < wanted]
            if own_columns:
                found = part.encode(
                    x[:, dims].contiguous(),
                    search,
                    num_steps=len(own_columns),
                    list_ids=list_ids,
                    workspace_bytes=workspace_bytes,
                    tables=own,
                )
                codes |= zip(own_columns, found[:, first:].unbind(1), strict=True)
        return torch.stack([codes[column] for column in range(first + wanted)], dim=1)

    def advance(
        self,
        index: int,
        codes: Int[Tensor, " batch"],
        x_hat: Float[Tensor, "batch dim"] | None,
        tables: list[list[StepTables]] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Normalised reconstruction after column `index` of the codes from the one before (None at the first).

        Parts without a code yet are at their mean, or at their centroid.
        """
        first = int(self.num_lists is not None)
        if index < first:
            return torch.cat([F.embedding(codes, part.first_table) for part in self.parts], dim=1)
        step, number = self._places[index - first]
        part, dims = self.parts[number], self.part_slices[number]
        x_hat = torch.zeros((len(codes), self.dim), device=codes.device) if x_hat is None else x_hat.clone()
        before = None if step + first == 0 else x_hat[:, dims].contiguous()
        after = part.advance(step + first, codes, before, None if tables is None else tables[number])
        x_hat[:, dims] = after.to(x_hat.dtype)
        return x_hat

    def reconstructions(self, codes: Int[Tensor, "batch columns"]) -> Iterator[Float[Tensor, "batch dim"]]:
        """Normalised reconstruction after column 0, 1, ... for as many codes as are given."""
        x_hat = None
        for index in range(codes.shape[1]):
            x_hat = self.advance(index, codes[:, index], x_hat)
            yield x_hat

    def part_codes(self, codes: Int[Tensor, "batch columns"]) -> list[Int[Tensor, "batch part_columns"]]:
        """The columns of every part, of all codes of vectors; after the list ids, where there are any."""
        # by `stack`: a list as an index would be copied to a GPU, which waits for that
        every, first = codes.unbind(1), int(self.num_lists is not None)
        chosen = ([*every[:first], *(every[first + column] for column in columns)] for columns in self.part_columns)
        return [torch.stack(columns, dim=1) for columns in chosen]

    def losses(self, x: Float[Tensor, "batch dim"], codes: Int[Tensor, "batch columns"]) -> StepLosses:
        """Training losses of all parts, one after the other (`QINCo.losses`); `mse` is their sum."""
        parts = [
            part.losses(x[:, dims], own)
            for (part, dims), own in zip(self._sliced(), self.part_codes(codes), strict=True)
        ]
        return StepLosses(
            torch.cat([losses.reconstruction for losses in parts]),
            torch.cat([losses.preselector for losses in parts]),
            torch.stack([losses.mse for losses in parts]).sum(),
        )

    def forward(self, x: Float[Tensor, "batch dim"], codes: Int[Tensor, "batch columns"]) -> StepLosses:
        """`losses`, under the name that DDP wraps."""
        return self.losses(x, codes)


def _scaled(*tables_and_stds: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids of all parts side by side, each part at its size in raw space, and half their squared norms."""
    number = len(tables_and_stds) // 2
    parts = zip(tables_and_stds[:number], tables_and_stds[number:], strict=True)
    centroids = torch.cat([table * std for table, std in parts], dim=1)
    return centroids, half_squared_norms(centroids)


def _shares(name: str, given: Sequence[int] | None, num_parts: int, whole: str, total: int) -> list[int]:
    """What each part has of the total: as given, or the same."""
    if given is None:
        if 0 < total < num_parts:
            raise ValueError(f"num_parts={num_parts} is more than {whole}={total}: give at most {total}")
        if total < 1 or total % num_parts:
            raise ValueError(f"{whole}={total} is no multiple of num_parts={num_parts}: say {name}=[...]")
        return [total // num_parts] * num_parts
    shares = list(given) if isinstance(given, Sequence) else []
    if (
        any(type(share) is not int for share in shares)
        or len(shares) != num_parts
        or min(shares) < 1
        or sum(shares) != total
    ):
        raise ValueError(f"{name}={given}: give num_parts={num_parts} numbers from 1 that add up to {whole}={total}")
    return shares
