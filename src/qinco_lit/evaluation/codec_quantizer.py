"""A codec as something that is measured: with the breadth of its search and the number of codes fixed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qinco_lit.codec import Codec
from qinco_lit.codec_folder import weights_sha256
from qinco_lit.vectors.code_packing import packed_bits


@dataclass(frozen=True)
class CodecQuantizer:
    """Encodes as `Codec.encode` with these options; the codes of an IVF codec come after a column of list ids.

    `own_steps`: codes that are searched for, when fewer than the codec's; None is all of them.
    """

    codec: Codec
    beam_size: int | None = None
    num_candidates: int | None = None
    candidate_budget: int | None = None
    own_steps: int | None = None

    @property
    def num_steps(self) -> int:
        """Codes per vector."""
        return self.codec.num_steps if self.own_steps is None else self.own_steps

    @property
    def codebook_size(self) -> int:
        """Values a code can take."""
        return self.codec.codebook_size

    @property
    def bits_per_vector(self) -> int:
        """Bits of the packed codes, as `Codec.bits_per_vector`."""
        return packed_bits(self.num_steps, self.codebook_size)

    def rate(self) -> dict[str, Any]:
        """Rate of the codes, as records hold it."""
        return {
            "bytes_per_vector": self.bits_per_vector / 8,
            "num_steps": self.num_steps,
            "codebook_size": self.codebook_size,
        }

    def facts(self) -> dict[str, Any]:
        """What this is and how it searches, as records hold it. Raises ValueError for a search it cannot do."""
        search = self.codec.quantizer.search_for(
            beam_size=self.beam_size, num_candidates=self.num_candidates, candidate_budget=self.candidate_budget
        )
        return {
            "path": None if self.codec.folder is None else str(self.codec.folder),
            "num_steps": self.num_steps,
            "bits_per_vector": self.bits_per_vector,
            "model": self.codec.quantizer.config,
            "weights_sha256": self.codec.weights_sha256 or weights_sha256(self.codec.quantizer),
            "truncated_from": self.codec.truncated_from,
            **search.record(),
            "precision": self.codec.precision,
        }

    def encode(self, x: Any) -> Any:
        """Codes (n, num_steps) of raw vectors (n, dim), of an IVF codec after the list ids."""
        codes = self.codec.encode(
            x,
            beam_size=self.beam_size,
            num_candidates=self.num_candidates,
            candidate_budget=self.candidate_budget,
            num_steps=self.own_steps,
        )
        return codes if self.codec.num_lists is None else np.column_stack(codes)

    def decode(self, codes: Any) -> Any:
        """Reconstructions (n, dim) in raw space."""
        return self.codec.decode(codes[:, -self.num_steps :], **self._list_ids(codes))

    def decode_steps(self, codes: Any) -> Iterator[Any]:
        """Reconstructions after 1..num_steps codes."""
        return self.codec.decode_steps(codes[:, -self.num_steps :], **self._list_ids(codes))

    def _list_ids(self, codes: Any) -> dict[str, Any]:
        return {} if self.codec.num_lists is None else {"list_ids": codes[:, 0]}
