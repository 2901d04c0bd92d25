"""The quantizer of whole vectors: a space to code them in, and the parts that each code some of its dimensions."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qinco_lit.quantizers.beam import Search, checked_num_steps
from qinco_lit.quantizers.chunks import chunks, decoded_rows, keep_freed_memory, searched_rows
from qinco_lit.quantizers.precision import FLOAT32, Precision
from qinco_lit.quantizers.qinco import QINCo
from qinco_lit.quantizers.space import CodedSpace
from qinco_lit.quantizers.step import StepTables
from qinco_lit.quantizers.workers import for_each

ORDERS = ("steps", "parts")
Parts = list[Float[Tensor, "batch _"] | None]  # of vectors; None before the first code of one without a start


class StepLosses(NamedTuple):
    """Mean over batch and dimensions of the squared error, in normalised space (docs/training.md).

    `mse` is the raw-space error of the last steps, summed over dimensions, in float64 and without gradient.
    """

    reconstruction: Float[Tensor, " steps"]
    preselector: Float[Tensor, " preselectors"]
    mse: Float[Tensor, ""]


class Quantizer(CodedSpace):
    """Vectors to codes: y = R x is normalised, assigned to a list, and coded from there by one QINCo or several.

    Part p codes the dimensions `part_slices[p]` of normalised vectors. One part is a QINCo; several are a PQ-QINCo
    ("Residual Quantization with Implicit Neural Codebooks", ICML 2024). An IVF model has a list for the whole vector,
    whose id is no code: its parts start at their dimensions of the list's centroid.

    Args:
        dim: dimension of the vectors (D).
        num_parts: sub-vectors of a product; None: a quantizer that is none, of one part.
        part_dims: dimensions of each; None: equal.
        num_steps: codes per vector, of all parts together: the papers' 2x4x8 is num_parts=2, num_steps=8.
        part_steps: codes of each part; None: equal.
        opq: whether there is a rotation (OPQ); it is trained with faiss and then fixed.
        order: of the columns of codes. `steps`: the first codes of all parts, then the second ones, so that every
            prefix says something of all of the vector. `parts`: all codes of the first part first (QINCo1 release).
        num_lists: of a frozen coarse codebook (IVF); None for a plain model.
        part: the other arguments of `QINCo`, the same for every part.

    Attributes:
        part_columns: columns of the codes of each part.

    Raises:
        ValueError: sizes that do not add up, or that `QINCo` refuses.
    """

    parts: "Sequence[QINCo]"  # a ModuleList

    def __init__(
        self,
        dim: int,
        *,
        num_parts: int | None = None,
        part_dims: Sequence[int] | None = None,
        num_steps: int = 8,
        part_steps: Sequence[int] | None = None,
        opq: bool = False,
        order: str = "steps",
        num_lists: int | None = None,
        **part: Any,
    ) -> None:
        for name, value in {"dim": dim, "num_steps": num_steps, "num_parts": num_parts}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if order not in ORDERS:
            raise ValueError(f"order={order} is unknown: choose from {', '.join(ORDERS)}")
        if num_parts is None and (part_dims is not None or part_steps is not None or opq):
            raise ValueError(f"part_dims={part_dims}, part_steps={part_steps}, opq={opq}: give num_parts with them")
        dims = _shares("part_dims", part_dims, num_parts or 1, "dim", dim)
        steps = _shares("part_steps", part_steps, num_parts or 1, "num_steps", num_steps)
        super().__init__(dims, opq=opq, num_lists=num_lists)
        self.num_steps, self._is_product, self._order = num_steps, num_parts is not None, order
        self._models = tuple(
            QINCo(width, num_steps=number, has_start=num_lists is not None, **part)
            for width, number in zip(dims, steps, strict=True)
        )
        self.parts = nn.ModuleList(self._models)  # type: ignore[assignment]
        self.codebook_size = self.parts[0].codebook_size
        places = [(step, one) for one, number in enumerate(steps) for step in range(number)]  # of columns
        self._places = sorted(places) if order == "steps" else places
        columns = {place: column for column, place in enumerate(self._places)}
        self.part_columns = [[columns[step, one] for step in range(number)] for one, number in enumerate(steps)]

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of the constructor but `dim`; those of products where it is one."""
        part = {name: value for name, value in self.parts[0].config.items() if name != "num_steps"}
        if not self._is_product:
            return {"num_steps": self.num_steps, **part, "num_lists": self.num_lists}
        return {
            "num_parts": len(self.parts),
            "part_dims": [one.dim for one in self.parts],
            "num_steps": self.num_steps,
            "part_steps": [one.num_steps for one in self.parts],
            "opq": self.rotation is not None,
            "order": self._order,
            **part,
            "num_lists": self.num_lists,
        }

    @property
    def default_search(self) -> Search:
        """The search of every part."""
        return self.parts[0].default_search

    @default_search.setter
    def default_search(self, search: Search) -> None:
        for part in self.parts:
            part.default_search = search

    def search_for(self, **options: int | None) -> Search:
        """`QINCo.search_for` of every part."""
        searches = [part.search_for(**options) for part in self.parts]  # each says whether it can
        return searches[0]

    def tables(self, precision: Precision = FLOAT32) -> list[list[StepTables]]:
        """Those of every part (`QINCo.tables`)."""
        return [part.tables(precision) for part in self.parts]

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
    ) -> Int[Tensor, "batch codes"]:
        """Codes of normalised vectors (int64), found for each part by itself.

        Args:
            x: vectors in normalised space, float32.
            search: from `search_for`; None is the model's own.
            num_steps: codes wanted of all parts, in the order of the columns; the search ends after as many. None: all.
            list_ids: the list of each vector, of a model with lists (`assign_lists` finds them).
            workspace_bytes: bound on the memory of intermediate results, at least one vector at a time.
            tables: from `tables()`, which set the precision, to share them between calls; None is float32.
        """
        search = self.default_search if search is None else search
        tables = self.tables() if tables is None else tables
        wanted = checked_num_steps(num_steps, self.num_steps)
        out = torch.empty((len(x), wanted), dtype=torch.int64, device=x.device)

        def encode(start: int, stop: int) -> None:
            own = None if list_ids is None else list_ids[start:stop]
            out[start:stop] = self.encode_together(x[start:stop], search, tables, num_steps=wanted, list_ids=own)

        for_each(encode, chunks(len(x), self.searched_rows(search, workspace_bytes, tables)), x.device)
        return out

    @torch.no_grad()
    def encode_together(
        self,
        x: Float[Tensor, "batch dim"],
        search: Search,
        tables: list[list[StepTables]],
        *,
        num_steps: int,
        list_ids: Int[Tensor, " batch"] | None,
    ) -> Int[Tensor, "batch codes"]:
        """As `encode`, of all of these vectors at once: those of one chunk of `searched_rows`."""
        if x.device.type == "cpu":
            keep_freed_memory()
        codes: dict[int, Tensor] = {}
        parts = zip(self.parts, self.sliced(x), self.starts(list_ids), self.part_columns, tables, strict=True)
        with torch.autocast(x.device.type, enabled=False):  # the tables say what is rounded, and nothing else is
            for part, own, start, columns, table in parts:
                reached = [column for column in columns if column < num_steps]
                if reached:
                    found = part.encode(own.contiguous(), start, search, table, num_steps=len(reached))
                    codes |= zip(reached, found.unbind(1), strict=True)
        return torch.stack([codes[column] for column in range(num_steps)], dim=1)

    def searched_rows(
        self, search: Search, workspace_bytes: int | None, tables: list[list[StepTables]] | None = None
    ) -> int:
        """How many vectors are searched together so that what is in between stays within the workspace.

        `tables` None are those of float32.
        """
        half = any(table.scoring.terms.stream.dtype != torch.float32 for part in tables or [] for table in part)
        return min(
            searched_rows(
                search, workspace_bytes, self.device,
                widths=_widths(part), scores_first=self.num_lists is None, half_precision=half,
            )
            for part in self.parts
        )  # fmt: skip

    def decoded_rows(self, workspace_bytes: int | None) -> int:
        """How many vectors are decoded together."""
        widths = self.dim, max(part.embed_dim for part in self.parts), max(part.hidden_dim for part in self.parts)
        return decoded_rows(workspace_bytes, self.device, widths=widths)

    def reconstructions(
        self,
        codes: Int[Tensor, "batch codes"],
        list_ids: Int[Tensor, " batch"] | None = None,
        tables: list[list[StepTables]] | None = None,
    ) -> Iterator[Float[Tensor, "batch dim"]]:
        """Normalised reconstruction after code 0, 1, ... for as many as are given.

        Parts without a code yet are at their mean, or at their centroid. Differentiable; `tables` (from `tables()`)
        set the precision, None is the weights as they are.
        """
        x_hat = self.starts(list_ids)
        for column, own in enumerate(codes.unbind(1)):
            self.advance(column, own, x_hat, tables)
            yield self.joined(x_hat, len(codes))

    def advance(
        self, column: int, codes: Int[Tensor, " batch"], x_hat: Parts, tables: list[list[StepTables]] | None = None
    ) -> None:
        """Read the codes of a column: the reconstructions of the parts, at first `starts`, change in place."""
        step, one = self._places[column]  # of _models, as a ModuleList takes ten microseconds to look one up
        x_hat[one] = self._models[one].advance(step, codes, x_hat[one], None if tables is None else tables[one])

    def joined(self, parts: Parts, rows: int) -> Float[Tensor, "batch dim"]:
        """Normalised reconstructions of so many whole vectors from those of their parts; None is the mean."""
        if len(parts) == 1 and parts[0] is not None:
            return parts[0]
        zeros = (torch.zeros((rows, part.dim), device=self.device) for part in self.parts)
        return torch.cat([zero if part is None else part for part, zero in zip(parts, zeros, strict=True)], dim=1)

    def part_codes(self, codes: Int[Tensor, "batch codes"]) -> list[Int[Tensor, "batch _"]]:
        """The columns of every part, of all codes of vectors."""
        # by `stack`: a list as an index would be copied to a GPU, which waits for that
        every = codes.unbind(1)
        return [torch.stack([every[column] for column in columns], dim=1) for columns in self.part_columns]

    # -- training -----------------------------------------------------------------------------------------------------

    def losses(
        self,
        x: Float[Tensor, "batch dim"],
        codes: Int[Tensor, "batch codes"],
        list_ids: Int[Tensor, " batch"] | None = None,
    ) -> StepLosses:
        """Training losses of all parts, one after the other (`QINCo.losses`); `mse` is their sum."""
        reconstruction, preselector, mse = [], [], []
        own = zip(self.sliced(x), self.part_codes(codes), self.starts(list_ids), strict=True)
        for part, arguments, scale in zip(self.parts, own, self.squared_scales(), strict=True):
            steps, preselectors = part.losses(*arguments)
            reconstruction.append(steps)
            preselector.append(preselectors)
            mse.append(steps[-1].detach().double() * (scale * part.dim))
        return StepLosses(torch.cat(reconstruction), torch.cat(preselector), torch.stack(mse).sum())

    def forward(
        self,
        x: Float[Tensor, "batch dim"],
        codes: Int[Tensor, "batch codes"],
        list_ids: Int[Tensor, " batch"] | None = None,
    ) -> StepLosses:
        """`losses`, under the name that DDP wraps."""
        return self.losses(x, codes, list_ids)

    @torch.no_grad()
    def fit_preselectors(self, x: Float[Tensor, "rows dim"], list_ids: Int[Tensor, " rows"] | None = None) -> None:
        """Fit the pre-selectors of every part to normalised vectors (`QINCo.fit_preselectors`)."""
        tables, every = self.tables(), self.search_for(num_candidates=0)
        codes = self.encode(x, every, list_ids=list_ids, tables=tables)
        together = self.searched_rows(self.search_for(num_candidates=0, beam_size=1), None)
        for part, own, start, table in zip(
            self.parts, self.part_codes(codes), self.starts(list_ids), tables, strict=True
        ):
            part.fit_preselectors(own, start, table, rows_together=together)

    # -- what it costs ------------------------------------------------------------------------------------------------

    def encode_multiplications(self, search: Search) -> int:
        """Multiplications of matrix products to encode one vector in float32; a list id is taken as known."""
        return self._rotation_multiplications + sum(part.encode_multiplications(search) for part in self.parts)

    def decode_multiplications(self) -> int:
        """Multiplications of matrix products to decode all codes of one vector, one step after the other."""
        return self._rotation_multiplications + sum(part.decode_multiplications() for part in self.parts)

    @property
    def _rotation_multiplications(self) -> int:
        return 0 if self.rotation is None else self.dim**2


def build_quantizer(dim: int, **config: Any) -> Quantizer:
    """The untrained quantizer of a configuration: a product of parts where it has `num_parts`.

    Raises:
        ValueError: sizes that are out of range or do not add up.
        TypeError: an argument that there is not.
    """
    return Quantizer(dim, **config)


def truncated(quantizer: Quantizer, num_steps: int) -> Quantizer:
    """The quantizer of the first `num_steps` columns of codes; it shares the weights.

    Raises:
        ValueError: outside of 1 to the model's steps, or a part of a product would have no codes.
    """
    wanted = checked_num_steps(num_steps, quantizer.num_steps)
    needed = 1 + max(columns[0] for columns in quantizer.part_columns)
    if wanted < needed:
        raise ValueError(f"num_steps={wanted}: a part would have no codes, give {needed} to {quantizer.num_steps}")
    config = {**quantizer.config, "num_steps": wanted}
    if "part_steps" in config:
        config["part_steps"] = [sum(column < wanted for column in columns) for columns in quantizer.part_columns]
    with torch.device("meta"):
        shorter = build_quantizer(quantizer.dim, **config)
    own = quantizer.state_dict()
    shorter.load_state_dict({name: own[name] for name in shorter.state_dict()}, assign=True)
    return shorter.train(quantizer.training)


def _widths(part: QINCo) -> tuple[int, int, int]:
    return part.dim, part.embed_dim, part.hidden_dim


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
